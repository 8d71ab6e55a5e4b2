"""Trades to closed bars: exact, contiguous, on multiples of UTC, never changed afterwards.

The shortest interval is made from trades, the longer ones are sums of it, so that all agree.
A bar closes when the venue's time passes its end by a delay; what comes later is counted.

Never here: open bars as events, wall clocks, indicators.
"""

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from mesh.errors import Invalid
from nodes.domain.market import BUY, Bar, FeedState, Trade, TradeKind
from nodes.domain.numbers import ZERO, add, mul

OFF_BOOK = TradeKind.OFF_BOOK
LIVE = FeedState.LIVE
DOWN = FeedState.DOWN

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_INTERVAL: Final = re.compile(r"([1-9][0-9]{0,3})([smhd])", re.ASCII)


def interval_ns(interval: str) -> int:
    """Return the length of "1s", "5m", "1h", "1d" in ns. Raises Invalid for other spellings."""
    found = _INTERVAL.fullmatch(interval)
    if found is None:
        raise Invalid(f"not an interval: {interval!r} (like 1s, 5m, 1h, 1d)")
    return int(found[1]) * _UNITS_S[found[2]] * 1_000_000_000


@dataclass(slots=True)
class _Sum:
    """A bar that still grows."""

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal = ZERO
    quote_volume: Decimal = ZERO
    taker_buy: Decimal = ZERO
    trades: int = 0
    empty: bool = False
    gap: bool = False

    def add_trade(self, trade: Trade) -> None:
        self.high = max(self.high, trade.price)
        self.low = min(self.low, trade.price)
        self.close = trade.price
        self.volume = add(self.volume, trade.quantity)
        self.quote_volume = add(self.quote_volume, mul(trade.price, trade.quantity))
        if trade.aggressor is BUY:
            self.taker_buy = add(self.taker_buy, trade.quantity)
        self.trades += 1

    def add_bar(self, bar: Bar) -> None:
        self.high = max(self.high, bar.high)
        self.low = min(self.low, bar.low)
        self.close = bar.close
        self.volume = add(self.volume, bar.volume)
        self.quote_volume = add(self.quote_volume, bar.quote_volume)
        self.taker_buy = add(self.taker_buy, bar.taker_buy)
        self.trades += bar.trades
        self.empty = self.empty and bar.empty
        self.gap = self.gap or bar.gap

    def closed(self, instrument: str, interval: str, open_ts: int, step: int) -> Bar:
        return Bar(
            instrument=instrument,
            interval=interval,
            open_ts=open_ts,
            close_ts=open_ts + step,
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=self.volume,
            quote_volume=self.quote_volume,
            taker_buy=self.taker_buy,
            trades=self.trades,
            empty=self.empty,
            gap=self.gap,
        )


@dataclass(slots=True)
class _Longer:
    """Sums the bars of the base interval up to a longer one; begins on a whole multiple."""

    interval: str
    step: int
    open_ts: int = -1  # -1: waiting for a whole one
    next_ts: int = 0  # where the next base bar must open, else one is missing
    sum: _Sum | None = None
    closed_ts: int = 0  # before it everything was published, by an earlier run perhaps

    def apply(self, bar: Bar) -> list[Bar]:
        """Take the next base bar in; return the longer bars that it closes."""
        done = []
        open_ts = bar.open_ts - bar.open_ts % self.step
        if self.sum is not None and open_ts != self.open_ts:
            self.sum.gap = True  # its last base bars never came
            done.append(self._take(bar.instrument))
        if self.sum is not None:
            self.sum.gap = self.sum.gap or bar.open_ts != self.next_ts
            self.sum.add_bar(bar)
        elif bar.open_ts == open_ts >= self.closed_ts:
            self.open_ts = open_ts
            self.sum = _Sum(bar.open, bar.high, bar.low, bar.close, empty=bar.empty)
            self.sum.add_bar(bar)
        self.next_ts = bar.close_ts
        if self.sum is not None and bar.close_ts == self.open_ts + self.step:
            done.append(self._take(bar.instrument))
        return done

    def _take(self, instrument: str) -> Bar:
        assert self.sum is not None
        bar = self.sum.closed(instrument, self.interval, self.open_ts, self.step)
        self.sum, self.closed_ts = None, bar.close_ts
        return bar


@dataclass(slots=True)
class _Series:
    """Everything about one instrument."""

    longer: list[_Longer]
    forming: dict[int, _Sum] = field(default_factory=dict)  # by open_ts; two at most, mostly
    next_ts: int = 0  # opening of the next bar to close; 0: no trade yet
    partial: bool = True  # the next bar began before we listened
    last: Decimal = ZERO  # previous close
    last_id: int = 0
    hole: bool = False  # trades were lost before the next one
    state: FeedState = LIVE  # trades prove it until a status says otherwise
    shaken: bool = False  # was not LIVE at some time during the forming bar
    skew_ns: int | None = None  # smallest receive - event time seen


class Bars:
    """Closed bars of many instruments and intervals.

    Every method that returns bars returns them in order of closing, the base interval first.
    """

    def __init__(self, intervals: tuple[str, ...], *, delay_ns: int, empty_max: int) -> None:
        """Raise Invalid unless every interval is a multiple of the shortest.

        delay_ns: how long after its end a bar waits for late trades. empty_max: a silence of
        more base intervals, or a jump back by as many, is a new beginning.
        """
        steps = sorted((interval_ns(interval), interval) for interval in set(intervals))
        if not steps:
            raise Invalid("no interval given")
        self._step, self._base = steps[0]
        if odd := [interval for step, interval in steps if step % self._step]:
            raise Invalid(f"interval {odd[0]} is no multiple of {self._base}")
        self._longer = steps[1:]
        self._delay_ns = delay_ns
        self._empty_max = empty_max
        self._series: dict[str, _Series] = {}
        self.late = 0  # trades that came after their bar was closed
        self.restarts = 0  # new beginnings after a jump in the source's time

    def apply(self, trade: Trade) -> list[Bar]:
        """Take a trade in and return the bars that its time closes."""
        series = self._series_of(trade.instrument)
        self._count_holes(series, trade)
        at = trade.ts_event or trade.ts_recv
        if trade.ts_event and trade.ts_recv:
            skew = trade.ts_recv - trade.ts_event
            series.skew_ns = skew if series.skew_ns is None else min(series.skew_ns, skew)
        self._begin_anew(series, at)
        if trade.kind is not OFF_BOOK:
            self._add(series, trade, at)
        return self._advance(trade.instrument, series, at)

    def hear(self, instrument: str, ts_recv: int) -> list[Bar]:
        """Let time pass to *ts_recv* of some other event; return the bars that it closes."""
        series = self._series.get(instrument)
        if series is None or (series.partial and not series.forming):
            return []  # nothing heard in this run: bars of the time before are not ours to invent
        return self._advance(instrument, series, ts_recv - (series.skew_ns or 0))

    def status(self, instrument: str, state: FeedState) -> None:
        """Learn the state of the instrument's trade feed."""
        series = self._series_of(instrument)
        series.state = state
        series.shaken = series.shaken or state is not LIVE

    def restore(self, bar: Bar) -> None:
        """Learn from a bar of an earlier run what may not be published again."""
        series = self._series_of(bar.instrument)
        if bar.interval == self._base:
            series.next_ts = max(series.next_ts, bar.close_ts)
            series.last = bar.close
        for longer in series.longer:
            if longer.interval == bar.interval:
                longer.closed_ts = max(longer.closed_ts, bar.close_ts)

    def _series_of(self, instrument: str) -> _Series:
        series = self._series.get(instrument)
        if series is None:
            longer = [_Longer(interval, step) for step, interval in self._longer]
            series = self._series[instrument] = _Series(longer)
        return series

    def _count_holes(self, series: _Series, trade: Trade) -> None:
        if not (trade.trade_id.isascii() and trade.trade_id.isdigit()):
            return  # this venue does not count
        trade_id = int(trade.trade_id)
        series.hole = series.hole or 0 < series.last_id < trade_id - 1
        series.last_id = trade_id

    def _begin_anew(self, series: _Series, at: int) -> None:
        """Forget what formed if the source jumped; bars before the jump stay as they are."""
        bucket = at - at % self._step
        if series.next_ts and abs(bucket - series.next_ts) <= self._empty_max * self._step:
            if not series.forming and series.partial:
                series.next_ts = max(series.next_ts, bucket)  # the first after a restore
            return
        self.restarts += series.next_ts != 0
        series.forming.clear()
        series.next_ts, series.partial, series.last = bucket, True, ZERO
        for longer in series.longer:
            longer.sum, longer.closed_ts = None, 0

    def _add(self, series: _Series, trade: Trade, at: int) -> None:
        bucket = at - at % self._step
        if bucket < series.next_ts:
            self.late += 1
            return
        growing = series.forming.get(bucket)
        if growing is None:
            price = trade.price
            growing = series.forming[bucket] = _Sum(price, price, price, price)
        growing.gap = growing.gap or series.hole
        series.hole = False
        growing.add_trade(trade)

    def _advance(self, instrument: str, series: _Series, venue_ts: int) -> list[Bar]:
        done: list[Bar] = []
        if venue_ts - series.next_ts > (self._empty_max + 2) * self._step + self._delay_ns:
            return done  # a jump: the next trade begins anew
        while series.next_ts + self._step + self._delay_ns <= venue_ts:
            done += self._close(instrument, series)
        return done

    def _close(self, instrument: str, series: _Series) -> list[Bar]:
        open_ts = series.next_ts
        growing = series.forming.pop(open_ts, None)
        series.next_ts += self._step
        shaken, series.shaken = series.shaken, series.state is not LIVE
        partial, series.partial = series.partial, False
        if growing is None:
            if not series.last or series.state is DOWN:
                return []
            price = series.last
            growing = _Sum(price, price, price, price, empty=True)
        series.last = growing.close
        if partial:
            return []
        growing.gap = growing.gap or shaken
        bar = growing.closed(instrument, self._base, open_ts, self._step)
        return [bar, *(made for longer in series.longer for made in longer.apply(bar))]
