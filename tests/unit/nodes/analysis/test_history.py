"""History: a checkpoint and the bars behind it make what all the bars make."""

from collections.abc import Iterable
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.analysis import history
from nodes.analysis.history import History
from nodes.domain.market import Bar, IndicatorValue

SECOND = 1_000_000_000
NAMES = ("ema_3", "sma_4", "rsi_5")
SERIES = [("BTC-USDT.X", "1s"), ("BTC-USDT.X", "1m"), ("ETH-USDT.X", "1s")]


def made(closes: Iterable[tuple[int, int]]) -> list[Bar]:
    """Return bars of several series: each close is (number of the series, price in cents)."""
    bars: list[Bar] = []
    for number, (which, cents) in enumerate(closes):
        price, (instrument, interval) = Decimal(cents).scaleb(-2), SERIES[which]
        start = number * SECOND
        values = (price, price, price, price, Decimal("0.1"), Decimal("0.20"), Decimal(0))
        bars.append(Bar(instrument, interval, start, start + SECOND, *values, number))
    return bars


def begun(bars: Iterable[Bar], most: int = 20) -> tuple[History, list[IndicatorValue]]:
    past = History(most, NAMES)
    return past, past.begin(bars)


def stored(past: History) -> list[Bar]:
    """Return the bars of its snapshot as they come back from a file."""
    return History.saved(msgspec.msgpack.decode(msgspec.msgpack.encode(past.snapshot())))


closes = st.lists(
    st.tuples(st.integers(0, len(SERIES) - 1), st.integers(1, 10**7)), min_size=1, max_size=80
)


@given(closes, st.data(), st.integers(1, 20))
def test_checkpoint_and_tail_make_what_all_bars_make(
    given_closes: list[tuple[int, int]], data: st.DataObject, most: int
) -> None:
    *bars, following = made(given_closes)
    cut = data.draw(st.integers(0, len(bars)))
    running, _ = begun(bars[: cut // 2], most)
    for bar in bars[cut // 2 : cut]:
        running.apply(bar)
    whole, values = begun(bars, most)
    again, values_again = begun([*stored(running), *bars[cut:]], most)

    def ordered(some: list[IndicatorValue]) -> list[IndicatorValue]:
        return sorted(some, key=lambda value: (value.instrument, value.interval, value.name))

    assert ordered(values_again) == ordered(values)
    for instrument, interval in SERIES:
        assert again.past(instrument, interval, 99) == whole.past(instrument, interval, 99)
    assert again.apply(following) == whole.apply(following)


def test_values_after_a_restart_are_those_of_the_run_before_it() -> None:
    bars = made((0, 10_000 + 7 * (n % 11)) for n in range(20))
    running, _ = begun(bars[:1])
    unbroken = [value for bar in bars[1:] for value in running.apply(bar)]
    _, values = begun(stored(running))
    assert [value.name for value in values] == list(NAMES)
    for value, before in zip(values, unbroken[-len(NAMES) :], strict=True):
        assert (value.name, value.close_ts) == (before.name, before.close_ts)
        assert value.value == pytest.approx(before.value, rel=1e-12)


def test_only_the_newest_bars_of_a_series_are_kept() -> None:
    bars = made([(0, n) for n in range(1, 30)])
    past, _ = begun(bars, 5)
    assert past.past(*SERIES[0], 99) == list(past.bars()) == bars[-5:]
    assert past.past(*SERIES[0], 2) == bars[-2:]
    assert past.past(*SERIES[0], 0) == past.past(*SERIES[0], -1) == past.past(*SERIES[1], 9) == []


def test_a_snapshot_is_bounded_however_many_series_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "SAVED_MAX", 7)
    bars = made([(n % 3, n + 1) for n in range(30)])
    assert stored(begun(bars)[0]) == [*bars[-6::3], *bars[-5::3], *bars[-4::3]]
