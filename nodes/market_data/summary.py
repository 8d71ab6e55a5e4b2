"""Summary: what a capture holds, in one document; totals exact, bars by trade time.

Of an instrument it tells counts, gaps, totals, bars, the final book; of several, each.

Never here: files, rounding of money.
"""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from nodes.domain.market import BUY, Quarantined, Trade, TradeKind
from nodes.domain.numbers import ZERO, add, canon, mul
from nodes.market_data.frame import Frame
from nodes.market_data.normalize import TOP, Normalizer, Step, level_texts

MINUTE_NS = 60_000_000_000
MILLI_NS = 1_000_000


class MinuteBar:
    """A minute of trades; mutable, grows until the capture ends."""

    __slots__ = ("close", "count", "high", "low", "notional", "open", "taker_buy", "volume")

    def __init__(self, price: Decimal) -> None:
        self.open = self.high = self.low = self.close = price
        self.volume = self.notional = self.taker_buy = ZERO
        self.count = 0

    def take(self, trade: Trade) -> None:
        """Add one trade."""
        self.high = max(self.high, trade.price)
        self.low = min(self.low, trade.price)
        self.close = trade.price
        self.volume = add(self.volume, trade.quantity)
        self.notional = add(self.notional, mul(trade.price, trade.quantity))
        self.count += 1
        if trade.aggressor is BUY:
            self.taker_buy = add(self.taker_buy, trade.quantity)

    def document(self, open_ms: int) -> dict[str, Any]:
        """Return the bar with its opening time in ms."""
        return {
            "t": open_ms,
            "o": canon(self.open),
            "h": canon(self.high),
            "l": canon(self.low),
            "c": canon(self.close),
            "v": canon(self.volume),
            "qv": canon(self.notional),
            "n": self.count,
            "taker_buy_v": canon(self.taker_buy),
        }


class Tally:
    """What was seen of one instrument."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies: list[int] = []  # receive - event, ns; negative where clocks disagree
        self.bars: dict[int, MinuteBar] = {}
        self.off_book: list[Trade] = []

    def take(self, step: Step, recv_ns: int) -> None:
        """Count one message that was not refused."""
        channel, sent, value = step.message
        self.counts[channel] += 1
        if sent and channel != "rest_snapshot":  # an answer's age says nothing about the stream
            self.latencies.append(recv_ns - sent)
        if not isinstance(value, Trade):
            return
        if value.kind is TradeKind.OFF_BOOK:
            self.off_book.append(value)
            return
        minute = value.ts_event // MINUTE_NS
        if minute not in self.bars:
            self.bars[minute] = MinuteBar(value.price)
        self.bars[minute].take(value)

    def document(self) -> dict[str, Any]:
        """Return counts, totals and bars."""
        bars = [self.bars[minute] for minute in sorted(self.bars)]
        quantity = notional = ZERO
        for bar in bars:
            quantity, notional = add(quantity, bar.volume), add(notional, bar.notional)
        return {
            "counts": dict(sorted(self.counts.items())),
            "recv_minus_event_ms": spread(self.latencies),
            "market_trades": {
                "count": sum(bar.count for bar in bars),
                "qty": canon(quantity),
                "notional": canon(notional),
            },
            "non_market_trades": [
                {"trade_id": t.trade_id, "price": canon(t.price), "qty": canon(t.quantity)}
                for t in self.off_book
            ],
            "candles_1m_by_trade_time": [
                self.bars[minute].document(minute * 60_000) for minute in sorted(self.bars)
            ],
        }


def spread(latencies: list[int]) -> dict[str, float] | None:
    """Return min, median, p99, max in ms to the microsecond; None of nothing."""
    if not latencies:
        return None
    ordered = sorted(latencies)
    last = len(ordered) - 1
    places = {"min": 0, "median": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": last}
    return {name: round(ordered[place] / MILLI_NS, 3) for name, place in places.items()}


def summarize(frames: Iterable[Frame], normalizer: Normalizer) -> dict[str, Any]:
    """Read *frames* to their end; return the summary document."""
    tallies: dict[str, Tally] = {}
    refused: Counter[str] = Counter()
    lines = first = last = 0
    for frame in frames:
        lines += 1
        first, last = first or frame.recv_ns, frame.recv_ns
        step = normalizer.step(frame)
        value = step.message.value
        if isinstance(value, Quarantined):
            refused[value.reason] += 1
            continue
        if value.instrument not in tallies:
            tallies[value.instrument] = Tally()
        tallies[value.instrument].take(step, frame.recv_ns)
    head = {
        "lines": lines,
        "first_recv": first,
        "last_recv": last,
        "quarantined": dict(sorted(refused.items())),
    }
    parts = [_instrument_document(name, tallies[name], normalizer) for name in sorted(tallies)]
    if len(parts) == 1:
        return {**head, **parts[0]}
    return {**head, "instruments": parts}


def _instrument_document(name: str, tally: Tally, normalizer: Normalizer) -> dict[str, Any]:
    document = {
        "instrument": name,
        **tally.document(),
        "trade_id_gaps": normalizer.validator.trade_gaps.get(name, 0),
    }
    book = normalizer.books.get(name)
    if book is None:
        return {**document, "final_book": None}
    texts = level_texts(book.top(TOP))
    return {
        **document,
        "depth_sequence_gaps": book.gaps,
        "diffs_at_or_before_snapshot": book.dropped,
        "diffs_applied": book.applied,
        "crossed_book_checks": book.crossings,
        "final_book": {
            "state": book.state.lower(),
            "last_u": book.last_id,
            "levels": [len(book.bids.prices), len(book.asks.prices)],
            "bids20": texts["bids"],
            "asks20": texts["asks"],
        },
    }
