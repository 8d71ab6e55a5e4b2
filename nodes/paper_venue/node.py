"""The paper venue's node: market data and requests to the exchange, its facts to the journal.

One writer journals all facts in the order they were made; a reply waits for its own.

Never here: matching, money.
"""

import asyncio

from mesh.protocol.cause import Cause
from mesh.protocol.control import DURABLE
from mesh.protocol.envelope import decode_event
from mesh.runtime.component import Component, EventMeta, cause_now, event, request
from nodes.domain.accounts import Balance
from nodes.domain.instruments import Instrument
from nodes.domain.market import BookSnapshot, FeedStatus, Quote, Trade
from nodes.domain.orders import OrderIntent, VenueOrder, VenueReport
from nodes.domain.schemas import SCHEMAS
from nodes.paper_venue.account import Account
from nodes.paper_venue.exchange import Exchange, Fact
from nodes.paper_venue.settings import PaperVenueSettings

_TOPICS: dict[type, str] = {
    VenueReport: "venue.report",
    OrderIntent: "venue.intent",
    Instrument: "venue.instrument",
    Balance: "venue.opening",
}


class PaperVenueNode(Component):
    """An exchange that trades against the displayed market."""

    says = {f"{topic}.": DURABLE for topic in _TOPICS.values()}  # noqa: RUF012
    schemas = SCHEMAS

    def __init__(self, settings: PaperVenueSettings) -> None:
        super().__init__(settings)
        self.params = settings
        self.exchange = Exchange(Account(settings.account))
        self.outbox: list[tuple[str, Fact, Cause | None]] = []
        self.filled = asyncio.Event()
        self.written: asyncio.Future[None] | None = None  # of what is in the outbox

    async def on_start(self) -> None:
        """Rebuild the exchange from its facts; the very first start opens the account."""
        for _, _, schema, frame in self.journal.read():
            self.exchange.apply(self.decode(schema, decode_event(frame).payload))
        if not self.exchange.account.totals:
            self._record(self.exchange.open_account(self.params.balances))
        self.spawn(self._write(), "journal writer")

    async def on_stop(self) -> None:
        """Let the writer finish."""
        await self._on_disk(())

    @request("venue.place", kind="keyed", recalls=True, timeout_s=2.0, writes=True)
    async def place(self, intent: OrderIntent) -> VenueReport:
        """Take or refuse an order once. Raises Conflict for a known id with other content."""
        answer = self.exchange.place(intent, self.now_ns())
        await self._on_disk(answer.facts)
        return answer.report

    @request("venue.cancel", urgent=True, timeout_s=2.0)
    async def cancel(self, coid: str) -> VenueReport:
        """Cancel an order: cok, or cno with the reason."""
        answer = self.exchange.cancel(coid, self.now_ns())
        await self._on_disk(answer.facts)
        return answer.report

    @request("venue.order", timeout_s=1.0)
    async def order(self, coid: str) -> VenueOrder:
        """Return what is known of an order, with this venue's time."""
        answer = self.exchange.order(coid, self.now_ns())
        await self._on_disk(())
        return answer

    @request("venue.balances", timeout_s=1.0)
    async def balances(self, _: None) -> list[Balance]:
        """Return the account's money."""
        answer = self.exchange.account.balances()
        await self._on_disk(())
        return answer

    @event("md.instrument.")
    def on_instrument(self, instrument: Instrument, meta: EventMeta) -> None:
        """Note grid, fees and status."""
        self._record(self.exchange.handle(instrument, self.now_ns()))

    @event("md.depth.")
    def on_depth(self, snapshot: BookSnapshot, meta: EventMeta) -> None:
        """Take over the displayed book."""
        self._record(self.exchange.handle(snapshot, self.now_ns()))

    @event("md.quote.")
    def on_quote(self, quote: Quote, meta: EventMeta) -> None:
        """Take over the best levels."""
        self._record(self.exchange.handle(quote, self.now_ns()))

    @event("md.trade.")
    def on_trade(self, trade: Trade, meta: EventMeta) -> None:
        """Let a print fill what rests."""
        self._record(self.exchange.handle(trade, self.now_ns()))

    @event("md.status.")
    def on_status(self, status: FeedStatus, meta: EventMeta) -> None:
        """Stop trading on a book whose feed is gone."""
        self._record(self.exchange.handle(status, self.now_ns()))

    def _record(self, facts: tuple[Fact, ...]) -> None:
        if facts:
            why = cause_now()
            self.outbox += [
                (f"{_TOPICS[type(fact)]}.{self._key(fact)}", fact, why) for fact in facts
            ]
            self.filled.set()

    def _key(self, fact: Fact) -> str:
        return fact.symbol if isinstance(fact, Instrument) else self.params.account

    async def _on_disk(self, facts: tuple[Fact, ...]) -> None:
        """Journal *facts* and wait until all that was decided so far is on disk."""
        self._record(facts)
        if self.written is None:
            self.written = asyncio.get_running_loop().create_future()
        self.filled.set()
        await asyncio.shield(self.written)

    async def _write(self) -> None:
        while True:
            await self.filled.wait()
            self.filled.clear()
            batch, self.outbox = self.outbox, []
            written, self.written = self.written, None
            if batch:
                await self.commit(*batch, patient=True)  # the exchange has decided already
            if written is not None:
                written.set_result(None)
