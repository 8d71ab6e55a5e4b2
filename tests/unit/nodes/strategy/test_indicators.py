"""Indicators of strategies: warm-up, and the same values when opened again. Never here: ctx."""

from collections.abc import Callable

import numpy as np
import pytest
import talib

from nodes.strategy.indicators import EMA, RSI, SMA, Indicator

CLOSES = [100 + (n * 37 % 23) / 7 for n in range(120)]


@pytest.mark.parametrize(("make", "batch"), [(EMA, talib.EMA), (SMA, talib.SMA), (RSI, talib.RSI)])
def test_values_are_those_of_the_batch(
    make: Callable[[int], Indicator],
    batch: Callable[..., "np.ndarray[tuple[int], np.dtype[np.float64]]"],
) -> None:
    indicator = make(14)
    expected = batch(np.array(CLOSES), timeperiod=14)
    for close, value in zip(CLOSES, expected, strict=True):
        indicator.update(close)
        assert indicator.ready is not bool(np.isnan(value))
        if indicator.ready:
            assert indicator.value == value


def test_reopening_from_the_past_and_going_on_changes_nothing() -> None:
    ran, reopened = EMA(12), EMA(12)
    for close in CLOSES:
        ran.update(close)
    reopened.update(1.0)
    reopened.reopen(CLOSES[:50])
    for close in CLOSES[50:]:
        reopened.update(close)
    assert reopened.value == ran.value


def test_reopening_with_too_little_warms_up_again() -> None:
    indicator = SMA(3)
    indicator.reopen([1.0, 2.0])
    assert not indicator.ready
    with pytest.raises(ValueError, match="warming"):
        _ = indicator.value
    indicator.update(6.0)
    assert indicator.value == 3.0
    indicator.reopen([])
    assert not indicator.ready


def test_a_period_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        EMA(1)
