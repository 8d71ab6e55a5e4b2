import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.domain.market import (
    BUY,
    SELL,
    BookDelta,
    BookSnapshot,
    Quarantined,
    Quote,
    Trade,
    TradeKind,
)
from nodes.market_data.parsers.binance import Parser, Refusal, Value, escaped, nanoseconds
from nodes.market_data.reference import Registry

E = 1_723_161_255_343
TRADE = {
    "e": "trade",
    "E": E,
    "s": "BTCUSDT",
    "t": 37,
    "p": "61837.63000000",
    "q": "0.02000000",
    "T": E - 1,
    "m": True,
    "M": True,
}
TICKER = {"u": 9, "s": "BTCUSDT", "b": "61837.63", "B": "3.7", "a": "61837.64", "A": "1.5"}
DIFF = {
    "e": "depthUpdate",
    "E": E,
    "s": "BTCUSDT",
    "U": 3,
    "u": 7,
    "b": [["61737.63", "0.00000000"]],
    "a": [["61837.64", "1.5"]],
}
SNAPSHOT = {"lastUpdateId": 6, "bids": [["61737.63", "1"]], "asks": [["61837.64", "1.5"]]}


def combined(channel: str, data: Any, symbol: str = "btcusdt") -> bytes:
    return json.dumps({"stream": f"{symbol}@{channel}", "data": data}).encode()


def parse(raw: bytes, *, perpetual: bool = False) -> Value:
    return Parser(Registry("BINANCE", perpetual=perpetual)).parse(raw, 77).value


def reason(raw: bytes) -> str:
    value = parse(raw)
    assert isinstance(value, Quarantined)
    return value.reason


def test_trade_is_read_with_trade_time_and_aggressor() -> None:
    value = parse(combined("trade", TRADE))
    assert value == Trade(
        "BTC-USDT.BINANCE",
        "37",
        Decimal("61837.63"),
        Decimal("0.02"),
        SELL,
        TradeKind.MARKET,
        (E - 1) * 1_000_000,
        77,
    )
    bought = parse(combined("trade", {**TRADE, "m": False}))
    assert isinstance(bought, Trade)
    assert bought.aggressor is BUY


def test_message_tells_channel_and_event_time() -> None:
    message = Parser(Registry("BINANCE")).parse(combined("trade", TRADE), 77)
    assert (message.channel, message.sent) == ("trade", E * 1_000_000)


@pytest.mark.parametrize("x", ["INSURANCE_FUND", "NA", ""])
def test_prints_outside_the_book_are_marked(x: str) -> None:
    value = parse(combined("trade", {**TRADE, "X": x}), perpetual=True)
    assert isinstance(value, Trade)
    assert (value.kind, value.instrument) == (TradeKind.OFF_BOOK, "BTC-USDT-PERP.BINANCE")


def test_spot_quote_has_no_event_time_and_usdm_has() -> None:
    spot, usdm = (
        parse(combined("bookTicker", TICKER)),
        parse(combined("bookTicker", {**TICKER, "E": E})),
    )
    assert isinstance(spot, Quote)
    assert isinstance(usdm, Quote)
    assert (spot.ts_event, usdm.ts_event) == (0, E * 1_000_000)
    assert (spot.update_id, spot.bid_size) == (9, Decimal("3.7"))


@pytest.mark.parametrize("channel", ["depth@100ms", "depth@0ms", "depth"])
def test_diff_keeps_ids_and_deletions(channel: str) -> None:
    value = parse(combined(channel, {**DIFF, "pu": 2}))
    assert isinstance(value, BookDelta)
    assert (value.first_id, value.last_id, value.prev_id) == (3, 7, 2)
    assert value.bids == ((Decimal("61737.63"), Decimal(0)),)


def test_bare_snapshot_belongs_to_the_symbol_of_its_origin() -> None:
    parser = Parser(Registry("BINANCE"))
    parser.parse(combined("depth", DIFF), 1, "one.gz")
    parser.parse(combined("depth", {**DIFF, "s": "ETHUSDT"}, "ethusdt"), 1, "two.gz")
    bare = json.dumps(SNAPSHOT).encode()
    instruments = [parser.parse(bare, 2, origin).value for origin in ("one.gz", "two.gz", "?")]
    assert [getattr(value, "instrument", None) for value in instruments] == [
        "BTC-USDT.BINANCE",
        "ETH-USDT.BINANCE",
        None,
    ]


def test_wrapped_snapshot_names_its_symbol() -> None:
    value = parse(combined("snapshot", SNAPSHOT))
    assert isinstance(value, BookSnapshot)
    assert (value.instrument, value.update_id) == ("BTC-USDT.BINANCE", 6)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "DECODE"),
        (b"{", "DECODE"),
        (b"[]", "DECODE"),
        (b"\xff\xfe", "DECODE"),
        (b'{"stream":"btcusdt@trade","data":{"s":"\xff"}}', "DECODE"),
        (b'{"stream":"btcusdt@trade"}', "DECODE"),
        (b"[" * 100_000, "DECODE"),
        (b'{"stream":"btcusdt@trade","data":' + b"[" * 100_000, "DECODE"),
        (combined("trade", {**TRADE, "t": -1}), "DECODE"),
        (combined("trade", {**TRADE, "t": 2**70}), "DECODE"),
        (combined("trade", {**TRADE, "m": "yes"}), "DECODE"),
        (combined("aggTrade", TRADE), "UNKNOWN_STREAM"),
        (combined("", TRADE), "UNKNOWN_STREAM"),
        (combined("trade", {**TRADE, "s": "ETHUSDT"}), "UNKNOWN_SYMBOL"),
        (combined("trade", {**TRADE, "s": "BTCXYZ"}, "btcxyz"), "UNKNOWN_SYMBOL"),
        (b'{"lastUpdateId":1,"bids":[],"asks":[]}', "UNKNOWN_SYMBOL"),
        (combined("trade", {**TRADE, "p": 61837.63}), "BAD_NUMBER"),
        (combined("trade", {**TRADE, "p": "NaN"}), "BAD_NUMBER"),
        (combined("trade", {**TRADE, "p": "1E+999999"}), "BAD_NUMBER"),
        (combined("trade", {**TRADE, "p": None}), "BAD_NUMBER"),
        (combined("trade", {**TRADE, "p": ["1"]}), "BAD_NUMBER"),
        (combined("trade", {**TRADE, "q": "0.00000000"}), "NON_POSITIVE"),
        (combined("trade", {**TRADE, "p": "-5"}), "NON_POSITIVE"),
        (combined("trade", {**TRADE, "E": 1}), "TS_RANGE"),
        (combined("trade", {**TRADE, "T": 10**30}), "TS_RANGE"),
        (combined("trade", {**TRADE, "E": -E}), "TS_RANGE"),
        (combined("bookTicker", {**TICKER, "b": "61837.64"}), "CROSSED"),
        (combined("bookTicker", {**TICKER, "b": "0"}), "NON_POSITIVE"),
        (combined("bookTicker", {**TICKER, "B": "-1"}), "NON_POSITIVE"),
        (combined("depth", {**DIFF, "U": 8}), "ID_BACK"),
        (combined("depth", {**DIFF, "b": [["1", "-1"]]}), "NON_POSITIVE"),
        (combined("depth", {**DIFF, "b": [["0", "1"]]}), "NON_POSITIVE"),
        (combined("depth", {**DIFF, "b": [["1"]]}), "DECODE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_believed_is_quarantined(raw: bytes, expected: str) -> None:
    assert reason(raw) == expected


def test_quarantine_shows_little_and_only_printable_text() -> None:
    value = parse(b"\x1b[31m\xff\n" + b"x" * 10_000)
    assert isinstance(value, Quarantined)
    assert len(value.raw) <= 256
    assert value.raw.isprintable()
    assert value.ts_recv == 77


def test_escaped_keeps_plain_text() -> None:
    assert escaped(b'{"a":1}') == '{"a":1}'


def test_zero_time_means_none_and_the_range_ends() -> None:
    assert nanoseconds(0) == 0
    with pytest.raises(Refusal):
        nanoseconds(4_102_444_800_000)


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(raw: bytes) -> None:
    assert isinstance(parse(raw), Quarantined)


@given(
    st.sampled_from(["trade", "bookTicker", "depth", "snapshot"]),
    st.sampled_from("sEtpqTmXubBaAU"),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3),
    ),
)
def test_any_field_may_be_anything(channel: str, field: str, value: Any) -> None:
    data = {"trade": TRADE, "bookTicker": TICKER, "depth": DIFF, "snapshot": SNAPSHOT}[channel]
    assert parse(combined(channel, {**data, field: value})) is not None
