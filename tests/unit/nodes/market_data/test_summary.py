import json
from typing import Any

from nodes.market_data.frame import Frame
from nodes.market_data.normalize import Normalizer
from nodes.market_data.reference import Registry
from nodes.market_data.summary import spread, summarize

MINUTE_MS = 1_700_000_040_000  # a multiple of 60 000


def trade(number: int, at_ms: int, price: str, quantity: str, **more: Any) -> Frame:
    symbol = more.pop("symbol", "BTCUSDT")
    data = {
        "s": symbol,
        "t": number,
        "p": price,
        "q": quantity,
        "T": MINUTE_MS + at_ms,
        "E": MINUTE_MS + at_ms + 1,
        "m": False,
        **more,
    }
    raw = json.dumps({"stream": f"{symbol.lower()}@trade", "data": data}).encode()
    return Frame((MINUTE_MS + at_ms + 3) * 1_000_000, raw)


def summary(*frames: Frame) -> dict[str, Any]:
    return summarize(frames, Normalizer(Registry("BINANCE"), futures=False))


def test_totals_are_exact_and_bars_go_by_trade_time() -> None:
    told = summary(
        trade(1, 0, "100.1", "0.3"),
        trade(2, 59_999, "99.9", "0.1", m=True),
        trade(4, 60_000, "100", "1"),
    )
    assert told["market_trades"] == {"count": 3, "qty": "1.4", "notional": "140.02"}
    first, second = told["candles_1m_by_trade_time"]
    assert first == {
        "t": MINUTE_MS,
        "o": "100.1",
        "h": "100.1",
        "l": "99.9",
        "c": "99.9",
        "v": "0.4",
        "qv": "40.02",
        "n": 2,
        "taker_buy_v": "0.3",
    }
    assert (second["t"], second["n"]) == (MINUTE_MS + 60_000, 1)
    assert told["trade_id_gaps"] == 1
    assert told["recv_minus_event_ms"]["median"] == 2.0


def test_prints_outside_the_book_enter_no_bar() -> None:
    told = summary(trade(1, 0, "100", "1"), trade(2, 1, "5", "9", X="INSURANCE_FUND"))
    assert told["market_trades"]["qty"] == "1"
    assert told["non_market_trades"] == [{"trade_id": "2", "price": "5", "qty": "9"}]
    assert len(told["candles_1m_by_trade_time"]) == 1


def test_refused_messages_are_counted_by_reason() -> None:
    told = summary(trade(1, 0, "100", "1"), trade(1, 1, "100", "1"), Frame(1, b"nonsense"))
    assert told["quarantined"] == {"DECODE": 1, "DUPLICATE": 1}
    assert told["lines"] == 3


def test_several_instruments_are_told_apart() -> None:
    told = summary(trade(1, 0, "100", "1"), trade(1, 0, "7", "1", symbol="ETHUSDT"))
    assert [part["instrument"] for part in told["instruments"]] == [
        "BTC-USDT.BINANCE",
        "ETH-USDT.BINANCE",
    ]


def test_nothing_gives_an_empty_summary() -> None:
    assert summary()["lines"] == 0
    assert spread([]) is None


def test_spread_of_one() -> None:
    assert spread([-1_500_000]) == {"min": -1.5, "median": -1.5, "p99": -1.5, "max": -1.5}
