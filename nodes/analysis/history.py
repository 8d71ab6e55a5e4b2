"""History: the newest bars of every series, and the indicators that stand on them.

Only bars are saved, each encoded once, when it comes: an indicator has no form that could be
saved, and opens again from them.

Never here: the journal, the mesh, how a bar is made.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from nodes.analysis.indicators import Indicator
from nodes.domain.market import Bar, IndicatorValue

Key: TypeAlias = tuple[str, str]  # instrument, interval

SAVED_MAX: Final = 32_768  # bars in a checkpoint: below its 16 MiB whatever their decimals

_decode: Final = msgspec.msgpack.Decoder(Bar).decode


@dataclass(slots=True)
class _Series:
    bars: deque[msgspec.Raw]
    indicators: list[Indicator]


class History:
    """Bars of many series, so many of each at most, with indicators carried forward."""

    def __init__(self, bars_max: int, indicators: tuple[str, ...]) -> None:
        self._bars_max, self._names = bars_max, indicators
        self._series: dict[Key, _Series] = {}

    def begin(self, bars: Iterable[Bar]) -> list[IndicatorValue]:
        """Start with *bars*, oldest first; return what each indicator is at the newest."""
        for bar in bars:
            self._keep(bar)
        newest: dict[tuple[str, str, str], IndicatorValue] = {}
        for series in self._series.values():
            for bar in map(_decode, series.bars):
                for value in _carried(series, bar):
                    newest[value.instrument, value.interval, value.name] = value
        return list(newest.values())

    def apply(self, bar: Bar) -> list[IndicatorValue]:
        """Take the next bar of a series in; return what its indicators are there."""
        return _carried(self._keep(bar), bar)

    def past(self, instrument: str, interval: str, limit: int) -> list[Bar]:
        """Return the newest bars of a series, oldest first."""
        series = self._series.get((instrument, interval))
        if series is None or limit <= 0:
            return []
        return list(map(_decode, list(series.bars)[-limit:]))

    def bars(self) -> Iterator[Bar]:
        """Yield all bars, of each series oldest first."""
        for series in self._series.values():
            yield from map(_decode, series.bars)

    def snapshot(self) -> list[list[msgspec.Raw]]:
        """Return the bars by series, for a checkpoint; of very many series fewer of each."""
        most = SAVED_MAX // max(1, len(self._series))
        return [list(series.bars)[-most:] for series in self._series.values()]

    @staticmethod
    def saved(snapshot: Any) -> list[Bar]:
        """Return the bars of a snapshot that was decoded without types, for :meth:`begin`."""
        return [bar for series in msgspec.convert(snapshot, list[list[Bar]]) for bar in series]

    def _keep(self, bar: Bar) -> _Series:
        key = bar.instrument, bar.interval
        series = self._series.get(key)
        if series is None:
            indicators = [Indicator(name) for name in self._names]
            series = self._series[key] = _Series(deque(maxlen=self._bars_max), indicators)
        series.bars.append(msgspec.Raw(msgspec.msgpack.encode(bar)))
        return series


def _carried(series: _Series, bar: Bar) -> list[IndicatorValue]:
    close = float(bar.close)
    values = ((indicator.name, indicator.update(close)) for indicator in series.indicators)
    return [
        IndicatorValue(bar.instrument, bar.interval, name, value, bar.close_ts)
        for name, value in values
        if value is not None
    ]
