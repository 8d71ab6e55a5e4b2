"""The analysis node on the mesh: hears trades, commits bars, publishes indicators.

What it has is the newest bars, in its journal; a checkpoint of them lets the journal's head go.

Never here: how a bar or an indicator is made.
"""

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar, Final

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
from mesh.runtime.saving import Saving
from nodes.analysis.bars import Bars
from nodes.analysis.history import History
from nodes.analysis.settings import AnalysisSettings
from nodes.domain.market import Bar, FeedStatus, IndicatorValue, Quote, Trade
from nodes.domain.plain import plain
from nodes.domain.schemas import SCHEMAS

UNCOMMITTED_MAX: Final = 10_000  # closed bars that wait for the disk; above it the node gives up


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
        self.history = History(settings.history_bars, settings.indicators)
        self.closed: asyncio.Queue[tuple[Bar, Cause | None]] = asyncio.Queue(UNCOMMITTED_MAX)

    async def on_start(self) -> None:
        """Take up where checkpoint and journal end."""
        self.saving = Saving(self, self.history.snapshot)
        for value in self.history.begin(self.past()):
            self.tell(value)
        for bar in self.history.bars():
            self.bars.restore(bar)
        self.saving.start(self.wanted.checkpoint_s)
        self.spawn(self.commit_bars(), "commit bars")

    async def on_stop(self) -> None:
        """Leave nothing to be replayed."""
        await self.saving.close()

    def past(self) -> Iterator[Bar]:
        """Yield the bars of earlier runs: those of the checkpoint, then those journaled since."""
        journal = self.journal
        saved = self.saving.restore({self.node: (journal.log_id, journal.last)})
        after = self.saving.position(self.node, journal.log_id)
        if journal.first > after + 1:
            self.log.warning("OFFSET_GONE", after=after, first=journal.first, node=self.node)
        elif after:
            yield from History.saved(saved)
        for offset, topic, schema, frame in journal.read(after):
            self.saving.reached(self.node, journal.log_id, offset)
            if topic.startswith("md.bar."):
                bar = self.decode(schema, decode_event(frame).payload)
                assert isinstance(bar, Bar)
                yield bar

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
        return [
            plain(bar) for bar in self.history.past(asked.instrument, asked.interval, asked.limit)
        ]

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
            last = await self.commit(*said, patient=True)
            for bar, why in closed:
                with because(why):
                    for value in self.history.apply(bar):
                        self.tell(value)
            self.saving.reached(self.node, self.journal.log_id, last)
            self.report("late_trades", self.bars.late)
            self.report("source_restarts", self.bars.restarts)

    def tell(self, value: IndicatorValue) -> None:
        """Publish what an indicator is at the newest bar."""
        self.emit(f"ta.{value.name}.{value.interval}.{value.instrument}", value)
