import json
from itertools import islice
from typing import Any

from nodes.market_data.frame import Frame
from nodes.market_data.normalize import Normalizer, documents
from nodes.market_data.reference import Registry
from nodes.market_data.sources.synthetic import Synthetic

START = 1_700_000_000_000_000_000


def market_frames(count: int) -> list[Frame]:
    market = Synthetic("BTCUSDT", seed=7, start_ns=START, start_ticks=6_123_400, events_per_s=200)
    return list(islice(market.frames(), count))


def told(frames: list[Frame], *, books: bool = False) -> list[dict[str, Any]]:
    normalizer = Normalizer(Registry("BINANCE"), futures=False)
    return list(documents(frames, normalizer, books=books))


def test_values_are_told_with_exact_texts_and_nanoseconds() -> None:
    data = {
        "s": "BTCUSDT",
        "t": 5,
        "p": "61837.60000000",
        "q": "3.844E-5",
        "T": 1_700_000_000_123,
        "E": 1_700_000_000_124,
        "m": True,
    }
    raw = json.dumps({"stream": "btcusdt@trade", "data": data}).encode()
    assert told([Frame(START, raw)]) == [
        {
            "type": "trade",
            "instrument": "BTC-USDT.BINANCE",
            "ts_event": 1_700_000_000_123_000_000,
            "ts_recv": START,
            "price": "61837.6",
            "quantity": "0.00003844",
            "aggressor": "sell",
            "trade_id": "5",
            "kind": "market",
        }
    ]


def test_quote_without_event_time_says_null() -> None:
    data = {"s": "BTCUSDT", "u": 5, "b": "1.10", "B": "2", "a": "1.2", "A": "0"}
    raw = json.dumps({"stream": "btcusdt@bookTicker", "data": data}).encode()
    (quote,) = told([Frame(START, raw)])
    assert quote["ts_event"] is None
    assert [quote[name] for name in ("bid", "bid_size", "ask", "ask_size")] == [
        *("1.1", "2", "1.2", "0")
    ]


def test_refused_input_is_told_with_its_reason() -> None:
    assert told([Frame(START, b"{oops")]) == [
        {"type": "quarantine", "reason": "DECODE", "raw": "{oops", "ts_recv": START}
    ]


def test_books_are_told_only_when_asked_for() -> None:
    frames = market_frames(600)
    plain, full = told(frames), told(frames, books=True)
    assert [one for one in full if one["type"] != "book"] == plain
    books = [one for one in full if one["type"] == "book"]
    assert len(books) > 10
    assert len(books[-1]["bids"]) == len(books[-1]["asks"]) == 20
    assert float(books[-1]["bids"][0][0]) < float(books[-1]["asks"][0][0])
    assert [one["seq"] for one in books] == sorted(one["seq"] for one in books)


def test_book_states_are_told_as_they_change() -> None:
    states = [one["state"] for one in told(market_frames(600)) if one["type"] == "status"]
    assert states == ["buffering", "live"]


def test_every_document_is_json() -> None:
    assert json.loads(json.dumps(told(market_frames(100), books=True)))
