"""Settings of the market data node, checked once when they are loaded.

Never here: defaults (config/genesis.toml holds them), reading of files.
"""

from decimal import Decimal
from typing import Final

import msgspec

from nodes.domain.numbers import bounded

SOURCES: Final = ("synthetic", "replay", "live:binance")
FORMATS: Final = ("binance-spot", "binance-usdm")


class MarketDataSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to read, from where, how fast. Raises ValueError with one line."""

    source: str  # synthetic, replay, live:binance
    venue: str  # suffix of instrument ids; empty: SYNTHETIC or BINANCE, by source
    format: str  # binance-spot, binance-usdm: how frames are to be read
    symbols: tuple[str, ...]  # venue symbols of the synthetic and the live source
    files: tuple[str, ...]  # captures of the replay source
    speed: float  # times real time; 0: as fast as possible
    seed: int
    events_per_s: int  # of the synthetic source, per symbol
    start_prices: dict[str, Decimal]  # of the synthetic source, by venue symbol
    depth_interval_ms: int  # least time between two md.depth of an instrument
    buffer_diffs: int  # most diffs kept while a book waits for its snapshot
    snapshot_wait_s: float  # book without snapshot for so long: DOWN
    stale_after_s: float  # silent channel for so long: STALE
    ws_url: str
    rest_url: str
    rest_timeout_s: float
    backoff_first_s: float
    backoff_most_s: float

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r} is none of {', '.join(SOURCES)}")
        if self.format not in FORMATS:
            raise ValueError(f"format {self.format!r} is none of {', '.join(FORMATS)}")
        if not 0 <= self.speed <= 10_000 or not 1 <= self.events_per_s <= 100_000:
            raise ValueError("speed is 0 to 10000, events_per_s 1 to 100000")
        if self.buffer_diffs < 1 or self.depth_interval_ms < 1:
            raise ValueError("buffer_diffs and depth_interval_ms are at least 1")
        if not self.ws_url.startswith(("ws://", "wss://")):
            raise ValueError(f"ws_url {self.ws_url!r} is no ws:// or wss:// address")
        if not self.rest_url.startswith(("http://", "https://")):
            raise ValueError(f"rest_url {self.rest_url!r} is no http:// or https:// address")
        self._check_source()

    def _check_source(self) -> None:
        if self.source == "replay" and not self.files:
            raise ValueError("source replay needs files")
        if self.source != "replay" and not self.symbols:
            raise ValueError(f"source {self.source} needs symbols")
        if self.source == "synthetic":
            if self.format != "binance-spot":
                raise ValueError("source synthetic speaks binance-spot only")
            for symbol in self.symbols:
                if bounded(self.start_prices.get(symbol, Decimal(0))) < 100:
                    raise ValueError(f"start_prices.{symbol} is missing or below 100")

    @property
    def futures(self) -> bool:
        """Say whether frames are those of USD-margined perpetuals."""
        return self.format == "binance-usdm"

    @property
    def venue_name(self) -> str:
        """Return the suffix of instrument ids."""
        return self.venue or ("SYNTHETIC" if self.source == "synthetic" else "BINANCE")
