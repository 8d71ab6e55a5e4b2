"""Plain values for people: names, and decimals in their one spelling."""

from decimal import Decimal

import msgspec

from nodes.domain.market import BUY, Trade
from nodes.domain.orders import OPEN, Order, OrderIntent, OrderKind
from nodes.domain.plain import plain


def test_a_struct_becomes_a_map_of_its_fields() -> None:
    made = plain(Trade("X", "7", Decimal("1.50"), Decimal("1E-8"), BUY, ts_event=3))
    assert made == {
        "instrument": "X",
        "trade_id": "7",
        "price": "1.5",
        "quantity": "0.00000001",
        "aggressor": "BUY",
        "kind": "MARKET",
        "ts_event": 3,
        "ts_recv": 0,
    }


def test_it_goes_all_the_way_down() -> None:
    intent = OrderIntent("a-1-1", "a", 1, "paper", "X", BUY, OrderKind.MARKET, Decimal("2.0"))
    made = plain({"orders": (Order(intent, OPEN),), "none": None, "yes": True})
    assert made["orders"][0]["intent"]["quantity"] == "2"
    assert (made["none"], made["yes"]) == (None, True)


def test_nothing_but_json_is_left() -> None:
    intent = OrderIntent("a-1-1", "a", 1, "paper", "X", BUY, OrderKind.MARKET, Decimal("2.0"))
    made = plain([Order(intent, OPEN), Decimal("0E-8")])
    text = msgspec.json.encode(made)
    assert msgspec.json.decode(text) == made
    assert made[1] == "0"
    assert type(made[0]["state"]) is str
