"""Gatekeeper: approvals count until their order is seen, and every doubt denies."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.protocol.mode import SystemMode
from nodes.domain.accounts import Position
from nodes.domain.decisions import Limits, RiskDecision
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, SELL, Quote
from nodes.domain.orders import (
    CANCELED,
    FILLED,
    OPEN,
    UNKNOWN,
    Order,
    OrderEvent,
    OrderIntent,
    OrderKind,
    OrderState,
)
from nodes.risk import gatekeeper as gatekeepers
from nodes.risk.gatekeeper import DECIDED_MAX, SCHEMA, Gatekeeper

BTC = "BTC-USDT.BINANCE"
TICK = Decimal("0.01")


def intent(number: int, quantity: int = 5, **changes: Any) -> OrderIntent:
    price, size, coid = Decimal(100), Decimal(quantity), f"s-1-{number}"
    wish = OrderIntent(coid, "s", 1, "paper", BTC, BUY, OrderKind.LIMIT, size, price)
    return msgspec.structs.replace(wish, **changes)


def told(wish: OrderIntent, state: OrderState, filled: int = 0) -> OrderEvent:
    return OrderEvent("any", Order(wish, state, filled=Decimal(filled)))


@pytest.fixture
def gatekeeper() -> Iterator[Gatekeeper]:
    keeper = Gatekeeper(Limits(Decimal(1_000), Decimal(2_000), 10, 200, 2_000))
    keeper.mode, keeper.ready = SystemMode.NORMAL, True
    keeper.handle(Instrument(BTC, "BTCUSDT", "BTC", "USDT", TICK, TICK), 0.0)
    keeper.handle(Quote(BTC, Decimal(99), Decimal(1), Decimal(100), Decimal(1)), 0.0)
    yield keeper
    keeper.check()


def decide(keeper: Gatekeeper, wish: OrderIntent, now: float = 1.0) -> RiskDecision:
    return keeper.decide(wish, now, 7)


def test_approvals_in_flight_count_in_full(gatekeeper: Gatekeeper) -> None:
    verdicts = [decide(gatekeeper, intent(number)).code for number in range(5)]
    assert verdicts == ["", "", "", "", "EXPOSURE_INSTRUMENT"]


def test_released_approval_counts_no_longer(gatekeeper: Gatekeeper) -> None:
    for number in range(4):
        decide(gatekeeper, intent(number))
    gatekeeper.release("s-1-0")
    assert decide(gatekeeper, intent(9)).approved


def test_orders_in_doubt_count_in_full(gatekeeper: Gatekeeper) -> None:
    gatekeeper.handle(told(intent(1, 16), UNKNOWN), 0.0)
    assert decide(gatekeeper, intent(2)).code == "EXPOSURE_INSTRUMENT"


def test_fill_moves_exposure_from_order_to_position(gatekeeper: Gatekeeper) -> None:
    wish = intent(1, 10)
    for event in (told(wish, OPEN), told(wish, OPEN, 4), told(wish, FILLED, 10)):
        gatekeeper.handle(event, 0.0)
        view = gatekeeper.view(intent(2), 0.0)
        assert view.held + view.buying == 10


def test_reported_position_of_all_strategies_counts(gatekeeper: Gatekeeper) -> None:
    gatekeeper.handle(Position("paper", "a", BTC, Decimal(10)), 0.0)
    gatekeeper.handle(Position("paper", "b", BTC, Decimal(6)), 0.0)
    assert decide(gatekeeper, intent(1)).code == "EXPOSURE_INSTRUMENT"


def test_same_intent_gets_the_same_verdict(gatekeeper: Gatekeeper) -> None:
    first = decide(gatekeeper, intent(1))
    assert gatekeeper.decide(intent(1), 99.0, 8) is first
    assert decide(gatekeeper, intent(1, 6)).code == "ID_CONFLICT"
    assert gatekeeper.decide(intent(1), 99.0, 8) is first


def test_id_of_a_known_order_conflicts_after_a_restart(gatekeeper: Gatekeeper) -> None:
    gatekeeper.handle(told(intent(1), FILLED, 5), 0.0)
    assert decide(gatekeeper, intent(1, 6)).code == "ID_CONFLICT"
    assert decide(gatekeeper, intent(1)).approved


def test_old_quote_denies(gatekeeper: Gatekeeper) -> None:
    assert decide(gatekeeper, intent(1), now=2.5).code == "STALE_BOOK"


def test_starting_gatekeeper_denies() -> None:
    keeper = Gatekeeper(Limits(Decimal(1), Decimal(1), 1, 1, 1))
    assert decide(keeper, intent(1)).code == "MODE_BLOCKED"


def test_check_that_raises_denies(gatekeeper: Gatekeeper) -> None:
    gatekeeper.limits = msgspec.structs.replace(
        gatekeeper.limits, collar_bps="x"
    )  # broken on purpose
    assert decide(gatekeeper, intent(1)).code == "CHECK_FAILED"


def test_other_events_change_nothing(gatekeeper: Gatekeeper) -> None:
    gatekeeper.handle("something", 0.0)
    assert gatekeeper.orders == {}


def test_order_that_execution_has_is_approved_again_whatever_changed(
    gatekeeper: Gatekeeper,
) -> None:
    """Risk was killed between approval and reply; the caller asks the new run again."""
    gatekeeper.handle(told(intent(1), OPEN), 0.0)
    gatekeeper.mode = SystemMode.EMERGENCY
    assert decide(gatekeeper, intent(1)).approved
    assert not decide(gatekeeper, intent(2)).approved
    assert not gatekeeper.flight


def test_memory_of_decisions_is_bounded(gatekeeper: Gatekeeper) -> None:
    gatekeeper.mode = SystemMode.EMERGENCY
    for number in range(DECIDED_MAX + 5):
        decide(gatekeeper, intent(number))
    assert len(gatekeeper.decided) == DECIDED_MAX


# --- what a restart takes over ---


def restarted(keeper: Gatekeeper) -> Gatekeeper:
    """Return a new gatekeeper with what a checkpoint of *keeper* brings back."""
    again = Gatekeeper(keeper.limits)
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(keeper.snapshot())))
    again.check()
    return again


def books(keeper: Gatekeeper) -> tuple[object, ...]:
    held = {holder: quantity for holder, quantity in keeper.held.items() if quantity}
    return keeper.orders, keeper.working, list(keeper.ended), held, keeper.flight


changes = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.sampled_from(["approve", OPEN, UNKNOWN, FILLED, CANCELED]),
        st.integers(0, 5),
    ),
    max_size=40,
)


@given(changes, st.integers(0, 40))
def test_checkpoint_and_tail_make_what_the_whole_stream_makes(
    steps: list[tuple[int, Any, int]], cut: int
) -> None:
    def go_on(keeper: Gatekeeper, some: list[tuple[int, Any, int]]) -> Gatekeeper:
        for number, change, filled in some:
            wish = intent(number, side=BUY if number % 2 else SELL)
            if change != "approve":
                keeper.handle(told(wish, change, filled), 0.0)
            elif wish.client_order_id not in keeper.orders:
                keeper.flight[wish.client_order_id] = wish
        keeper.check()
        return keeper

    limits = Limits(Decimal(1), Decimal(1), 1, 1, 1)
    whole = go_on(Gatekeeper(limits), steps)
    assert books(go_on(restarted(go_on(Gatekeeper(limits), steps[:cut])), steps[cut:])) == books(
        whole
    )


def test_approval_under_way_still_counts_after_a_restart(gatekeeper: Gatekeeper) -> None:
    assert decide(gatekeeper, intent(1)).approved
    assert restarted(gatekeeper).view(intent(2), 0.0).buying == 5


def test_forgotten_orders_leave_their_fills(
    gatekeeper: Gatekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeepers, "ENDED_MAX", 3)
    for number in range(7):
        gatekeeper.handle(told(intent(number), FILLED, 2), 0.0)
    assert list(gatekeeper.orders) == ["s-1-4", "s-1-5", "s-1-6"]
    again = restarted(gatekeeper)
    assert books(again) == books(gatekeeper)
    assert again.view(intent(9), 0.0).held == 14
    again.forget_orders()
    again.check()
    assert again.view(intent(9), 0.0).held == 0


def test_order_that_comes_back_to_life_is_not_among_the_ended(gatekeeper: Gatekeeper) -> None:
    gatekeeper.handle(told(intent(1), CANCELED), 0.0)
    gatekeeper.handle(told(intent(1), UNKNOWN), 0.0)
    assert (list(gatekeeper.working), list(gatekeeper.ended)) == (["s-1-1"], [])


def test_denial_of_an_earlier_run_is_given_again(gatekeeper: Gatekeeper) -> None:
    gatekeeper.mode = SystemMode.EMERGENCY
    denial = decide(gatekeeper, intent(1))
    again = restarted(gatekeeper)
    again.recall(denial)
    again.mode, again.ready = SystemMode.NORMAL, True
    assert again.decide(intent(1), 9.0, 9) is denial


def test_decisions_are_recalled_in_order(gatekeeper: Gatekeeper) -> None:
    gatekeeper.mode = SystemMode.EMERGENCY
    denial = decide(gatekeeper, intent(1))
    gatekeeper.mode = SystemMode.NORMAL
    approval = decide(gatekeeper, intent(2))
    conflict = decide(gatekeeper, intent(2, 6))
    assert (approval.approved, conflict.code) == (True, "ID_CONFLICT")
    again = restarted(gatekeeper)
    for decision in (denial, approval, conflict):
        again.recall(decision)
    assert list(again.decided) == ["s-1-1"]  # the other one execution knows, or it is judged anew
    again.recall(msgspec.structs.replace(approval, client_order_id="s-1-1"))
    assert not again.decided


# Of schema 1: one order forgotten that had filled 5, one canceled, one open, one approval.
SAVED = bytes.fromhex(
    "84a7776f726b696e6791989ea5732d312d33a17301a57061706572b04254432d555344542e42494e414e4345"
    "a3425559a54c494d4954a135a3313030a3475443c2c2a000a44f50454ea0a132a130a000a0a5656e64656491"
    "989ea5732d312d32a17301a57061706572b04254432d555344542e42494e414e4345a3425559a54c494d4954"
    "a135a3313030a3475443c2c2a000a843414e43454c4544a0a131a130a000a0a6666c69676874919ea5732d31"
    "2d34a17301a57061706572b04254432d555344542e42494e414e4345a3425559a54c494d4954a135a3313030"
    "a3475443c2c2a000a9666f72676f7474656e9193a57061706572b04254432d555344542e42494e414e4345a1"
    "35"
)


def test_stored_sample_of_schema_1_is_read() -> None:
    """Where this fails the shape has changed: count SCHEMA up and upgrade this one."""
    keeper = Gatekeeper(Limits(Decimal(1), Decimal(1), 1, 1, 1))
    keeper.restore(msgspec.msgpack.decode(SAVED))
    keeper.check()
    assert SCHEMA == 1
    assert keeper.working == {"s-1-3": told(intent(3), OPEN, 2).order}
    assert keeper.orders["s-1-2"] == told(intent(2), CANCELED, 1).order
    assert keeper.flight == {"s-1-4": intent(4)}
    assert keeper.view(intent(9), 0.0).held == 8
    assert msgspec.msgpack.encode(keeper.snapshot()) == SAVED
