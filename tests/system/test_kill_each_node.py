"""kill -9 of each node in turn while the mesh trades: all come back, and nothing is lost.

The venue's own journal is the truth that execution and recorder are compared with.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mesh.protocol import envelope
from mesh.runtime.client import Client
from mesh.runtime.settings import Paths, load_paths
from mesh.storage.journal import Journal
from nodes.domain.numbers import parse
from nodes.domain.orders import TERMINAL, Fill, VenueReport
from nodes.domain.plain import plain
from nodes.topology import TOPOLOGY
from tests.system.meshes import Mesh

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),  # eleven deaths, each followed by a dwell of two seconds
]
RECOVERY_S = 25.0  # a bound against hanging on a busy machine; figures are measured in bench/


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


async def pages(mesh: Client, method: str, **query: object) -> list[dict[str, Any]]:
    """Return every item of a paged list, oldest first."""
    items: list[dict[str, Any]] = []
    cursor: object = None
    while True:
        page = await mesh.call(method, {**query, "limit": 500, "cursor": cursor}, 5.0)
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items[::-1]


async def wait_for(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Return once *condition* holds; a node that is away is asked again."""
    async with asyncio.timeout(RECOVERY_S):
        while True:
            try:
                if await condition():
                    return
            except Exception as error:  # noqa: BLE001  # nodes are being killed: any refusal is "not yet"
                what = f"{what} ({error!r})"[:500]
            await asyncio.sleep(0.1)  # the poll of a deadline


def venue_fills(paths: Paths) -> list[Fill]:
    """Return what the venue has filled, from its journal on disk."""
    journal = Journal(paths.state / "paper_venue.sqlite3")
    reports = [
        envelope.decode_value(envelope.decode_event(row.frame).payload, VenueReport)
        for row in journal.read()
        if row.topic.startswith("venue.report.")
    ]
    journal.close()
    return [report.fill for report in reports if report.fill is not None]


async def kill_each(mesh: Client) -> None:
    for node in TOPOLOGY:
        status = await mesh.call("coordinator.status", None, 5.0)
        before = next(row for row in status["nodes"] if row["node"] == node)
        os.kill(before["pid"], signal.SIGKILL)

        async def back(node: str = node, epoch: int = before["epoch"]) -> bool:
            status = await mesh.call("coordinator.status", None, 2.0)
            rows = {row["node"]: row for row in status["nodes"]}
            up = all(rows[name]["state"] == "UP" for name in TOPOLOGY)
            return up and status["mode"] == "NORMAL" and rows[node]["epoch"] > epoch

        await wait_for(back, f"{node} is back")


async def test_every_node_comes_back_and_no_fill_is_lost_or_doubled(paths: Paths) -> None:
    async with Client(paths) as mesh:

        async def traded(count: int) -> bool:
            return len(await pages(mesh, "execution.fills")) >= count

        await wait_for(lambda: traded(1), "the first fill")
        await kill_each(mesh)
        known = len(await pages(mesh, "execution.fills"))
        await wait_for(lambda: traded(known + 1), "trading goes on")

        # No new intents; what is under way ends.
        await mesh.call("strategy.pause", None, 5.0)

        async def settled() -> bool:
            orders = await pages(mesh, "execution.orders")
            fills = await pages(mesh, "execution.fills")
            kept = await pages(mesh, "recorder.history", what="fills")
            return all(order["state"] in TERMINAL for order in orders) and len(fills) == len(
                kept
            ) == len(venue_fills(paths))

        await wait_for(settled, "every order has an end and every fill is recorded")
        fills = await pages(mesh, "execution.fills")
        kept = await pages(mesh, "recorder.history", what="fills")
        orders = await pages(mesh, "execution.orders")
        (position,) = (await mesh.call("execution.positions", {"limit": 10}, 5.0))["items"]

    truth = {fill.fill_id: plain(fill) for fill in venue_fills(paths)}
    assert {fill["fill_id"]: fill for fill in fills} == truth
    assert len(fills) == len(truth)
    for row in kept:
        assert {name: row[name] for name in ("price", "quantity", "fee", "side")} == {
            name: truth[row["fill_id"]][name] for name in ("price", "quantity", "fee", "side")
        }
    signed = sum(
        (parse(f["quantity"]) * (1 if f["side"] == "BUY" else -1) for f in fills), Decimal(0)
    )
    assert parse(position["signed_quantity"]) == signed
    filled = sum((parse(order["filled"]) for order in orders), Decimal(0))
    assert filled == sum((parse(f["quantity"]) for f in fills), Decimal(0))
