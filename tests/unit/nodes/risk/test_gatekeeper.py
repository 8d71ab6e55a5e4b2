"""Gatekeeper: approvals count until their order is seen, and every doubt denies."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from mesh.protocol.mode import SystemMode
from nodes.domain.accounts import Position
from nodes.domain.decisions import Limits, RiskDecision
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, Quote
from nodes.domain.orders import (
    FILLED,
    OPEN,
    UNKNOWN,
    Order,
    OrderEvent,
    OrderIntent,
    OrderKind,
    OrderState,
)
from nodes.risk.gatekeeper import DECIDED_MAX, Gatekeeper

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
