"""Synthetic: a seeded market that speaks Binance spot, so every stage is exercised.

Prices are integer ticks of 0.01, sizes integer lots of 0.00001. A fair price wanders by
regime (CALM, TREND, VOLATILE); quotes follow it, trades hit them, diffs tell both. The
snapshot comes after some diffs, as it does at the venue.

Never here: clocks (start_ns is given), pacing, floats.
"""

from collections.abc import Iterator
from enum import IntEnum
from heapq import merge
from math import isqrt
from operator import itemgetter
from typing import Final, NamedTuple

from nodes.market_data.dice import Dice
from nodes.market_data.frame import Frame

LEVELS: Final = 50  # of a side
SCALE: Final = 1_000_000  # fair price: millionths of a tick
DIFF_NS: Final = 100_000_000
DIFFS_BEFORE_SNAPSHOT: Final = 3
DELAY_NS: Final = 2_000_000  # from the venue's clock to receipt
SECOND_NS: Final = 1_000_000_000
FAIR_LEAST: Final = 5_000 * SCALE  # room for 50 levels above zero
ANCHOR_BPS: Final = 150  # so far from the first price a trend turns back


class Regime(IntEnum):
    """How the market feels."""

    CALM = 0
    TREND = 1
    VOLATILE = 2


class Mood(NamedTuple):
    """What a regime means; per second, in millionths of the price."""

    drift: int
    sigma: int
    spread_most: int  # ticks
    trade_percent: int
    seconds: tuple[int, int]


MOODS: Final = {
    Regime.CALM: Mood(0, 15, 2, 25, (3, 6)),
    Regime.TREND: Mood(60, 20, 4, 40, (6, 12)),
    Regime.VOLATILE: Mood(0, 90, 15, 50, (3, 6)),
}


class Synthetic:
    """One symbol's endless frames; the same seed, start and rate give the same bytes."""

    def __init__(
        self, symbol: str, *, seed: int, start_ns: int, start_ticks: int, events_per_s: int
    ) -> None:
        self.symbol = symbol
        self.regime = Regime.CALM
        self._dice = Dice(seed)
        self._mean_ns = max(2, 19 * SECOND_NS // (10 * events_per_s))  # 1.9 frames a step
        self._now = start_ns
        self._first_ticks = start_ticks
        self._fair = start_ticks * SCALE
        self._direction = 1
        self._regime_until = start_ns
        # Ids grow over restarts too: a run starts at its microseconds and counts slower.
        self._update_id = start_ns // 1_000
        self._trade_id = start_ns // 1_000
        self._bids: dict[int, int] = {}
        self._asks: dict[int, int] = {}
        self._changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._told_id = self._update_id
        self._diff_at = start_ns + DIFF_NS
        self._snapshot_in = DIFFS_BEFORE_SNAPSHOT
        self._quote()

    def want_snapshot(self) -> None:
        """Send a snapshot after the next diff."""
        self._snapshot_in = self._snapshot_in or 1

    def frames(self) -> Iterator[Frame]:
        """Yield frames for ever, receive times rising."""
        while True:
            self._now += self._dice.between(1, 2 * self._mean_ns - 1)
            if self._now >= self._diff_at:
                yield from self._tell_diff()
            self._move()
            if self._dice.below(100) < MOODS[self.regime].trade_percent:
                yield from self._trade()
            if self._quote():
                yield self._tell_ticker()

    def _move(self) -> None:
        if self._now >= self._regime_until:
            self._change_regime()
        mood = MOODS[self.regime]
        price = self._fair // SCALE
        drift = mood.drift * self._direction * price * self._mean_ns // SECOND_NS
        root = isqrt(self._mean_ns // 1_000)  # thousandths of the root of the step in s
        noise = self._dice.normal(mood.sigma * price * root // 1_000)
        self._fair = max(self._fair + drift + noise, FAIR_LEAST)

    def _change_regime(self) -> None:
        roll = self._dice.below(10)
        self.regime = Regime.TREND if roll < 6 else Regime(2 * (roll < 8))
        least, most = MOODS[self.regime].seconds
        self._regime_until = self._now + self._dice.between(least, most) * SECOND_NS
        away = (self._fair // SCALE - self._first_ticks) * 10_000 // self._first_ticks
        if abs(away) > ANCHOR_BPS:
            self._direction = -1 if away > 0 else 1
        elif self.regime is Regime.TREND:
            self._direction = -self._direction

    def _quote(self) -> bool:
        """Let the book follow the fair price; return whether the top changed."""
        spread = self._dice.between(1, MOODS[self.regime].spread_most)
        bid = self._fair // SCALE - spread // 2
        ask = bid + spread
        before = self._top()
        self._shape(0, bid, -1)
        self._shape(1, ask, 1)
        return self._top() != before

    def _shape(self, side: int, best: int, outward: int) -> None:
        """Make *best* the best level of a side, 50 deep, and change one size within."""
        book = self._side(side)
        for tick in [tick for tick in book if (tick - best) * outward < 0]:
            self._set(side, tick, 0)
        if best not in book:
            self._set(side, best, self._size())
        ordered = sorted(book, reverse=outward < 0)
        for tick in ordered[LEVELS:]:
            self._set(side, tick, 0)
        deepest = ordered[-1]
        for _ in range(LEVELS - len(ordered)):
            deepest += outward * self._dice.between(1, 40)
            self._set(side, deepest, self._size())
        self._set(side, ordered[self._dice.below(min(10, len(ordered)))], self._size())

    def _side(self, side: int) -> dict[int, int]:
        return self._asks if side else self._bids

    def _set(self, side: int, tick: int, lots: int) -> None:
        self._update_id += 1
        self._changed[side][tick] = lots
        if lots:
            self._side(side)[tick] = lots
        else:
            self._side(side).pop(tick, None)

    def _size(self) -> int:
        return self._dice.between(100, 20_000) * self._dice.between(1, 12)

    def _top(self) -> tuple[int, int, int, int]:
        if not self._bids:
            return (0, 0, 0, 0)
        bid, ask = max(self._bids), min(self._asks)
        return bid, self._bids[bid], ask, self._asks[ask]

    def _trade(self) -> Iterator[Frame]:
        """Yield a cluster of prints that eat from the best level, never all of it."""
        bias = 10 + 5 * self._direction * (self.regime is Regime.TREND)
        side = int(self._dice.below(20) < bias)  # 1: a buyer takes the ask
        bid, bid_lots, ask, ask_lots = self._top()
        tick, lots = (ask, ask_lots) if side else (bid, bid_lots)
        for _ in range(self._dice.between(1, 3)):
            taken = min(lots - 1, self._dice.between(10, 6_000))
            if taken < 1:
                return
            lots -= taken
            self._set(side, tick, lots)
            self._trade_id += 1
            yield self._frame(
                f'"stream":"{self.symbol.lower()}@trade","data":{{"e":"trade",{self._head()},'
                f'"t":{self._trade_id},"p":"{price(tick)}","q":"{quantity(taken)}",'
                f'"T":{self._event_ms()},"m":{"false" if side else "true"},"M":true}}'
            )

    def _tell_ticker(self) -> Frame:
        bid, bid_lots, ask, ask_lots = self._top()
        return self._frame(
            f'"stream":"{self.symbol.lower()}@bookTicker","data":{{"u":{self._update_id},'
            f'"s":"{self.symbol}","b":"{price(bid)}","B":"{quantity(bid_lots)}",'
            f'"a":"{price(ask)}","A":"{quantity(ask_lots)}"}}'
        )

    def _tell_diff(self) -> Iterator[Frame]:
        self._diff_at += DIFF_NS * (1 + (self._now - self._diff_at) // DIFF_NS)
        if self._update_id == self._told_id:
            return
        bids, asks = (levels(sorted(changed.items())) for changed in self._changed)
        yield self._frame(
            f'"stream":"{self.symbol.lower()}@depth@100ms","data":{{"e":"depthUpdate",'
            f'{self._head()},"U":{self._told_id + 1},"u":{self._update_id},"b":{bids},"a":{asks}}}'
        )
        self._told_id = self._update_id
        self._changed = ({}, {})
        if self._snapshot_in:
            self._snapshot_in -= 1
            if not self._snapshot_in:
                bids = levels(sorted(self._bids.items(), reverse=True))
                asks = levels(sorted(self._asks.items()))
                yield self._frame(f'"lastUpdateId":{self._update_id},"bids":{bids},"asks":{asks}')

    def _head(self) -> str:
        return f'"E":{self._event_ms()},"s":"{self.symbol}"'

    def _event_ms(self) -> int:
        return (self._now - DELAY_NS) // 1_000_000

    def _frame(self, body: str) -> Frame:
        return Frame(self._now, f"{{{body}}}".encode(), self.symbol)


def price(ticks: int) -> str:
    """Return the text of a price of *ticks* hundredths."""
    return f"{ticks // 100}.{ticks % 100:02d}000000"


def quantity(lots: int) -> str:
    """Return the text of a quantity of *lots* hundred-thousandths."""
    return f"{lots // 100_000}.{lots % 100_000:05d}000"


def levels(changed: list[tuple[int, int]]) -> str:
    """Return levels as JSON text."""
    return "[" + ",".join(f'["{price(t)}","{quantity(q)}"]' for t, q in changed) + "]"


def merged(markets: list[Synthetic]) -> Iterator[Frame]:
    """Yield the frames of several symbols by receive time."""
    return merge(*(market.frames() for market in markets), key=itemgetter(0))
