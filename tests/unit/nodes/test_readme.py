"""The node of nodes/README.md is as short as it says, and its test there passes and can fail."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.runtime.settings import ROOT

NODE, TEST, *_ = re.findall(
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
