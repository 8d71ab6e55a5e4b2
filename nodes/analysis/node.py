"""The analysis node on the mesh: hears trades, commits bars, publishes indicators.

Never here: how a bar or an indicator is made.
"""

import asyncio
from collections import deque
from typing import Any, ClassVar

import msgspec

from mesh.errors import Invalid
from mesh.protocol.cause import Cause
from mesh.protocol.control import DURABLE, LASTVALUE
from mesh.protocol.envelope import decode_event
from mesh.runtime.component import (
    Component,
    EventMeta,
    because,
    cause_now,
    event,
    request,
)
from nodes.analysis.bars import Bars
from nodes.analysis.indicators import Indicator
from nodes.analysis.settings import AnalysisSettings
from nodes.domain.market import Bar, FeedStatus, IndicatorValue, Quote, Trade
from nodes.domain.plain import plain
from nodes.domain.schemas import SCHEMAS

UNCOMMITTED_MAX = 10_000  # closed bars that wait for the disk; above it the node gives up


class HistoryQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What analysis.history is asked."""

    instrument: str
    interval: str
    limit: int = 500


class AnalysisNode(Component):
    """Closed bars and indicators of every instrument that trades."""

    says: ClassVar = {"md.bar.": DURABLE, "ta.": LASTVALUE}
    schemas = SCHEMAS

    def __init__(self, settings: AnalysisSettings) -> None:
        super().__init__(settings)
        self.wanted = settings
        self.bars = Bars(
            settings.intervals,
            delay_ns=settings.close_delay_ms * 1_000_000,
            empty_max=settings.empty_bars_max,
        )
        self.history: dict[tuple[str, str], deque[Bar]] = {}
        self.indicators: dict[tuple[str, str], list[Indicator]] = {}
        self.closed: asyncio.Queue[tuple[Bar, Cause | None]] = asyncio.Queue(UNCOMMITTED_MAX)

    async def on_start(self) -> None:
        """Take up where the journal ends."""
        newest: dict[str, deque[tuple[int, bytes]]] = {}
        for _, topic, schema, frame in self.journal.read():
            if topic.startswith("md.bar."):
                kept = newest.setdefault(topic, deque(maxlen=self.wanted.history_bars))
                kept.append((schema, frame))
        for kept in newest.values():
            for schema, frame in kept:
                bar = self.decode(schema, decode_event(frame).payload)
                assert isinstance(bar, Bar)
                self.bars.restore(bar)
                self.publish_indicators(bar)
        self.spawn(self.commit_bars(), "commit bars")

    @event("md.trade.")
    def on_trade(self, trade: Trade, meta: EventMeta) -> None:
        """Count the trade in."""
        self.keep(self.bars.apply(trade))

    @event("md.quote.")
    def on_quote(self, quote: Quote, meta: EventMeta) -> None:
        """Let the source's time pass where nothing trades."""
        self.keep(self.bars.hear(quote.instrument, quote.ts_recv or meta.ts_recv))

    @event("md.status.")
    def on_status(self, status: FeedStatus, meta: EventMeta) -> None:
        """Know whether silence is silence."""
        if status.channel == "trade":
            self.bars.status(status.instrument, status.state)

    @request("analysis.history", timeout_s=2.0, at_once=True)
    def past_bars(self, query: dict[str, Any], caller: str) -> list[dict[str, Any]]:
        """Return the newest bars of an instrument and interval, oldest first."""
        try:
            asked = msgspec.convert(query, HistoryQuery)
        except msgspec.ValidationError as error:
            raise Invalid(f"analysis.history: {error}") from None
        kept = self.history.get((asked.instrument, asked.interval), ())
        return [plain(bar) for bar in list(kept)[-asked.limit :]] if asked.limit > 0 else []

    def keep(self, bars: list[Bar]) -> None:
        """Queue closed bars for the journal; a full queue ends the node: its disk is gone."""
        for bar in bars:
            self.closed.put_nowait((bar, cause_now()))

    async def commit_bars(self) -> None:
        """Commit what is closed, as many at once as there are, then publish the indicators."""
        while True:
            closed = [await self.closed.get()]
            while not self.closed.empty():
                closed.append(self.closed.get_nowait())
            said = [(f"md.bar.{bar.interval}.{bar.instrument}", bar, why) for bar, why in closed]
            await self.commit(*said, patient=True)
            for bar, why in closed:
                with because(why):
                    self.publish_indicators(bar)
            self.report("late_trades", self.bars.late)
            self.report("source_restarts", self.bars.restarts)

    def publish_indicators(self, bar: Bar) -> None:
        """Carry history and indicators forward by one bar."""
        key = (bar.instrument, bar.interval)
        if key not in self.history:
            self.history[key] = deque(maxlen=self.wanted.history_bars)
            self.indicators[key] = [Indicator(name) for name in self.wanted.indicators]
        self.history[key].append(bar)
        for indicator in self.indicators[key]:
            value = indicator.update(float(bar.close))
            if value is not None:
                self.emit(
                    f"ta.{indicator.name}.{bar.interval}.{bar.instrument}",
                    IndicatorValue(
                        bar.instrument, bar.interval, indicator.name, value, bar.close_ts
                    ),
                )
