from decimal import Decimal
from typing import Any

import msgspec
import pytest

from nodes.market_data.settings import MarketDataSettings

GOOD: dict[str, Any] = {
    "source": "synthetic",
    "venue": "",
    "format": "binance-spot",
    "symbols": ["BTCUSDT"],
    "files": [],
    "speed": 1.0,
    "seed": 7,
    "events_per_s": 200,
    "start_prices": {"BTCUSDT": "61234.00"},
    "depth_interval_ms": 100,
    "buffer_diffs": 10_000,
    "snapshot_wait_s": 10.0,
    "stale_after_s": 10.0,
    "ws_url": "wss://stream.example",
    "rest_url": "https://api.example",
    "rest_timeout_s": 5.0,
    "backoff_first_s": 0.5,
    "backoff_most_s": 30.0,
}


def load(**changes: Any) -> MarketDataSettings:
    return msgspec.convert({**GOOD, **changes}, MarketDataSettings)


def test_good_settings_load_with_exact_prices() -> None:
    assert load().start_prices == {"BTCUSDT": Decimal("61234.00")}


@pytest.mark.parametrize(
    ("changes", "venue"),
    [
        ({}, "SYNTHETIC"),
        ({"source": "replay", "files": ["a.gz"]}, "BINANCE"),
        ({"venue": "ELSEWHERE"}, "ELSEWHERE"),
    ],
)
def test_venue_follows_the_source_unless_named(changes: dict[str, Any], venue: str) -> None:
    assert load(**changes).venue_name == venue


def test_format_says_whether_these_are_futures() -> None:
    assert not load().futures
    assert load(source="live:binance", format="binance-usdm").futures


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"source": "magic"}, "source"),
        ({"source": "replay"}, "files"),
        ({"symbols": []}, "symbols"),
        ({"start_prices": {}}, "start_prices.BTCUSDT"),
        ({"start_prices": {"BTCUSDT": "99"}}, "start_prices.BTCUSDT"),
        ({"start_prices": {"BTCUSDT": "NaN"}}, "decimal"),
        ({"format": "kraken"}, "format"),
        ({"format": "binance-usdm"}, "binance-spot only"),
        ({"speed": -1.0}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"events_per_s": 0}, "events_per_s"),
        ({"buffer_diffs": 0}, "buffer_diffs"),
        ({"ws_url": "http://x"}, "ws_url"),
        ({"rest_url": "file:///etc/passwd"}, "rest_url"),
        ({"sped": 2}, "sped"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(Exception, match=word):  # msgspec wraps ValueError, not Invalid
        load(**changes)
