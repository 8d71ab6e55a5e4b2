from decimal import Decimal

import pytest

from mesh.errors import Invalid
from nodes.domain.market import BUY, Quote, Trade
from nodes.market_data.parsers.binance import Message
from nodes.market_data.validate import Validator

ONE = Decimal(1)


def trade(number: object, sent: int = 5) -> Message:
    return Message("trade", sent, Trade("X", str(number), ONE, ONE, BUY))


def quote(update_id: int, sent: int = 0) -> Message:
    return Message("bookTicker", sent, Quote("X", ONE, ONE, ONE + 1, ONE, update_id))


def test_trades_in_order_pass() -> None:
    validator = Validator()
    assert [validator.check(trade(number)) for number in (1, 2, 3)] == ["", "", ""]
    assert validator.trade_gaps == {}


@pytest.mark.parametrize(
    ("message", "reason"),
    [(trade(7), "DUPLICATE"), (trade(6), "ID_BACK"), (trade(8, sent=4), "TS_BACK")],
)
def test_trades_out_of_order_are_refused(message: Message, reason: str) -> None:
    validator = Validator()
    validator.check(trade(7))
    assert validator.check(message) == reason


def test_a_hole_in_trade_ids_is_counted_not_refused() -> None:
    validator = Validator()
    validator.check(trade(7))
    assert validator.check(trade(9)) == ""
    assert validator.trade_gaps == {"X": 1}


def test_quotes_may_repeat_their_id_but_not_go_back() -> None:
    validator = Validator()
    assert [validator.check(quote(u)) for u in (5, 5, 6, 4)] == ["", "", "", "ID_BACK"]


def test_quotes_may_not_go_back_in_time() -> None:
    validator = Validator()
    assert validator.check(quote(5, sent=9)) == ""
    assert validator.check(quote(6, sent=8)) == "TS_BACK"


def test_time_may_run_backwards_across_channels() -> None:
    validator = Validator()
    validator.check(trade(1, sent=100))
    assert validator.check(quote(1, sent=50)) == ""


def test_trade_ids_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(Invalid):
        Validator().check(trade("x"))
