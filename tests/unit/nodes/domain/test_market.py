from decimal import Decimal

import msgspec
import pytest

from mesh.errors import Invalid
from nodes.domain.market import BUY, Bar, Quote, Trade

D = Decimal


def quote(bid: str = "100", ask: str = "101", size: str = "1") -> Quote:
    return Quote("BTC-USDT.BINANCE", D(bid), D(size), D(ask), D(size))


def trade(price: str = "100", quantity: str = "1") -> Trade:
    return Trade("BTC-USDT.BINANCE", "1", D(price), D(quantity), BUY)


@pytest.mark.parametrize(("bid", "ask"), [("101", "101"), ("102", "101"), ("0", "1"), ("-1", "1")])
def test_crossed_or_empty_quotes_cannot_be_made(bid: str, ask: str) -> None:
    with pytest.raises(Invalid):
        quote(bid, ask)


@pytest.mark.parametrize("size", ["NaN", "Infinity", "1E+20", "1E-19"])
def test_sizes_out_of_bounds_cannot_be_made(size: str) -> None:
    with pytest.raises(Invalid):
        quote(size=size)


@pytest.mark.parametrize(
    ("price", "quantity"), [("0", "1"), ("1", "0"), ("-1", "1"), ("1", "-1"), ("NaN", "1")]
)
def test_trades_need_a_price_and_a_quantity(price: str, quantity: str) -> None:
    with pytest.raises(Invalid):
        trade(price, quantity)


def test_trades_without_aggressor_are_legal() -> None:
    assert Trade("X", "1", D(1), D(1), None).aggressor is None


def bar(low: str, high: str) -> Bar:
    prices = (D(100), D(high), D(low), D(101))
    return Bar("X", "1m", 0, 60, *prices, D(1), D(100), D(0), 1)


def test_bars_hold_open_and_close_between_low_and_high() -> None:
    assert bar("100", "101").high == 101
    for low, high in (("100.5", "102"), ("99", "100.5")):
        with pytest.raises(Invalid):
            bar(low, high)


@pytest.mark.parametrize("value", [quote(), trade(), bar("99", "102")], ids=type)
def test_values_survive_the_wire(value: object) -> None:
    wire = msgspec.msgpack.encode(value)
    assert msgspec.msgpack.decode(wire, type=type(value)) == value
    assert isinstance(msgspec.msgpack.decode(wire), list)


@pytest.mark.parametrize("hostile", ["NaN", "1E+999999", "Infinity"])
def test_hostile_numbers_do_not_pass_the_wire(hostile: str) -> None:
    fields = list(msgspec.structs.astuple(quote()))
    fields[1] = hostile
    with pytest.raises((Invalid, msgspec.ValidationError)):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Quote)


def test_later_fields_of_newer_writers_are_ignored() -> None:
    wire = msgspec.msgpack.encode([*msgspec.structs.astuple(quote()), "something newer"])
    assert msgspec.msgpack.decode(wire, type=Quote) == quote()
