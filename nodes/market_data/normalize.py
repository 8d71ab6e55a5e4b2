"""Normalize: a frame through parser, order checks and book; and the values as JSON documents.

Never here: files, pacing, topics.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from nodes.domain.market import BookDelta, BookSnapshot, Quarantined, Quote, Trade
from nodes.domain.numbers import canon
from nodes.market_data.book import EMPTY, Book
from nodes.market_data.frame import Frame
from nodes.market_data.parsers.binance import Message, Parser, escaped
from nodes.market_data.reference import Registry
from nodes.market_data.validate import Validator

TOP = 20


class Step(NamedTuple):
    """What one frame came to: the checked message, the diffs applied by it, its book."""

    message: Message
    applied: tuple[BookDelta, ...] = ()
    book: Book | None = None


class Normalizer:
    """Takes frames in order; keeps the books."""

    def __init__(self, registry: Registry, *, futures: bool, buffer_diffs: int = 10_000) -> None:
        self.books: dict[str, Book] = {}
        self.validator = Validator()
        self._venue = registry.venue
        self._parser = Parser(registry)
        self._futures = futures
        self._buffer_diffs = buffer_diffs

    def step(self, frame: Frame) -> Step:
        """Return what *frame* came to; never raises for its content."""
        message = self._parser.parse(frame.raw, frame.recv_ns, frame.origin)
        value = message.value
        if isinstance(value, BookDelta):
            book = self._book(value.instrument)
            return Step(message, book.on_delta(value), book)
        if isinstance(value, BookSnapshot):
            book = self._book(value.instrument)
            return Step(message, book.on_snapshot(value), book)
        if reason := self.validator.check(message):
            refused = Quarantined(self._venue, reason, escaped(frame.raw), frame.recv_ns)
            message = message._replace(value=refused)
        return Step(message)

    def _book(self, instrument: str) -> Book:
        book = self.books.get(instrument)
        if book is None:
            book = Book(instrument, by_prev=self._futures, buffer_diffs=self._buffer_diffs)
            self.books[instrument] = book
        return book


def documents(
    frames: Iterable[Frame], normalizer: Normalizer, *, books: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield each value of *frames* as a JSON-able document; books after each applied diff."""
    states: dict[str, str] = {}
    for frame in frames:
        step = normalizer.step(frame)
        value = step.message.value
        if isinstance(value, Trade | Quote | Quarantined):
            yield value_document(value)
            continue
        book = step.book
        if book is None:
            continue
        if states.get(book.instrument, EMPTY) != book.state:
            states[book.instrument] = book.state
            yield status_document(book, frame.recv_ns)
        if books and step.applied:
            yield book_document(book)


def value_document(value: Trade | Quote | Quarantined) -> dict[str, Any]:
    """Return one value as a document; times in ns, ts_event None where the venue gave none."""
    if isinstance(value, Trade):
        return {
            **_head("trade", value),
            "price": canon(value.price),
            "quantity": canon(value.quantity),
            "aggressor": value.aggressor.lower() if value.aggressor else None,
            "trade_id": value.trade_id,
            "kind": value.kind.lower(),
        }
    if isinstance(value, Quote):
        return {
            **_head("quote", value),
            "bid": canon(value.bid),
            "bid_size": canon(value.bid_size),
            "ask": canon(value.ask),
            "ask_size": canon(value.ask_size),
        }
    return {
        "type": "quarantine",
        "reason": value.reason,
        "raw": value.raw,
        "ts_recv": value.ts_recv,
    }


def status_document(book: Book, recv_ns: int) -> dict[str, Any]:
    """Return the state of a book as a document."""
    return {
        "type": "status",
        "instrument": book.instrument,
        "channel": "book",
        "state": book.state.lower(),
        "reason": book.reason,
        "ts_recv": recv_ns,
    }


def book_document(book: Book) -> dict[str, Any]:
    """Return the best 20 levels of a side; seq is the venue's last update id."""
    top = book.top(TOP)
    return {**_head("book", top), "seq": top.update_id, **level_texts(top)}


def level_texts(book: BookSnapshot) -> dict[str, list[list[str]]]:
    """Return bids and asks as lists of [price, quantity] texts."""
    return {
        "bids": [[canon(price), canon(quantity)] for price, quantity in book.bids],
        "asks": [[canon(price), canon(quantity)] for price, quantity in book.asks],
    }


def _head(kind: str, value: Trade | Quote | BookSnapshot) -> dict[str, Any]:
    return {
        "type": kind,
        "instrument": value.instrument,
        "ts_event": value.ts_event or None,
        "ts_recv": value.ts_recv,
    }
