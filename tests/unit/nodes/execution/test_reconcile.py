"""Reconciliation: found is evidence, absence is proved by the venue's clock alone."""

from decimal import Decimal
from itertools import islice

import pytest

from nodes.domain.market import BUY
from nodes.domain.orders import OPEN, UNKNOWN, Fill, Order, OrderIntent, OrderKind, VenueOrder
from nodes.execution.reconcile import Inquiry, delays

S = 1_000_000_000
BTC = "BTC-USDT.BINANCE"
INTENT = OrderIntent("c", "s", 1, "paper", BTC, BUY, OrderKind.MARKET, Decimal(1))
DOUBTED = Order(INTENT, UNKNOWN, doubt="SUBMIT")
ZERO = Decimal(0)
ONE = Decimal(1)


def absent(server_ts: int) -> VenueOrder:
    return VenueOrder(False, "", "", ZERO, server_ts)


def events(inquiry: Inquiry, order: Order, answer: VenueOrder) -> list[str]:
    return [evidence.event for evidence in inquiry.judge(order, answer)]


def test_questions_come_soon_and_then_for_ever() -> None:
    assert list(islice(delays(), 7)) == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_outage_is_not_absence() -> None:
    """Not found proves nothing before the window, nor by one answer, nor by two close ones."""
    inquiry = Inquiry("c", attempt_ts=10 * S, window_ns=5 * S)
    assert events(inquiry, DOUBTED, absent(15 * S)) == []
    assert events(inquiry, DOUBTED, absent(16 * S)) == []
    assert events(inquiry, DOUBTED, absent(17 * S)) == []
    assert events(inquiry, DOUBTED, absent(18 * S)) == ["abs"]


def test_found_in_between_starts_anew() -> None:
    inquiry = Inquiry("c", attempt_ts=0, window_ns=S)
    assert events(inquiry, DOUBTED, absent(2 * S)) == []
    assert events(inquiry, DOUBTED, VenueOrder(True, "OPEN", "P1", ZERO, 3 * S)) == ["live"]
    assert events(inquiry, DOUBTED, absent(9 * S)) == []


def test_missing_open_order_is_doubt_first() -> None:
    inquiry = Inquiry("c", attempt_ts=0, window_ns=S)
    assert events(inquiry, Order(INTENT, OPEN), absent(99 * S)) == ["dbt"]


@pytest.mark.parametrize(
    ("status", "event"),
    [("OPEN", "live"), ("CANCELED", "cok"), ("EXPIRED", "exp"), ("REJECTED", "ref")],
)
def test_fills_come_before_the_status(status: str, event: str) -> None:
    fill = Fill("paper", "P1-1", "c", "P1", "s", BTC, BUY, ONE, ONE, ONE, "USDT", "TAKER")
    answer = VenueOrder(True, status, "P1", Decimal(1), S, (fill,))
    assert events(Inquiry("c", 0, S), DOUBTED, answer) == ["fill", event]


def test_filled_is_proved_by_its_fills_alone() -> None:
    answer = VenueOrder(True, "FILLED", "P1", Decimal(1), S)
    assert events(Inquiry("c", 0, S), DOUBTED, answer) == []
