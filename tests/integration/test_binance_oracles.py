"""The parser and the book against totals that were computed without them.

The recordings stay outside the project; where they are absent these tests are skipped.
"""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nodes.market_data.normalize import Normalizer
from nodes.market_data.reference import Registry
from nodes.market_data.sources.replay import read_captures
from nodes.market_data.summary import summarize

CASES = [
    ("binance_spot_btcusdt_20240808-09", "binance_spot_raw", False),
    ("binance_spot_ethusdt_20240808-09", "binance_spot_raw", False),
    ("binance_usdm_btcusdt_20240808", "binance_usdm_raw", True),
]
SAME = (
    *("counts", "lines", "first_recv", "last_recv", "trade_id_gaps", "depth_sequence_gaps"),
    *("diffs_at_or_before_snapshot", "diffs_applied", "crossed_book_checks"),
)
TOLD_OTHERWISE = {"files", "recv_ts_unit", "note"}  # about the oracle, not about the data

pytestmark = [
    pytest.mark.timeout(60),  # 100 000 messages each; some seconds on a free core
    pytest.mark.slow,
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0])
def documents(
    request: pytest.FixtureRequest, data_dir: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    name, folder, futures = request.param
    oracle = json.loads((data_dir / "oracle" / f"{name}.json").read_text(encoding="utf-8"))
    paths = [data_dir / folder / file for file in reversed(oracle["files"])]
    normalizer = Normalizer(Registry("BINANCE", perpetual=futures), futures=futures)
    ours = summarize(read_captures(paths), normalizer)
    for book in normalizer.books.values():
        book.check()
    return ours, oracle


def exact(value: Any) -> Any:
    """Return texts of decimals as numbers, all the way down."""
    if isinstance(value, str):
        return Decimal(value)
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return value


def test_every_field_of_the_oracle_is_compared(documents: Any) -> None:
    _, oracle = documents
    compared = {*SAME, "recv_minus_event_ms", "market_trades", "non_market_trades"}
    assert set(oracle) == compared | {"candles_1m_by_trade_time", "final_book"} | TOLD_OTHERWISE


@pytest.mark.parametrize("field", SAME)
def test_counts_and_gaps_agree(documents: Any, field: str) -> None:
    ours, oracle = documents
    assert ours[field] == oracle[field]


def test_nothing_is_quarantined(documents: Any) -> None:
    assert documents[0]["quarantined"] == {}


def test_quantity_and_notional_agree_to_the_last_digit(documents: Any) -> None:
    ours, oracle = documents
    assert exact(ours["market_trades"]) == exact(oracle["market_trades"])
    assert ours["non_market_trades"] == oracle["non_market_trades"]


def test_one_minute_bars_agree_to_the_last_digit(documents: Any) -> None:
    ours, oracle = documents
    assert exact(ours["candles_1m_by_trade_time"]) == exact(oracle["candles_1m_by_trade_time"])


def test_final_book_agrees_level_by_level(documents: Any) -> None:
    ours, oracle = documents
    final = dict(ours["final_book"])
    assert final.pop("state") == "live"
    assert exact(final) == exact(oracle["final_book"])


def test_receive_minus_event_agrees_to_the_microsecond(documents: Any) -> None:
    ours, oracle = documents
    # The oracle subtracts floats near 1.7e12 ms: half a microsecond is lost there.
    assert ours["recv_minus_event_ms"] == pytest.approx(oracle["recv_minus_event_ms"], abs=0.00101)
