"""The risk node: the gatekeeper's ears and mouth.

It starts with the orders of its checkpoint, the order stream behind it, and the denials in its
own journal; until execution has told its open orders, everything is denied.

Never here: checks.
"""

import asyncio

from mesh import errors
from mesh.protocol.control import DURABLE, LASTVALUE
from mesh.protocol.envelope import decode_event
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.saving import Saving
from nodes.domain.accounts import Position
from nodes.domain.decisions import ApprovedIntent, Limits, RiskDecision
from nodes.domain.instruments import Instrument
from nodes.domain.market import Quote
from nodes.domain.orders import TERMINAL, Order, OrderEvent, OrderIntent
from nodes.domain.schemas import SCHEMAS
from nodes.risk.gatekeeper import DECIDED_MAX, SCHEMA, Gatekeeper
from nodes.risk.settings import RiskSettings

ASK_AGAIN_S = 0.5
SETTLE_S = 5.0  # longer than an approval lives in execution
FORGOTTEN_NS = 60_000_000_000  # an order that ended so long ago, and is not known, was forgotten


class RiskNode(Component):
    """Approve or deny; hand what is approved to execution."""

    says = {  # noqa: RUF012  # read by the runner, never changed
        "risk.decision.": DURABLE,
        "risk.limits": LASTVALUE,
    }
    schemas = SCHEMAS
    rebuilds = False  # it reads the newest decisions again, and gets by without

    def __init__(self, settings: RiskSettings) -> None:
        super().__init__(settings)
        self.params = settings
        self.gatekeeper = Gatekeeper(settings.limits())

    def applied_offset(self, node: str, log_id: str) -> int:
        """Return where the checkpoint ends: what came later makes its orders today's."""
        return self.saving.position(node, log_id)

    async def on_start(self) -> None:
        """Begin to learn; deny until enough is known."""
        keeper = self.gatekeeper
        self.saving = Saving(self, keeper.snapshot, schema=SCHEMA, forget=keeper.forget_orders)
        if saved := self.saving.restore():
            keeper.restore(saved)
        for _, _, schema, frame in self.journal.read(max(0, self.journal.last - DECIDED_MAX)):
            decision = self.decode(schema, decode_event(frame).payload)
            assert isinstance(decision, RiskDecision)
            keeper.recall(decision)
        self.emit("risk.limits", keeper.limits)
        for coid in keeper.flight:
            self.spawn(self._settle(coid), f"settle {coid}")
        self.spawn(self._learn_books(), "learn books")
        self.saving.start(self.params.checkpoint_s)

    async def on_stop(self) -> None:
        """Leave nothing to be replayed."""
        await self.saving.close()

    @event("md.quote.", conflate=True)
    def on_quote(self, quote: Quote, meta: EventMeta) -> None:
        """Note the price and how old it is: a last value may be from before we came."""
        age_s = max(0, self.now_ns() - meta.ts_sent) / 1e9 if meta.snapshot else 0.0
        self.gatekeeper.handle(quote, self.monotonic_s() - age_s)

    @event("md.instrument.")
    def on_instrument(self, instrument: Instrument, meta: EventMeta) -> None:
        """Note grid and status."""
        self.gatekeeper.handle(instrument, self.monotonic_s())

    @event("acct.position.")
    def on_position(self, position: Position, meta: EventMeta) -> None:
        """Note what execution holds."""
        self.gatekeeper.handle(position, self.monotonic_s())

    @event("order.", durable=True, halt=True)
    async def on_order(self, told: OrderEvent, meta: EventMeta) -> None:
        """Note what became of an order."""
        if self.saving.is_new(meta):
            self.gatekeeper.handle(told, self.monotonic_s())
            self.saving.reached(meta.node, meta.log_id, meta.offset)

    @request("risk.submit", kind="keyed", recalls=True, timeout_s=5.0, writes=True)
    async def submit(self, intent: OrderIntent, caller: str) -> RiskDecision:
        """Return the verdict; an approved intent is with execution, or perhaps on its way.

        Raises what execution says when it surely did not take the order.
        """
        if not self.gatekeeper.ready:
            raise errors.Unavailable("NOT_READY: execution has not told its open orders yet")
        self.gatekeeper.mode, self.gatekeeper.mode_epoch = self.mode, self.mode_epoch
        ts = self.now_ns()
        decision = self.gatekeeper.decide(intent, self.monotonic_s(), ts)
        if decision.ts_decided == ts:  # an older one is on disk, or about to be
            topic = f"risk.decision.{intent.strategy}"
            await self.commit((topic, decision), patient=True)
        if decision.approved:
            self.saving.changed()
            # A task of its own: whether the caller still waits must not decide what is learned.
            told: asyncio.Future[errors.MeshError | None] = asyncio.Future()
            coid = intent.client_order_id
            self.spawn(self._hand_over(ApprovedIntent(intent, decision), told), f"submit {coid}")
            if (refusal := await asyncio.shield(told)) is not None:
                raise refusal
        return decision

    @request("risk.limits", timeout_s=1.0, at_once=True)
    def limits(self, _: None) -> Limits:
        """Return the limits in force."""
        return self.gatekeeper.limits

    async def _hand_over(
        self, approved: ApprovedIntent, told: "asyncio.Future[errors.MeshError | None]"
    ) -> None:
        """Submit to execution; tell None, or why execution surely did not take it."""
        coid = approved.intent.client_order_id
        timeout_s = self.params.submit_timeout_s
        key = f"{coid} {approved.decision.ts_decided}"  # another approval is another request
        try:
            order = await self.call(
                "execution.submit", approved, Order, timeout_s=timeout_s, key=key
            )
            self._note(order)
            told.set_result(None)
        except errors.MeshError as error:
            if error.executed == "no":
                self.gatekeeper.release(coid)
                told.set_result(error)
                return
            told.set_result(None)
            self.log.warning("submit_in_doubt", order=coid, error=str(error))
            await self._settle(coid)

    async def _settle(self, coid: str) -> None:
        """Ask execution until it is certain whether the order exists."""
        while coid in self.gatekeeper.flight:
            await asyncio.sleep(SETTLE_S)
            try:
                self._note(await self.call("execution.order", coid, Order, timeout_s=1.0))
            except errors.NotFound:
                self.gatekeeper.release(coid)  # its approval has expired by now
            except errors.MeshError:
                continue  # no answer is no evidence

    async def _learn_books(self) -> None:
        while not self.gatekeeper.ready:
            try:
                orders = await self.call("execution.open_orders", None, list[Order], timeout_s=1.0)
                held = await self.call("execution.holdings", None, list[Position], timeout_s=1.0)
            except errors.MeshError:
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            for order in orders:
                self._note(order)
            for position in held:
                self.gatekeeper.handle(position, self.monotonic_s())
            self.gatekeeper.ready = True

    def _note(self, order: Order) -> None:
        """Learn an order told out of the stream, unless the stream was faster."""
        coid = order.intent.client_order_id
        if coid in self.gatekeeper.orders:
            return
        if order.state in TERMINAL and self.now_ns() - order.ts_state > FORGOTTEN_NS:
            self.gatekeeper.release(coid)  # its fills count already
            return
        self.gatekeeper.handle(OrderEvent("query", order), self.monotonic_s())
