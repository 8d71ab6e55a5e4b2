"""The nodes of nodes/README.md do what they say, and the test there passes and can fail."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.protocol.control import DURABLE
from mesh.runtime.settings import ROOT
from mesh.sim.loopback import LoopbackMesh

NODE, TEST, COUNTER = re.findall(
    r"```python\n(.*?)```", (ROOT / "nodes/README.md").read_text("utf-8"), re.DOTALL
)


def outcome_of(place: Path, node: str) -> "subprocess.CompletedProcess[str]":
    (place / "spread.py").write_text(node)
    (place / "test_spread.py").write_text(TEST)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_spread.py"],
        cwd=place,
        env={"PYTHONPATH": f"{place}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_node_has_twenty_lines_at_most() -> None:
    assert len([line for line in NODE.splitlines() if line.strip()]) <= 20


def test_its_test_passes(tmp_path: Path) -> None:
    ran = outcome_of(tmp_path, NODE)
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"x.spread." + quote', '"y.spread." + quote'),  # undeclared
        ('"md.quote."', '"md.trade."'),
    ],
)
def test_its_test_fails_for_a_wrong_node(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in NODE
    assert outcome_of(tmp_path, NODE.replace(right, wrong)).returncode == 1


@pytest.mark.parametrize("end", [LoopbackMesh.stop, LoopbackMesh.kill])
def test_its_counter_counts_each_bar_once_over_all_runs(
    end: Callable[[LoopbackMesh, str], None],
) -> None:
    names: dict[str, Any] = {"__name__": "counter"}
    exec(COUNTER, names)
    with LoopbackMesh() as mesh:
        for run in range(3):
            counter = names["Counter"]()
            mesh.start("counter", counter)
            mesh.publish("md.bar.1s.X", run, DURABLE)
            mesh.advance(2.0)  # saved
            mesh.publish("md.bar.1s.X", run, DURABLE)
            assert counter.count == 2 * run + 2
            end(mesh, "counter")
