"""Feed: the node's core. Frames in, (topic, value) out; which books need a snapshot.

`now` is monotonic seconds and decides ages; `ts_*` are stamps. A feed's state is published
when it changes, per (instrument, channel); quotes that say nothing new are dropped.

Never here: sockets, parsing, pacing.
"""

from collections import Counter
from typing import Final, TypeAlias

from msgspec.structs import replace

from mesh.errors import NotFound
from nodes.domain.instruments import Instrument
from nodes.domain.market import (
    BookDelta,
    BookSnapshot,
    FeedState,
    FeedStatus,
    Quarantined,
    Quote,
    Trade,
    Wire,
)
from nodes.market_data.book import BUFFERING, LIVE, Book
from nodes.market_data.frame import Frame
from nodes.market_data.normalize import TOP, Normalizer, Step
from nodes.market_data.reference import Registry

# A level has at most 85 bytes on the wire; an event 16 KiB, an answer 256 KiB.
DELTA_LEVELS: Final = 180
SNAPSHOT_LEVELS: Final = 1_000  # a side, as the venue's own snapshot

Publication: TypeAlias = tuple[str, Wire]
Channel: TypeAlias = tuple[str, str]  # instrument, channel


class Feed:
    """Turns frames into what is published; single-threaded, deterministic."""

    def __init__(
        self,
        registry: Registry,
        *,
        futures: bool,
        buffer_diffs: int,
        depth_interval_s: float,
        snapshot_wait_s: float,
        stale_after_s: float,
    ) -> None:
        self.normalizer = Normalizer(registry, futures=futures, buffer_diffs=buffer_diffs)
        self.counts: Counter[str] = Counter()  # frames by channel
        self.refused: Counter[str] = Counter()  # quarantined by reason
        self._registry = registry
        self._depth_interval_s = depth_interval_s
        self._snapshot_wait_s = snapshot_wait_s
        self._stale_after_s = stale_after_s
        self._told: set[str] = set()  # instruments published
        self._quotes: dict[str, Quote] = {}
        self._depth_at: dict[str, float] = {}
        self._depth_due: set[str] = set()
        self._status: dict[Channel, FeedStatus] = {}
        self._seen_at: dict[Channel, float] = {}
        self._waiting_since: dict[str, float] = {}  # books without snapshot

    def start(self, venue_symbols: tuple[str, ...]) -> list[Publication]:
        """Return the instruments of *venue_symbols*. Raises Invalid for an unknown one."""
        for venue_symbol in venue_symbols:
            self._registry.find(venue_symbol)
        return self._tell_instruments()

    def handle(self, frame: Frame, now: float) -> list[Publication]:
        """Take a frame; return what is to be published."""
        step = self.normalizer.step(frame)
        value = step.message.value
        if isinstance(value, Quarantined):
            self.refused[value.reason] += 1
            return [(f"md.quarantine.{value.venue}", value)]
        self.counts[step.message.channel] += 1
        told = [] if value.instrument in self._told else self._tell_instruments()
        if step.book is not None:
            return told + self._on_book(step, step.book, frame.recv_ns, now)
        channel = "trade" if isinstance(value, Trade) else "quote"
        told += self._alive((value.instrument, channel), FeedState.LIVE, "", frame.recv_ns, now)
        if isinstance(value, Quote):
            return told + self._on_quote(value)
        told.append((f"md.trade.{value.instrument}", value))
        return told

    def tick(self, now: float, ts_now: int) -> list[Publication]:
        """Return depths that are due and channels that have gone silent or wait too long."""
        told = [
            self._depth(self.normalizer.books[instrument], now)
            for instrument in sorted(self._depth_due)
            if now - self._depth_at[instrument] >= self._depth_interval_s
        ]
        for channel, seen in self._seen_at.items():
            live = self._status[channel].state is FeedState.LIVE
            if live and now - seen > self._stale_after_s:
                told += self._set(channel, FeedState.STALE, "SILENT", ts_now)
        for instrument, since in self._waiting_since.items():
            if now - since > self._snapshot_wait_s:
                told += self._set((instrument, "book"), FeedState.DOWN, "NO_SNAPSHOT", ts_now)
        return told

    def lose(self, reason: str, ts_now: int) -> list[Publication]:
        """Say that the source is gone: no book is valid, every channel is DOWN."""
        for book in self.normalizer.books.values():
            book.invalidate(reason)
        self._depth_due.clear()
        self._waiting_since.clear()
        told: list[Publication] = []
        for channel in list(self._status):
            told += self._set(channel, FeedState.DOWN, reason, ts_now)
        return told

    def wanted(self) -> list[str]:
        """Return the venue symbols whose books wait for a snapshot."""
        ids = {one.symbol: one.venue_symbol for one in self._registry.instruments}
        return [ids[instrument] for instrument in self._waiting_since]

    def instruments(self) -> list[Instrument]:
        """Return the instruments of this node."""
        return self._registry.instruments

    def snapshot(self, instrument: str) -> BookSnapshot:
        """Return the best 1 000 levels a side. Raises NotFound where no book is LIVE."""
        book = self.normalizer.books.get(instrument)
        if book is None or book.state is not LIVE:
            raise NotFound(f"no live book of {instrument[:40]!r}")
        return book.top(SNAPSHOT_LEVELS)

    def _tell_instruments(self) -> list[Publication]:
        new = [one for one in self._registry.instruments if one.symbol not in self._told]
        self._told.update(one.symbol for one in new)
        return [(f"md.instrument.{one.symbol}", one) for one in new]

    def _on_quote(self, quote: Quote) -> list[Publication]:
        last = self._quotes.get(quote.instrument)
        self._quotes[quote.instrument] = quote
        if last is not None and _price_and_size(last) == _price_and_size(quote):
            return []
        return [(f"md.quote.{quote.instrument}", quote)]

    def _on_book(self, step: Step, book: Book, ts_recv: int, now: float) -> list[Publication]:
        channel = (book.instrument, "book")
        if book.state is not LIVE:
            self._waiting_since.setdefault(book.instrument, now)
            self._depth_due.discard(book.instrument)
            known = self._status.get(channel)
            if known is not None and known.reason == "NO_SNAPSHOT":
                return []
            state = FeedState.SYNCING if book.state is BUFFERING else FeedState.RESYNCING
            return self._alive(channel, state, book.reason, ts_recv, now)
        self._waiting_since.pop(book.instrument, None)
        told = self._alive(channel, FeedState.LIVE, "", ts_recv, now)
        for delta in step.applied:
            told += [(f"md.book.{book.instrument}", part) for part in parts(delta)]
        if step.applied or isinstance(step.message.value, BookSnapshot):
            told += self._depth_if_due(book, now)
        return told

    def _depth_if_due(self, book: Book, now: float) -> list[Publication]:
        last = self._depth_at.get(book.instrument)
        if last is not None and now - last < self._depth_interval_s:
            self._depth_due.add(book.instrument)
            return []
        return [self._depth(book, now)]

    def _depth(self, book: Book, now: float) -> Publication:
        self._depth_at[book.instrument] = now
        self._depth_due.discard(book.instrument)
        return f"md.depth.{book.instrument}", book.top(TOP)

    def _alive(
        self, channel: Channel, state: FeedState, reason: str, ts: int, now: float
    ) -> list[Publication]:
        self._seen_at[channel] = now
        return self._set(channel, state, reason, ts)

    def _set(self, channel: Channel, state: FeedState, reason: str, ts: int) -> list[Publication]:
        known = self._status.get(channel)
        if known is not None and known.state is state and known.reason == reason:
            return []
        instrument, name = channel
        status = FeedStatus(instrument, name, state, ts, reason)
        self._status[channel] = status
        # The channel is part of the topic: a late subscriber gets the last value of each.
        return [(f"md.status.{instrument}.{name}", status)]


def parts(delta: BookDelta) -> list[BookDelta]:
    """Return *delta* in pieces that fit an event; each repeats its ids, all are to be applied."""
    if len(delta.bids) + len(delta.asks) <= DELTA_LEVELS:
        return [delta]
    bids = [delta.bids[n : n + DELTA_LEVELS] for n in range(0, len(delta.bids), DELTA_LEVELS)]
    asks = [delta.asks[n : n + DELTA_LEVELS] for n in range(0, len(delta.asks), DELTA_LEVELS)]
    return [
        *(replace(delta, bids=some, asks=()) for some in bids),
        *(replace(delta, bids=(), asks=some) for some in asks),
    ]


def _price_and_size(quote: Quote) -> tuple[object, ...]:
    return quote.bid, quote.bid_size, quote.ask, quote.ask_size
