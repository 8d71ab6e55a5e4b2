"""What venue, execution, recorder and strategy hold of the same trades, brought together.

The venue's own journal is the truth that the others are compared with.
Never here: tests, starting of processes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from mesh.protocol import envelope
from mesh.runtime.client import Client
from mesh.runtime.settings import Paths
from mesh.storage.reader import Reader
from nodes.domain.numbers import parse
from nodes.domain.orders import TERMINAL, Fill, VenueReport
from nodes.domain.plain import plain

PATIENCE_S = 25.0  # a bound against hanging on a busy machine; figures are measured in bench/
SAME = ("price", "quantity", "fee", "fee_ccy", "side", "client_order_id", "venue_order_id")


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
    last: object = "it did not hold"
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    if await condition():
                        return
                except Exception as error:  # noqa: BLE001  # nodes are being killed: any refusal is "not yet"
                    last = repr(error)
                await asyncio.sleep(0.1)  # the poll of a deadline
    except TimeoutError:
        raise TimeoutError(f"{what}: {last}") from None


def venue_fills(paths: Paths) -> dict[str, Fill]:
    """Return what the venue has filled, from its journal on disk."""
    journal = Reader(paths.state / "journals" / "paper_venue.sqlite3")
    reports = [
        envelope.decode_value(envelope.decode_event(row.frame).payload, VenueReport)
        for row in journal.read()
        if row.topic.startswith("venue.report.")
    ]
    journal.close()
    return {report.fill.fill_id: report.fill for report in reports if report.fill is not None}


async def settle(mesh: Client, paths: Paths) -> None:
    """Pause the strategy and wait until every order has its end and its record."""
    await mesh.call("strategy.pause", None, 5.0)

    async def settled() -> bool:
        orders = await pages(mesh, "execution.orders")
        fills = await pages(mesh, "execution.fills")
        kept = await pages(mesh, "recorder.history", what="fills")
        ended = all(order["state"] in TERMINAL for order in orders)
        return ended and len(fills) == len(kept) == len(venue_fills(paths))

    await wait_for(settled, "every order has an end and every fill is recorded")


async def assert_books_agree(mesh: Client, paths: Paths) -> None:
    """Assert that orders, fills, position and records agree to the last decimal."""
    orders = await pages(mesh, "execution.orders")
    fills = await pages(mesh, "execution.fills")
    kept_fills = await pages(mesh, "recorder.history", what="fills")
    kept_orders = await pages(mesh, "recorder.history", what="orders")
    (position,) = (await mesh.call("execution.positions", {"limit": 10}, 5.0))["items"]
    strategy = await mesh.call("strategy.status", None, 5.0)

    truth = {key: plain(fill) for key, fill in venue_fills(paths).items()}
    assert fills
    assert len(fills) == len(kept_fills) == len(truth)
    assert {fill["fill_id"]: fill for fill in fills} == truth
    for row in kept_fills:
        assert {name: row[name] for name in SAME} == {
            name: truth[row["fill_id"]][name] for name in SAME
        }
    ours = {o["intent"]["client_order_id"]: (o["state"], o["filled"]) for o in orders}
    assert {o["client_order_id"]: (o["state"], o["filled"]) for o in kept_orders} == ours
    signed = sum(
        (parse(f["quantity"]) * (1 if f["side"] == "BUY" else -1) for f in fills), Decimal(0)
    )
    assert parse(position["signed_quantity"]) == signed
    held = strategy["positions"].get(position["instrument"], "0")
    assert parse(held) == signed
    assert sum((parse(f["quantity"]) for f in fills), Decimal(0)) == sum(
        (parse(order["filled"]) for order in orders), Decimal(0)
    )
