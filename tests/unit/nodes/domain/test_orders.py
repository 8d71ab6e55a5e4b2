"""Orders: what is left of one, and what an intent may not hold."""

from decimal import Decimal

import msgspec
import pytest

from mesh.errors import Invalid
from nodes.domain.market import BUY
from nodes.domain.orders import (
    OPEN,
    TERMINAL,
    WORKING,
    Order,
    OrderIntent,
    OrderKind,
    OrderState,
    VenueReport,
)


def intent(quantity: str = "1", price: str = "0") -> OrderIntent:
    numbers = Decimal(quantity), Decimal(price)
    return OrderIntent("a-1-1", "a", 1, "paper", "X", BUY, OrderKind.LIMIT, *numbers)


def test_remaining_is_exactly_what_is_not_filled() -> None:
    order = Order(intent("0.3"), OPEN, filled=Decimal("0.1"))
    assert order.remaining == Decimal("0.2")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e20", "1e-19"])
def test_an_intent_refuses_numbers_out_of_bounds(number: str) -> None:
    with pytest.raises(Invalid):
        intent(quantity=number)
    with pytest.raises(Invalid):
        intent(price=number)


def test_every_state_but_new_is_either_working_or_terminal() -> None:
    assert not WORKING & TERMINAL
    assert WORKING | TERMINAL | {OrderState.NEW} == set(OrderState)


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "x" * 201},
        {"client_order_id": "x" * 65},
        {"client_order_id": ""},
        {"strategy": "a b"},
        {"account": "x" * 65},
    ],
)
def test_an_intent_refuses_texts_that_no_journal_could_hold(change: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        msgspec.structs.replace(intent(), **change)


def test_a_venue_report_refuses_a_text_without_end() -> None:
    with pytest.raises(Invalid):
        VenueReport("ref", "c", "P1", reason="x" * 501)
