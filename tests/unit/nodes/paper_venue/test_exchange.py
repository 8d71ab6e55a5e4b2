"""Exchange: refuses by code, fills by the book, answers the same again, survives a restart."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from mesh.errors import Conflict
from nodes.domain.instruments import Instrument, InstrumentStatus
from nodes.domain.market import (
    BUY,
    SELL,
    BookSnapshot,
    FeedState,
    FeedStatus,
    Quote,
    Trade,
)
from nodes.domain.orders import OrderIntent, OrderKind, TimeInForce
from nodes.paper_venue.account import Account
from nodes.paper_venue.exchange import Answer, Exchange, Fact

D = Decimal
BTC = "BTC-USDT.BINANCE"
INSTRUMENT = Instrument(
    BTC,
    "BTCUSDT",
    "BTC",
    "USDT",
    tick=D("0.5"),
    lot=D("0.1"),
    notional_min=D(10),
    maker_fee=D(0),
    taker_fee=D("0.001"),
)
DEPTH = BookSnapshot(BTC, 1, ((D(99), D(5)),), ((D(101), D(2)), (D(102), D(3))))


def intent(coid: str = "c", **changes: Any) -> OrderIntent:
    price, size = D(100), D(1)
    wish = OrderIntent(coid, "s", 1, "paper", BTC, BUY, OrderKind.LIMIT, size, price)
    return msgspec.structs.replace(wish, **changes)


def market(coid: str = "c", **changes: Any) -> OrderIntent:
    return intent(coid, kind=OrderKind.MARKET, price=D(0), **changes)


def opened() -> Exchange:
    exchange = Exchange(Account("paper"))
    exchange.open_account({"USDT": D(1_000), "BTC": D(1)})
    exchange.handle(INSTRUMENT, 1)
    exchange.handle(DEPTH, 1)
    return exchange


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    exchange = opened()
    yield exchange
    exchange.check()


def story(answer: Answer) -> list[str]:
    return [getattr(fact, "event", "intent") for fact in answer.facts]


def test_market_order_walks_the_book_and_pays_the_taker_fee(exchange: Exchange) -> None:
    answer = exchange.place(market(quantity=D(4)), 5)
    assert (answer.report.event, answer.report.venue_order_id) == ("ack", "P1")
    assert story(answer) == ["intent", "ack", "fill", "fill"]
    order = exchange.order("c", 6)
    assert (order.status, order.filled, order.server_ts) == ("FILLED", D(4), 6)
    assert [(f.fill_id, f.price, f.quantity) for f in order.fills] == [
        ("P1-1", D(101), D(2)),
        ("P1-2", D(102), D(2)),
    ]
    assert exchange.account.totals == {"BTC": 5, "USDT": 1_000 - 406 - D("0.406")}


def test_rest_of_a_market_order_expires(exchange: Exchange) -> None:
    answer = exchange.place(market(quantity=D(6)), 5)
    assert story(answer)[-1] == "exp"
    assert exchange.order("c", 6).status == "EXPIRED"
    again = exchange.place(market("d"), 7)
    assert story(again) == ["intent", "ack", "exp"]


def test_limit_rests_with_its_reserve_and_fills_as_maker(exchange: Exchange) -> None:
    exchange.place(intent(quantity=D(2)), 5)
    assert exchange.account.free("USDT") == 1_000 - D("200.2")
    exchange.handle(Trade(BTC, "1", D(99), D(1), SELL), 6)
    order = exchange.order("c", 7)
    assert (order.status, order.filled) == ("OPEN", D(1))
    assert exchange.account.totals["USDT"] == 900
    exchange.handle(Quote(BTC, D(98), D(1), D(99), D(9), 2), 8)
    assert exchange.order("c", 9).status == "FILLED"


def test_immediate_limit_never_trades_beyond_its_price(exchange: Exchange) -> None:
    answer = exchange.place(intent(price=D(101), quantity=D(5), tif=TimeInForce.IOC), 5)
    assert story(answer) == ["intent", "ack", "fill", "exp"]


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (intent(instrument="ETH-USDT.BINANCE"), "SYMBOL"),
        (intent(price=D("100.1")), "TICK"),
        (intent(price=D(0)), "TICK"),
        (intent(quantity=D("0.15")), "LOT"),
        (intent(quantity=D(0)), "LOT"),
        (intent(quantity=D("0.1"), price=D(99)), "NOTIONAL"),
        (intent(quantity=D(10)), "FUNDS"),
        (intent(quantity=D("1.1"), side=SELL), "FUNDS"),
        (market(quantity=D("1.1"), side=SELL), "FUNDS"),
        (intent(price=D(101), post_only=True), "POST_ONLY"),
        (intent(price=D(102), quantity=D(6), tif=TimeInForce.FOK), "FOK"),
        (intent(kind=OrderKind.STOP_LIMIT), "KIND"),
    ],
)
def test_bad_order_is_refused_by_code(exchange: Exchange, wish: OrderIntent, reason: str) -> None:
    answer = exchange.place(wish, 5)
    assert (answer.report.event, answer.report.reason) == ("ref", reason)
    assert exchange.order("c", 6).status == "REJECTED"


def test_halted_instrument_refuses(exchange: Exchange) -> None:
    halted = msgspec.structs.replace(INSTRUMENT, status=InstrumentStatus.HALTED)
    exchange.handle(halted, 2)
    assert exchange.place(intent(), 5).report.reason == "STATUS"


def test_without_a_book_nothing_is_taken(exchange: Exchange) -> None:
    exchange.handle(FeedStatus(BTC, "book", FeedState.DOWN, 2), 2)
    assert exchange.place(intent(), 5).report.reason == "NO_BOOK"


def test_same_order_again_gets_the_first_answer(exchange: Exchange) -> None:
    first = exchange.place(market(), 5)
    again = exchange.place(market(), 9)
    assert again == Answer(first.report)
    with pytest.raises(Conflict):
        exchange.place(market(quantity=D(2)), 9)


def test_cancel_releases_and_answers_the_same_again(exchange: Exchange) -> None:
    exchange.place(intent(), 5)
    first = exchange.cancel("c", 6)
    assert first.report.event == "cok"
    assert exchange.account.free("USDT") == 1_000
    assert exchange.cancel("c", 7) == Answer(first.report)


def test_cancel_of_what_is_not_open_is_refused_with_the_reason(exchange: Exchange) -> None:
    exchange.place(market(), 5)
    assert exchange.cancel("c", 6).report.reason == "FILLED"
    assert exchange.cancel("x", 6).report.reason == "UNKNOWN_ORDER"
    assert not exchange.order("x", 6).found


def test_paper_funds_survive_restart() -> None:
    exchange, journal = Exchange(Account("paper")), list[Fact]()
    journal += exchange.open_account({"USDT": D(1_000), "BTC": D(1)})
    for event in (INSTRUMENT, INSTRUMENT, DEPTH):
        journal += exchange.handle(event, 1)
    for wish in (market("a"), intent("b"), intent("r", quantity=D(50)), intent("x")):
        journal += exchange.place(wish, 2).facts
    journal += exchange.handle(Trade(BTC, "1", D(99), D("0.5"), SELL), 3)
    journal += exchange.cancel("x", 4).facts
    again = Exchange(Account("paper"))
    for fact in journal:
        again.apply(fact)
    again.check()
    assert (again.orders, again.account) == (exchange.orders, exchange.account)
    assert again.place(intent("new"), 5).report.reason == "NO_BOOK"
