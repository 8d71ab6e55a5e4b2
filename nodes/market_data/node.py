"""The market data node: one source, one feed, published.

Never here: parsing, decisions about data.
"""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

from mesh.errors import ConfigError, Invalid
from mesh.protocol.control import EPHEMERAL, LASTVALUE
from mesh.protocol.mode import NORMAL
from mesh.runtime.component import Component, request
from nodes.domain.instruments import Instrument
from nodes.domain.market import BookSnapshot
from nodes.domain.schemas import SCHEMAS
from nodes.market_data.feed import Feed, Publication
from nodes.market_data.frame import Frame
from nodes.market_data.reference import Registry
from nodes.market_data.settings import MarketDataSettings
from nodes.market_data.sources.binance import BinanceStreams
from nodes.market_data.sources.pacing import Pacer
from nodes.market_data.sources.replay import read_capture, read_captures
from nodes.market_data.sources.synthetic import Synthetic, merged

TICK_S = 0.1
JOIN_S = 15.0  # a mesh takes some five seconds to NORMAL
REPORT_S = 1.0
SPEED_MOST = 10_000


class MarketDataNode(Component):
    """Publishes what one source says, checked; answers for books and instruments."""

    says: ClassVar = {
        "md.trade.": EPHEMERAL,
        "md.book.": EPHEMERAL,
        "md.quarantine.": EPHEMERAL,
        "md.quote.": LASTVALUE,
        "md.depth.": LASTVALUE,
        "md.status.": LASTVALUE,
        "md.instrument.": LASTVALUE,
    }
    schemas = SCHEMAS
    settings: MarketDataSettings

    def __init__(self, settings: MarketDataSettings) -> None:
        super().__init__(settings)
        self._feed = Feed(
            Registry(settings.venue_name, perpetual=settings.futures),
            futures=settings.futures,
            buffer_diffs=settings.buffer_diffs,
            depth_interval_s=settings.depth_interval_ms / 1_000,
            snapshot_wait_s=settings.snapshot_wait_s,
            stale_after_s=settings.stale_after_s,
        )
        self._pacer = Pacer(1.0 if settings.source == "synthetic" else settings.speed)
        self._markets: dict[str, Synthetic] = {}
        self._live: BinanceStreams | None = None
        self._refused_logged = 0

    async def on_start(self) -> None:
        """Publish the instruments and start the source. Raises ConfigError."""
        for file in self.settings.files if self.settings.source == "replay" else ():
            next(read_capture(Path(file)))  # one that cannot be read stops the start
        symbols = () if self.settings.source == "replay" else self.settings.symbols
        try:
            self._publish(self._feed.start(symbols))
        except Invalid as error:
            raise ConfigError(f"market_data.symbols: {error}") from None
        self.every(TICK_S, self._tick)
        self.every(REPORT_S, self._report)
        self.spawn(self._run_source(), "source")

    @request("market_data.instruments")
    def instruments(self, arg: None, caller: str) -> list[Instrument]:
        """Return every instrument of this node."""
        return self._feed.instruments()

    @request("market_data.snapshot")
    def snapshot(self, instrument: str, caller: str) -> BookSnapshot:
        """Return the best 1 000 levels of *instrument*. Raises NotFound where none is live."""
        return self._feed.snapshot(instrument)

    @request("market_data.replay")
    def replay(self, order: dict[str, Any], caller: str) -> dict[str, Any]:
        """Pause, resume or change the speed of a paced source. Raises Invalid."""
        if self._live is not None:
            raise Invalid("a live source cannot be paused")
        match order.get("action"):
            case "pause":
                self._pacer.pause()
            case "resume":
                self._pacer.resume()
            case "speed":
                self._pacer.set_speed(_speed(order.get("speed")))
            case other:
                raise Invalid(f"action {str(other)[:40]!r} is none of pause, resume, speed")
        return {"paused": self._pacer.paused, "speed": self._pacer.speed}

    async def _run_source(self) -> None:
        settings = self.settings
        if settings.source == "live:binance":
            self._live = BinanceStreams(settings, self._on_lost)
            await self._live.run(self._on_frame)
        elif settings.source == "replay":
            await self._wait_for_normal()
            paths = [Path(file) for file in settings.files]
            self.log.info("replay_begins", files=settings.files)
            await self._pacer.run(read_captures(paths), self._on_frame)
        else:
            self._markets = {symbol: self._make_market(symbol) for symbol in settings.symbols}
            await self._pacer.run(merged(list(self._markets.values())), self._on_frame)
        self.log.info("source_ended", frames=self._feed.counts.total())
        self._publish(self._feed.lose("END", self.now_ns()))

    async def _wait_for_normal(self) -> None:
        """Let the others join before a recording begins, but not for ever: SAFE may be wanted."""
        ends = self.monotonic_s() + JOIN_S
        while self.mode is not NORMAL and self.monotonic_s() < ends:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(TICK_S)

    def _make_market(self, symbol: str) -> Synthetic:
        return Synthetic(
            symbol,
            seed=self.settings.seed + self.settings.symbols.index(symbol),
            start_ns=self.now_ns(),
            start_ticks=int(self.settings.start_prices[symbol] * 100),
            events_per_s=self.settings.events_per_s,
        )

    def _on_frame(self, frame: Frame) -> None:
        self._publish(self._feed.handle(frame, self.monotonic_s()))

    def _on_lost(self, reason: str) -> None:
        self.log.warning("source_lost", reason=reason)
        self._publish(self._feed.lose(reason, self.now_ns()))

    def _tick(self) -> None:
        self._publish(self._feed.tick(self.monotonic_s(), self.now_ns()))
        for symbol in self._feed.wanted():
            if self._live is not None:
                self._live.want_snapshot(symbol)
            elif symbol in self._markets:
                self._markets[symbol].want_snapshot()

    def _report(self) -> None:
        refused = self._feed.refused.total()
        if refused > self._refused_logged:
            self._refused_logged = refused
            self.log.warning("quarantined", **self._feed.refused)
        self.report("frames", self._feed.counts.total())
        self.report("quarantined", refused)

    def _publish(self, publications: list[Publication]) -> None:
        for topic, value in publications:
            # Not the value's own ts_recv, which is the recording's: when it entered this mesh.
            self.emit(topic, value, ts_recv=self.now_ns())


def _speed(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= SPEED_MOST:
        raise Invalid(f"speed is a number from 0 to {SPEED_MOST}")
    return float(value)
