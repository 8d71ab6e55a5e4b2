"""Binance spot and USD-M: combined-stream messages and REST snapshots to values.

Trade.ts_event is the trade time T; of books and quotes it is the event time E, 0 where the
venue gives none. Message.sent is always E.

Never here: network, order of messages, books.
"""

from decimal import Decimal
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from mesh.errors import Invalid
from nodes.domain.market import (
    BUY,
    SELL,
    BookDelta,
    BookSnapshot,
    Level,
    Quarantined,
    Quote,
    Trade,
    TradeKind,
)
from nodes.domain.numbers import parse_venue
from nodes.market_data.reference import Registry

MILLI: Final = 1_000_000
FIRST_MS: Final = 1_230_768_000_000  # 2009: no venue is older
LAST_MS: Final = 4_102_444_800_000  # 2100
RAW_SHOWN: Final = 256
NUMBERS_KEPT: Final = 65_536  # texts of numbers repeat; parsing one costs microseconds

Value: TypeAlias = Trade | Quote | BookDelta | BookSnapshot | Quarantined
Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# Prices stay Any: a number without quotes is then refused as a number, not as bad JSON.
Levels: TypeAlias = list[tuple[Any, Any]]


class Message(NamedTuple):
    """A parsed message: its channel as the venue spells it, E in ns or 0, the value."""

    channel: str
    sent: int
    value: Value


class Refusal(Invalid):
    """Why a message is quarantined; the text is the reason code."""


class _Combined(msgspec.Struct, gc=False):
    stream: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class _Trade(msgspec.Struct, gc=False):
    s: str
    t: Id
    p: Any
    q: Any
    T: int
    E: int
    m: bool
    X: str = "MARKET"


class _Ticker(msgspec.Struct, gc=False):
    s: str
    u: Id
    b: Any
    B: Any
    a: Any
    A: Any
    E: int = 0


class _Diff(msgspec.Struct):
    s: str
    U: Id
    u: Id
    b: Levels
    a: Levels
    E: int
    pu: Id = 0


class _Snapshot(msgspec.Struct):
    lastUpdateId: Id
    bids: Levels
    asks: Levels
    E: int = 0


_read_combined: Final = msgspec.json.Decoder(_Combined)
_read_trade: Final = msgspec.json.Decoder(_Trade)
_read_ticker: Final = msgspec.json.Decoder(_Ticker)
_read_diff: Final = msgspec.json.Decoder(_Diff)
_read_snapshot: Final = msgspec.json.Decoder(_Snapshot)


def escaped(raw: bytes) -> str:
    """Return *raw* as printable ASCII of at most 256 characters."""
    return ascii(raw[:RAW_SHOWN].decode("utf-8", "replace"))[1:-1][:RAW_SHOWN]


def nanoseconds(ms: int) -> int:
    """Return ns of a venue's ms, 0 of 0. Raises Refusal outside 2009 to 2100."""
    if ms and not FIRST_MS <= ms < LAST_MS:
        raise Refusal("TS_RANGE")
    return ms * MILLI


class Parser:
    """Turns messages of one connection or capture into values; never raises for their content."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._numbers: dict[str, Decimal] = {}
        self._symbols: dict[str, str] = {}  # by origin: whose bare snapshot it is

    def parse(self, raw: bytes, recv_ns: int, origin: str = "") -> Message:
        """Return the value in *raw*, or Quarantined with its reason.

        origin names the file or connection; a bare snapshot belongs to its last symbol.
        """
        channel = ""
        try:
            combined = _read_combined.decode(raw)
            symbol, _, channel = combined.stream.partition("@")
            if not combined.stream:
                return self._bare_snapshot(raw, recv_ns, self._symbols.get(origin, ""))
            return self._dispatch(channel, symbol.upper(), combined.data, recv_ns, origin)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            reason = "DECODE"
        except Refusal as error:
            reason = str(error)
        except Invalid:  # a wire type refused its own fields
            reason = "NON_POSITIVE"
        return Message(
            channel, 0, Quarantined(self._registry.venue, reason, escaped(raw), recv_ns)
        )

    def _dispatch(
        self, channel: str, symbol: str, data: msgspec.Raw, recv: int, origin: str
    ) -> Message:
        if channel == "trade":
            return self._trade(channel, symbol, _read_trade.decode(data), recv)
        if channel == "bookTicker":
            return self._quote(channel, symbol, _read_ticker.decode(data), recv)
        if channel.partition("@")[0] == "depth":
            self._symbols[origin] = symbol
            return self._delta(channel, symbol, _read_diff.decode(data), recv)
        if channel == "snapshot":  # ours: a REST answer, wrapped so that it names its symbol
            return self._bare_snapshot(bytes(data), recv, symbol)
        raise Refusal("UNKNOWN_STREAM")

    def _trade(self, channel: str, symbol: str, raw: _Trade, recv: int) -> Message:
        sent = nanoseconds(raw.E)
        trade = Trade(
            self._instrument(symbol, raw.s),
            str(raw.t),
            self._number(raw.p),
            self._number(raw.q),
            SELL if raw.m else BUY,
            TradeKind.MARKET if raw.X == "MARKET" else TradeKind.OFF_BOOK,
            nanoseconds(raw.T),
            recv,
        )
        return Message(channel, sent, trade)

    def _quote(self, channel: str, symbol: str, raw: _Ticker, recv: int) -> Message:
        sent = nanoseconds(raw.E)
        bid, ask = self._number(raw.b), self._number(raw.a)
        bid_size, ask_size = self._number(raw.B), self._number(raw.A)
        if bid >= ask > 0:
            raise Refusal("CROSSED")
        if bid_size < 0 or ask_size < 0:
            raise Refusal("NON_POSITIVE")
        instrument = self._instrument(symbol, raw.s)
        return Message(
            channel, sent, Quote(instrument, bid, bid_size, ask, ask_size, raw.u, sent, recv)
        )

    def _delta(self, channel: str, symbol: str, raw: _Diff, recv: int) -> Message:
        sent = nanoseconds(raw.E)
        if raw.u < raw.U:
            raise Refusal("ID_BACK")
        bids, asks = self._levels(raw.b), self._levels(raw.a)
        instrument = self._instrument(symbol, raw.s)
        return Message(
            channel, sent, BookDelta(instrument, raw.U, raw.u, raw.pu, bids, asks, sent, recv)
        )

    def _bare_snapshot(self, raw: bytes, recv: int, symbol: str) -> Message:
        snapshot = _read_snapshot.decode(raw)
        sent = nanoseconds(snapshot.E)
        bids, asks = self._levels(snapshot.bids), self._levels(snapshot.asks)
        instrument = self._instrument(symbol, symbol)
        value = BookSnapshot(instrument, snapshot.lastUpdateId, bids, asks, 0, sent, recv)
        return Message("rest_snapshot", sent, value)

    def _instrument(self, symbol: str, said: str) -> str:
        if symbol != said:
            raise Refusal("UNKNOWN_SYMBOL")
        try:
            return self._registry.find(symbol).symbol
        except Invalid:
            raise Refusal("UNKNOWN_SYMBOL") from None

    def _number(self, text: Any) -> Decimal:
        if type(text) is not str:
            raise Refusal("BAD_NUMBER")
        found = self._numbers.get(text)
        if found is not None:
            return found
        try:
            number = parse_venue(text)
        except Invalid:
            raise Refusal("BAD_NUMBER") from None
        if len(self._numbers) >= NUMBERS_KEPT:
            self._numbers.clear()
        self._numbers[text] = number
        return number

    def _levels(self, raw: Levels) -> tuple[Level, ...]:
        number = self._number
        levels = tuple([(number(price), number(quantity)) for price, quantity in raw])
        for price, quantity in levels:
            if not (price > 0 and quantity >= 0):
                raise Refusal("NON_POSITIVE")
        return levels
