"""Matching: never better and never more than displayed, and first come, first served."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from nodes.domain.market import BUY, SELL, BookSnapshot, Quote, Side, Trade, TradeKind
from nodes.paper_venue.matching import Book, Match, Resting

D = Decimal
BTC = "BTC-USDT.BINANCE"


def depth(bids: list[tuple[int, int]], asks: list[tuple[int, int]], update: int = 1) -> Any:
    def levels(side: list[tuple[int, int]]) -> tuple[tuple[Decimal, Decimal], ...]:
        return tuple((D(price), D(quantity)) for price, quantity in side)

    return BookSnapshot(BTC, update, levels(bids), levels(asks))


def quote(bid: int, bid_size: int, ask: int, ask_size: int, update: int = 2) -> Quote:
    return Quote(BTC, D(bid), D(bid_size), D(ask), D(ask_size), update)


def trade(price: int, quantity: int, aggressor: Side | None, **fields: Any) -> Trade:
    return Trade(BTC, "1", D(price), D(quantity), aggressor, **fields)


@pytest.fixture
def book() -> Iterator[Book]:
    book = Book()
    book.on_depth(depth([(99, 5), (98, 5)], [(101, 2), (102, 3)]))
    yield book
    book.check()


def test_taker_walks_level_by_level(book: Book) -> None:
    assert book.walk(BUY, D(4), D(0)) == [(D(101), D(2)), (D(102), D(2))]
    assert book.walk(BUY, D(9), D(101)) == [(D(101), D(2))]
    assert book.walk(SELL, D(9), D(0)) == [(D(99), D(5)), (D(98), D(4))]


def test_taken_stays_taken_until_the_level_changes(book: Book) -> None:
    book.take(BUY, book.walk(BUY, D(2), D(0)))
    book.on_depth(depth([(99, 5)], [(101, 2), (102, 3)]))
    assert book.walk(BUY, D(1), D(0)) == [(D(102), D(1))]
    book.on_depth(depth([(99, 5)], [(101, 1), (102, 3)]))
    assert book.walk(BUY, D(1), D(0)) == [(D(101), D(1))]


def test_quote_replaces_the_top_and_keeps_the_rest(book: Book) -> None:
    book.on_quote(quote(100, 1, 102, 9))
    assert book.sides == {BUY: {100: 1, 99: 5, 98: 5}, SELL: {102: 9}}


def test_older_depth_comes_under_the_newer_quote(book: Book) -> None:
    book.on_quote(quote(100, 1, 102, 9, update=7))
    book.on_depth(depth([(99, 5)], [(101, 2), (103, 3)], update=6))
    assert book.sides == {BUY: {100: 1, 99: 5}, SELL: {102: 9, 103: 3}}


def test_print_at_the_price_passes_the_queue_first(book: Book) -> None:
    book.rest(Resting("a", BUY, D(99), D(3)))
    assert book.on_trade(trade(99, 4, SELL)) == []
    assert book.on_trade(trade(99, 2, SELL)) == [Match("a", D(1))]


def test_print_through_the_price_fills_up_to_its_size(book: Book) -> None:
    book.rest(Resting("a", BUY, D(99), D(3)))
    book.rest(Resting("b", BUY, D(98), D(3)))
    assert book.on_trade(trade(97, 4, SELL)) == [Match("a", D(3)), Match("b", D(1))]


@pytest.mark.parametrize(
    "event",
    [
        trade(99, 50, BUY),
        trade(99, 50, None),
        trade(97, 50, SELL, kind=TradeKind.OFF_BOOK),
        trade(100, 50, SELL),
    ],
)
def test_other_prints_fill_nothing(book: Book, event: Trade) -> None:
    book.rest(Resting("a", BUY, D(99), D(3)))
    assert book.on_trade(event) == []


def test_cancels_ahead_only_clamp_the_queue(book: Book) -> None:
    book.rest(Resting("a", BUY, D(99), D(3)))
    book.on_quote(quote(99, 1, 101, 2))
    assert book.queue["a"].ahead == 1
    book.on_quote(quote(99, 8, 101, 2))
    assert book.queue["a"].ahead == 1


def test_deep_order_joins_the_queue_when_its_level_is_seen(book: Book) -> None:
    book.rest(Resting("a", BUY, D(90), D(3)))
    assert book.queue["a"].ahead is None
    assert book.on_trade(trade(90, 50, SELL)) == []
    book.on_depth(depth([(90, 4)], [(101, 2)]))
    assert book.queue["a"].ahead == 4


def test_crossing_book_fills_what_it_displays(book: Book) -> None:
    book.rest(Resting("a", BUY, D(99), D(5)))
    assert book.on_quote(quote(97, 1, 98, 2)) == [Match("a", D(2))]
    book.queue["a"].left = D(3)
    assert book.on_quote(quote(97, 1, 98, 2)) == []


def test_cleared_book_is_not_live(book: Book) -> None:
    assert book.live
    book.clear()
    assert not book.live
