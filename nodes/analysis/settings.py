"""Settings of the analysis node. Never here: defaults; they live in config/genesis.toml."""

import msgspec

from mesh.errors import Invalid
from nodes.analysis.bars import interval_ns
from nodes.analysis.indicators import Indicator


class AnalysisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which bars and indicators are made. Raises Invalid for what cannot be made."""

    intervals: tuple[str, ...]
    close_delay_ms: int
    empty_bars_max: int
    indicators: tuple[str, ...]
    history_bars: int
    checkpoint_s: float

    def __post_init__(self) -> None:
        for interval in self.intervals:
            interval_ns(interval)
        for name in self.indicators:
            Indicator(name)
        if min(self.close_delay_ms, self.empty_bars_max, self.history_bars) < 1:
            raise Invalid("close_delay_ms, empty_bars_max and history_bars must be above 0")
        if not (self.checkpoint_s > 0):
            raise Invalid("checkpoint_s must be above 0")
