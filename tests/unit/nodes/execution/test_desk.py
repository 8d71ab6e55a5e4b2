"""Desk: what is said is what was done, and replaying it gives the same desk."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from mesh.protocol.mode import SystemMode
from nodes.domain.accounts import Balance
from nodes.domain.market import BUY
from nodes.domain.orders import DENIED, PENDING, Fill, OrderIntent, OrderKind
from nodes.execution.blotter import Evidence
from nodes.execution.desk import TOMBSTONE_NS, Desk

BTC = "BTC-USDT.BINANCE"
ONE = Decimal(1)
FILL = Fill("paper", "P1-1", "c", "P1", "s", BTC, BUY, ONE, ONE, ONE, "USDT", "TAKER")


def intent(coid: str = "c", quantity: int = 3) -> OrderIntent:
    price = Decimal(100)
    size = Decimal(quantity)
    return OrderIntent(coid, "s", 1, "paper", BTC, BUY, OrderKind.LIMIT, size, price)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk("paper")
    yield desk
    desk.check()


def test_fill_and_order_event_are_said_together(desk: Desk) -> None:
    desk.record(intent(), 1)
    taken = desk.take(Evidence("fill", "c", fill=FILL), 2)
    assert [topic for topic, _ in taken.said] == ["fill.paper", "order.paper"]
    assert taken.fill is FILL
    assert desk.ledger.held("paper", "s", BTC) == 1


def test_duplicate_says_nothing(desk: Desk) -> None:
    desk.record(intent(), 1)
    desk.take(Evidence("fill", "c", fill=FILL), 2)
    assert desk.take(Evidence("fill", "c", fill=FILL), 3).said == ()
    assert desk.blotter.ignored == 1


def test_replay_gives_the_same_desk(desk: Desk) -> None:
    said = [*desk.opening([Balance("paper", "USDT", Decimal(500))])]
    said += desk.record(intent(), 1).said
    for evidence in (Evidence("ack", "c", "P1"), Evidence("fill", "c", fill=FILL)):
        said += desk.take(evidence, 2).said
    again = Desk("paper")
    for _, record in [*said, *said]:
        again.apply(record)
    assert again == desk
    assert [(b.ccy, b.total, b.locked) for b in again.balances()] == [
        ("BTC", ONE, Decimal(0)),
        ("USDT", Decimal(498), Decimal(200)),
    ]


def test_report_of_an_unknown_order_is_an_alarm(desk: Desk) -> None:
    assert desk.take(Evidence("ack", "x", "P9"), 1).alarm == "UNKNOWN_ORDER"


def test_cancel_that_came_first_denies_the_order_for_a_while(desk: Desk) -> None:
    desk.bury("c", 0)
    desk.record(intent("c"), TOMBSTONE_NS - 1)
    assert desk.blotter.orders["c"].state is DENIED
    desk.bury("d", 0)
    desk.record(intent("d"), TOMBSTONE_NS)
    assert desk.blotter.orders["d"].state is PENDING


def test_scene_counts_what_else_works_on_the_side(desk: Desk) -> None:
    desk.record(intent("a", 2), 1)
    desk.record(intent("b", 5), 1)
    scene = desk.scene(intent("b"), caller="risk", mode=SystemMode.SAFE, now=1, age_max_ns=1)
    assert (scene.held, scene.working) == (Decimal(0), Decimal(2))
    assert desk.positions() == []
