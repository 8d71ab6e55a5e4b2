"""Market values: quote, trade, book, bar, status. Immutable, exact, append-only on the wire.

Decimals are prices in quote per base and quantities in base; ts_* are ns UTC, ts_event 0
where the venue gives none.

Never here: indicators, venue spelling, behaviour of books.
"""

from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

import msgspec

from mesh.errors import Invalid
from nodes.domain.numbers import bounded

Level: TypeAlias = tuple[Decimal, Decimal]  # price, quantity


class Side(StrEnum):
    """Of an order, a fill or the aggressor of a trade."""

    BUY = "BUY"
    SELL = "SELL"


BUY = Side.BUY
SELL = Side.SELL


class TradeKind(StrEnum):
    """Whether a print counts: OFF_BOOK never enters bars, marks, stops or fills."""

    MARKET = "MARKET"
    OFF_BOOK = "OFF_BOOK"
    SUSPECT = "SUSPECT"


class FeedState(StrEnum):
    """What one (instrument, channel) feed is worth."""

    LIVE = "LIVE"
    SYNCING = "SYNCING"
    RESYNCING = "RESYNCING"
    STALE = "STALE"
    HALTED = "HALTED"
    DOWN = "DOWN"


class Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value on the wire: a MessagePack array in field order; new fields go last."""


class Quote(Wire, frozen=True):
    """Best bid and ask. Raises Invalid unless 0 < bid < ask."""

    instrument: str
    bid: Decimal
    bid_size: Decimal
    ask: Decimal
    ask_size: Decimal
    update_id: int = 0
    ts_event: int = 0
    ts_recv: int = 0

    def __post_init__(self) -> None:
        for value in (self.bid, self.bid_size, self.ask, self.ask_size):
            bounded(value)
        if not (0 < self.bid < self.ask):
            raise Invalid(f"crossed or empty quote of {self.instrument}: {self.bid}/{self.ask}")


class Trade(Wire, frozen=True):
    """A public print. aggressor: None where the venue does not say."""

    instrument: str
    trade_id: str
    price: Decimal
    quantity: Decimal
    aggressor: Side | None
    kind: TradeKind = TradeKind.MARKET
    ts_event: int = 0
    ts_recv: int = 0

    def __post_init__(self) -> None:
        bounded(self.price)
        bounded(self.quantity)
        if not (self.price > 0 and self.quantity > 0):
            raise Invalid(f"trade of {self.instrument} without price or quantity")


class BookSnapshot(Wire, frozen=True):
    """A whole book (or its top): bids falling, asks rising."""

    instrument: str
    update_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    limit: int = 0  # levels a side; 0 = all the venue gave
    ts_event: int = 0
    ts_recv: int = 0


class BookDelta(Wire, frozen=True):
    """Changed levels; quantity 0 deletes. prev_id is 0 where the venue has none."""

    instrument: str
    first_id: int
    last_id: int
    prev_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    ts_event: int = 0
    ts_recv: int = 0


class Bar(Wire, frozen=True):
    """Closed prices of [open_ts, close_ts). Raises Invalid unless low <= open, close <= high."""

    instrument: str
    interval: str  # 1s, 1m, 5m, 1h
    open_ts: int
    close_ts: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    quote_volume: Decimal
    taker_buy: Decimal
    trades: int
    empty: bool = False
    gap: bool = False

    def __post_init__(self) -> None:
        if not (self.low <= self.open <= self.high and self.low <= self.close <= self.high):
            raise Invalid(f"bar of {self.instrument} with prices out of order")


class FeedStatus(Wire, frozen=True):
    """State of a feed since ts, with its reason; channel is trade, quote or book."""

    instrument: str
    channel: str
    state: FeedState
    since: int
    reason: str = ""


class Quarantined(Wire, frozen=True):
    """A message that was refused; raw is escaped and at most 256 characters."""

    venue: str
    reason: str  # DECODE UNKNOWN_STREAM UNKNOWN_SYMBOL BAD_NUMBER NON_POSITIVE ... CHECKSUM
    raw: str
    ts_recv: int = 0


class IndicatorValue(Wire, frozen=True):
    """One value of a technical indicator at a bar's close; a float, never money."""

    instrument: str
    interval: str
    name: str
    value: float
    close_ts: int
