"""The node of nodes/README.md, run as written, joins a running mesh and is heard."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.runtime.settings import ROOT
from tests.system.meshes import Mesh

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),  # eleven processes start and drain
]


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path)
    mesh.environment["GENESIS__SPREAD__ENABLED"] = "true"
    try:
        mesh.json("up", "--detach")
        yield mesh
    finally:
        mesh.run("down")


def state(mesh: Mesh, node: str) -> str:
    return next((r["state"] for r in mesh.json("ps")["nodes"] if r["node"] == node), "ABSENT")


def test_node_of_the_readme_joins_and_is_heard(mesh: Mesh, tmp_path: Path) -> None:
    text = (ROOT / "nodes/README.md").read_text()
    program, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "spread.py"
    file.write_text(program)
    node = subprocess.Popen([sys.executable, str(file)], env=mesh.environment)
    tail = subprocess.Popen(
        [sys.executable, "-c", "from mesh.cli import main; main()", "tail", "x.spread."],
        env=mesh.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert tail.stdout is not None
        heard = json.loads(tail.stdout.readline())
        assert heard["topic"] == "x.spread.BTC-USDT.SYNTHETIC"
        deadline = time.monotonic() + 20
        while state(mesh, "spread") != "UP":
            assert time.monotonic() < deadline
        assert mesh.json("ps")["mode"] == "NORMAL"
    finally:
        for process in (tail, node):
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert node.returncode == 0
