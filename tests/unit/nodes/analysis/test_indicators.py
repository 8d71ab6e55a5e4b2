"""Indicators: bit for bit what TA-Lib's batch functions say. Never here: the mesh."""

import csv
import gzip
import math
from pathlib import Path

import pytest

from mesh.errors import Invalid
from nodes.analysis.indicators import Indicator


@pytest.mark.parametrize(
    ("name", "column"), [("ema_20", "ema20"), ("sma_20", "sma20"), ("rsi_14", "rsi14")]
)
def test_every_value_is_the_one_of_the_batch(data_dir: Path, name: str, column: str) -> None:
    (path,) = (data_dir / "oracle").glob("talib_*.csv.gz")
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))
    indicator = Indicator(name)
    assert len(rows) == 3_000
    for row in rows:
        value = indicator.update(float(row["close"]))
        if not row[column]:
            assert value is None
        else:
            assert value is not None
            assert math.isclose(value, float(row[column]), rel_tol=1e-12, abs_tol=1e-9)


def test_values_begin_when_the_history_is_long_enough() -> None:
    indicator = Indicator("sma_3")
    assert [indicator.update(close) for close in (1.0, 2.0, 3.0, 7.0)] == [None, None, 2.0, 4.0]


@pytest.mark.parametrize("name", ["ema", "ema_1", "ema_1001", "wma_3", "EMA_3", "ema_٣"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(Invalid, match="ema_N"):
        Indicator(name)
