"""The book of one instrument: a snapshot and the diffs that follow it, gap by gap.

    EMPTY -> BUFFERING -> LIVE -> RESYNCING -> LIVE
    A gap or a crossed top makes it RESYNCING: invalid until a new snapshot fits.

Spot continues by U = last u + 1, USD-M by pu = last u.

Never here: I/O, repair: what does not fit is thrown away and asked for anew.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Final

from nodes.domain.market import BookDelta, BookSnapshot, Level


class BookState(StrEnum):
    """What a book is worth; only LIVE may be used."""

    EMPTY = "EMPTY"
    BUFFERING = "BUFFERING"
    LIVE = "LIVE"
    RESYNCING = "RESYNCING"


EMPTY: Final = BookState.EMPTY
BUFFERING: Final = BookState.BUFFERING
LIVE: Final = BookState.LIVE
RESYNCING: Final = BookState.RESYNCING


class Ladder:
    """One side of a book: quantity by price, prices rising."""

    __slots__ = ("prices", "quantities")

    def __init__(self) -> None:
        self.prices: list[Decimal] = []  # sorted: insertion costs a microsecond at 5 000 levels
        self.quantities: dict[Decimal, Decimal] = {}

    def load(self, levels: Iterable[Level]) -> None:
        """Replace all levels."""
        self.quantities = {price: quantity for price, quantity in levels if quantity}
        self.prices = sorted(self.quantities)

    def apply(self, levels: Iterable[Level]) -> None:
        """Set levels; quantity 0 deletes, also what is not there."""
        prices, quantities = self.prices, self.quantities
        for price, quantity in levels:
            if quantity:
                if price not in quantities:
                    insort(prices, price)
                quantities[price] = quantity
            elif quantities.pop(price, None) is not None:
                del prices[bisect_left(prices, price)]

    def lowest(self, n: int) -> tuple[Level, ...]:
        """Return the *n* lowest levels, rising."""
        return tuple((price, self.quantities[price]) for price in self.prices[:n])

    def highest(self, n: int) -> tuple[Level, ...]:
        """Return the *n* highest levels, falling."""
        return tuple((price, self.quantities[price]) for price in self.prices[: -n - 1 : -1])


class Book:
    """Applies diffs in order; counts what it dropped and where it broke."""

    def __init__(self, instrument: str, *, by_prev: bool, buffer_diffs: int = 10_000) -> None:
        self.instrument = instrument
        self.state = EMPTY
        self.reason = ""  # why it is RESYNCING: GAP, CROSSED
        self.bids = Ladder()
        self.asks = Ladder()
        self.last_id = 0
        self.ts_event = 0
        self.ts_recv = 0
        self.applied = self.dropped = self.gaps = self.crossings = 0
        self._by_prev = by_prev
        self._straddled = False  # has a diff after the snapshot been applied?
        self._buffer: deque[BookDelta] = deque(maxlen=buffer_diffs)  # the oldest falls out

    @property
    def needs_snapshot(self) -> bool:
        """Say whether only a snapshot can make it LIVE."""
        return self.state is not LIVE

    def on_delta(self, delta: BookDelta) -> tuple[BookDelta, ...]:
        """Take *delta*; return it if it was applied, else ()."""
        if self.state is LIVE:
            return (delta,) if self._apply(delta) else ()
        if self.state is EMPTY:
            self.state = BUFFERING
        self._buffer.append(delta)
        return ()

    def on_snapshot(self, snapshot: BookSnapshot) -> tuple[BookDelta, ...]:
        """Take a whole book; return the buffered diffs that were applied upon it.

        A LIVE book needs none, and one older than the first buffered diff cannot fit.
        """
        if self.state is LIVE or (self._buffer and self._too_old(snapshot.update_id)):
            return ()
        self.bids.load(snapshot.bids)
        self.asks.load(snapshot.asks)
        self.last_id, self._straddled = snapshot.update_id, False
        self.ts_event, self.ts_recv = snapshot.ts_event, snapshot.ts_recv
        self.state, self.reason = LIVE, ""
        if self._is_crossed():
            self._break("CROSSED")
            return ()
        waiting = list(self._buffer)
        self._buffer.clear()
        applied: list[BookDelta] = []
        for delta in waiting:
            applied.extend(self.on_delta(delta))
        return tuple(applied)

    def invalidate(self, reason: str) -> None:
        """Stop trusting the book, as after a lost connection."""
        if self.state is LIVE:
            self.state, self.reason = RESYNCING, reason
        self._buffer.clear()

    def top(self, levels: int) -> BookSnapshot:
        """Return the best *levels* of each side."""
        return BookSnapshot(
            self.instrument,
            self.last_id,
            self.bids.highest(levels),
            self.asks.lowest(levels),
            levels,
            self.ts_event,
            self.ts_recv,
        )

    def check(self) -> None:
        """Assert every invariant."""
        for side in (self.bids, self.asks):
            assert side.prices == sorted(side.quantities)
            assert all(quantity > 0 for quantity in side.quantities.values())
        assert self.state is not LIVE or not self._is_crossed()

    def _apply(self, delta: BookDelta) -> bool:
        if self._is_old(delta):
            self.dropped += 1
            return False
        if not self._follows(delta):
            self.gaps += 1
            self._break("GAP", delta)
            return False
        self.bids.apply(delta.bids)
        self.asks.apply(delta.asks)
        self.last_id, self._straddled = delta.last_id, True
        self.ts_event, self.ts_recv = delta.ts_event, delta.ts_recv
        if self._is_crossed():
            self.crossings += 1
            self._break("CROSSED")
            return False
        self.applied += 1
        return True

    def _is_old(self, delta: BookDelta) -> bool:
        if self._by_prev and not self._straddled:
            return delta.last_id < self.last_id
        return delta.last_id <= self.last_id

    def _follows(self, delta: BookDelta) -> bool:
        if self._straddled:
            return (delta.prev_id if self._by_prev else delta.first_id - 1) == self.last_id
        return delta.first_id <= self.last_id + (not self._by_prev)

    def _too_old(self, update_id: int) -> bool:
        return self._buffer[0].first_id > update_id + (not self._by_prev)

    def _is_crossed(self) -> bool:
        bids, asks = self.bids.prices, self.asks.prices
        return bool(bids and asks and bids[-1] >= asks[0])

    def _break(self, reason: str, delta: BookDelta | None = None) -> None:
        self.state, self.reason = RESYNCING, reason
        if delta is not None:
            self._buffer.append(delta)
