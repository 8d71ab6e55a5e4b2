"""kill -9 of each node in turn while the mesh trades: all come back, and nothing is lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.runtime.client import Client
from mesh.runtime.settings import Paths, load_paths
from nodes.topology import TOPOLOGY
from tests.system.books import assert_books_agree, pages, settle, wait_for
from tests.system.meshes import Mesh

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),  # eleven deaths, each followed by a dwell of two seconds
]


@pytest.fixture
def trading(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh whose averages are so short that it trades all the time."""
    mesh = Mesh(tmp_path)
    mesh.environment |= {
        "GENESIS__STRATEGY__EMA__PARAMS__FAST": "2",
        "GENESIS__STRATEGY__EMA__PARAMS__SLOW": "3",
    }
    try:
        assert mesh.json("up", "--detach")["nodes"] == len(TOPOLOGY)
        yield mesh
    finally:
        mesh.run("down")
    assert mesh.processes() == []
    assert mesh.leftovers() == []


@pytest.fixture
def paths(trading: Mesh, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("GENESIS_HOME", str(trading.home))
    return load_paths()


async def kill(mesh: Client, node: str) -> None:
    """Kill *node* and wait until it is back in its next run and the mode is NORMAL."""
    status = await mesh.call("coordinator.status", None, 5.0)
    before = next(row for row in status["nodes"] if row["node"] == node)
    os.kill(before["pid"], signal.SIGKILL)

    async def back() -> bool:
        status = await mesh.call("coordinator.status", None, 2.0)
        rows = {row["node"]: row for row in status["nodes"]}
        up = all(rows[name]["state"] == "UP" for name in TOPOLOGY)
        return up and status["mode"] == "NORMAL" and rows[node]["epoch"] > before["epoch"]

    await wait_for(back, f"{node} is back")


async def test_every_node_comes_back_and_no_fill_is_lost_or_doubled(paths: Paths) -> None:
    async with Client(paths) as mesh:

        async def traded(count: int) -> bool:
            return len(await pages(mesh, "execution.fills")) >= count

        await wait_for(lambda: traded(1), "the first fill")
        for node in TOPOLOGY:
            await kill(mesh, node)
        known = len(await pages(mesh, "execution.fills"))
        await wait_for(lambda: traded(known + 1), "trading goes on")
        await settle(mesh, paths)
        await assert_books_agree(mesh, paths)
