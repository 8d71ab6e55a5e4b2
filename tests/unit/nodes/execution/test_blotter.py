"""Blotter: fills once, states by the table, and the same from its events."""

from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from nodes.domain.market import BUY
from nodes.domain.orders import (
    CANCELED,
    CANCELING,
    FILLED,
    OPEN,
    PARTIAL,
    PENDING,
    UNKNOWN,
    Fill,
    OrderIntent,
    OrderKind,
    VenueReport,
)
from nodes.execution.blotter import Blotter, Decision, Evidence, evidence_of, key_of

COID = "s-1-1"
INTENT = OrderIntent(
    client_order_id=COID,
    strategy="s",
    epoch=1,
    account="paper",
    instrument="BTC-USDT.BINANCE",
    side=BUY,
    kind=OrderKind.MARKET,
    quantity=Decimal(3),
)


def fill(number: int, quantity: str = "1") -> Fill:
    return Fill(
        account="paper",
        fill_id=f"P1-{number}",
        client_order_id=COID,
        venue_order_id="P1",
        strategy="s",
        instrument=INTENT.instrument,
        side=BUY,
        price=Decimal(100),
        quantity=Decimal(quantity),
        fee=Decimal(0),
        fee_ccy="USDT",
        liquidity="TAKER",
    )


def started() -> Blotter:
    blotter = Blotter()
    blotter.apply(blotter.record(INTENT, 1))
    return blotter


def feed(blotter: Blotter, event: str, **fields: Any) -> Decision:
    decision = blotter.decide(Evidence(event, COID, **fields), 2)
    if decision.fill:
        assert blotter.apply_fill(decision.fill)
    if decision.event:
        blotter.apply(decision.event)
    blotter.check()
    return decision


def test_order_lives_from_record_to_filled() -> None:
    blotter = started()
    assert blotter.orders[COID].state is PENDING
    feed(blotter, "ack", venue_order_id="P1")
    assert blotter.orders[COID].state is OPEN
    feed(blotter, "fill", fill=fill(1))
    assert blotter.orders[COID].state is PARTIAL
    feed(blotter, "fill", fill=fill(2, "2"))
    order = blotter.orders[COID]
    assert (order.state, order.filled, order.notional) == (FILLED, Decimal(3), Decimal(300))
    assert blotter.working() == []


def test_fill_seen_twice_is_no_news() -> None:
    blotter = started()
    feed(blotter, "fill", fill=fill(1))
    assert feed(blotter, "fill", fill=fill(1)) == Decision()
    assert blotter.orders[COID].filled == 1


def test_late_fill_is_booked_and_flagged() -> None:
    blotter = started()
    feed(blotter, "cok")
    decision = feed(blotter, "fill", fill=fill(1))
    assert decision.alarm == "LATE_FILL"
    order = blotter.orders[COID]
    assert (order.state, order.filled, order.reason) == (CANCELED, Decimal(1), "LATE_FILL")


def test_overfill_is_booked_and_flagged() -> None:
    blotter = started()
    assert feed(blotter, "fill", fill=fill(1, "4")).alarm == "OVERFILL"
    assert blotter.orders[COID].filled == 4


def test_ack_after_the_cancel_still_tells_the_venue_order_id() -> None:
    blotter = started()
    feed(blotter, "cxl")
    feed(blotter, "ack", venue_order_id="P1")
    order = blotter.orders[COID]
    assert (order.state, order.venue_order_id) == (CANCELING, "P1")


def test_cancel_of_an_ended_order_is_refused() -> None:
    blotter = started()
    feed(blotter, "ref", reason="FUNDS")
    assert feed(blotter, "cxl").refused


def test_timeout_is_doubt_until_the_ack() -> None:
    blotter = started()
    feed(blotter, "dbt", reason="timeout")
    assert (blotter.orders[COID].state, blotter.orders[COID].doubt) == (UNKNOWN, "SUBMIT")
    feed(blotter, "ack", venue_order_id="P1")
    assert (blotter.orders[COID].state, blotter.orders[COID].doubt) == (OPEN, "")


def test_attempts_are_dated_by_our_commands() -> None:
    blotter = started()
    assert blotter.attempts == {COID: 1}
    feed(blotter, "cxl")
    assert blotter.attempts == {COID: 2}


def test_fill_is_the_same_by_account_instrument_and_id() -> None:
    assert key_of(fill(1)) == key_of(replace(fill(1), price=Decimal(7)))
    assert key_of(fill(1)) != key_of(replace(fill(1), instrument="ETH-USDT.BINANCE"))


def test_report_is_evidence() -> None:
    report = VenueReport("ref", COID, "", "LOT")
    assert evidence_of(report) == Evidence("ref", COID, "", "LOT")
