"""The order table: total, exact where it refuses, and sound on every walk."""

from decimal import Decimal
from random import Random

import pytest
from msgspec.structs import replace

from mesh.errors import InvalidTransition
from nodes.domain.market import BUY
from nodes.domain.orders import (
    CANCELED,
    CANCELING,
    DENIED,
    FILLED,
    NEW,
    OPEN,
    PARTIAL,
    PENDING,
    REJECTED,
    TERMINAL,
    UNKNOWN,
    Order,
    OrderIntent,
    OrderKind,
    OrderState,
)
from nodes.domain.transitions import CELLS, EVENTS, step

INTENT = OrderIntent(
    client_order_id="s-1-1",
    strategy="s",
    epoch=1,
    account="paper",
    instrument="BTC-USDT.BINANCE",
    side=BUY,
    kind=OrderKind.MARKET,
    quantity=Decimal(3),
)
EVIDENCE = tuple(e for e in EVENTS if e not in ("deny", "rec", "cxl", "rpl"))
ENDS_DOUBT = {"ack", "ref", "fill", "full", "exp", "cok", "cno", "rok", "rno", "live", "abs"}


def order(state: OrderState, **fields: object) -> Order:
    return Order(INTENT, state, **fields)  # type: ignore[arg-type]  # what the test names


def test_table_is_total() -> None:
    assert set(CELLS) == set(OrderState)
    assert all(tuple(row) == EVENTS for row in CELLS.values())
    assert sum(len(row) for row in CELLS.values()) == 204


def test_every_cell_answers_or_names_our_bug() -> None:
    for state in OrderState:
        for event in EVENTS:
            if CELLS[state][event] in ("#", "D2"):
                with pytest.raises(InvalidTransition):
                    step(order(state), event)
            else:
                assert step(order(state), event).state in OrderState


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        (order(NEW), "rec", PENDING),
        (order(NEW), "cxl", DENIED),
        (order(PENDING), "ack", OPEN),
        (order(PENDING), "dbt", UNKNOWN),
        (order(PENDING), "fill", PARTIAL),
        (order(PARTIAL, filled=Decimal(1)), "live", PARTIAL),
        (order(OPEN), "ref", UNKNOWN),
        (order(CANCELING), "ref", REJECTED),
        (order(CANCELING, venue_order_id="7"), "ref", UNKNOWN),
        (order(CANCELING, filled=Decimal(1)), "cno", PARTIAL),
        (order(UNKNOWN, doubt="SUBMIT"), "ack", OPEN),
        (order(UNKNOWN, doubt="CANCEL"), "ack", UNKNOWN),
        (order(UNKNOWN, doubt="CANCEL"), "fill", UNKNOWN),
        (order(UNKNOWN, doubt="SUBMIT"), "abs", REJECTED),
        (order(UNKNOWN, doubt="MISSING", venue_order_id="7"), "abs", CANCELED),
        (order(CANCELED), "fill", CANCELED),
        (order(CANCELED), "full", FILLED),
        (order(REJECTED), "ack", UNKNOWN),
    ],
)
def test_story(before: Order, event: str, after: OrderState) -> None:
    assert step(before, event).state is after


def test_denial_is_possible_only_before_the_first_attempt() -> None:
    assert step(order(PENDING), "deny", sent=False).state is DENIED
    with pytest.raises(InvalidTransition):
        step(order(PENDING), "deny")


def test_doubt_is_named_after_the_command_and_kept() -> None:
    assert step(order(CANCELING), "dbt").doubt == "CANCEL"
    assert step(order(OPEN), "dbt").doubt == "MISSING"
    assert step(order(UNKNOWN, doubt="CANCEL"), "dbt").doubt == "CANCEL"


def test_late_fill_raises_an_alarm() -> None:
    assert step(order(CANCELED), "fill").alarm == "LATE_FILL"
    assert step(order(REJECTED), "full").alarm == "FILLED_AFTER_END"


@pytest.mark.parametrize("seed", range(20))
def test_walk_leaves_doubt_by_evidence_alone(seed: int) -> None:
    dice = Random(seed)
    now = order(PENDING)
    for _ in range(300):
        event = dice.choice((*EVIDENCE, "cxl", "rpl"))
        after = step(now, event, newer=dice.random() < 0.5)
        if now.state is UNKNOWN and after.state is not UNKNOWN:
            assert event in ENDS_DOUBT
        if now.state in TERMINAL and after.state not in TERMINAL:
            assert after.alarm == "CONFLICT"
        assert bool(after.doubt) is (after.state is UNKNOWN)
        now = replace(now, state=after.state, doubt=after.doubt)
        if now.state in TERMINAL and dice.random() < 0.5:
            now = order(PENDING)
