"""A strategy node on the mesh: feeds the host, sends its actions, saves its state.

An intent leaves once a checkpoint that has it is on disk: a restart never forgets what it sent.

Never here: rules of a strategy, limits.
"""

import asyncio
from typing import Any, ClassVar

from mesh.errors import Expired, MeshError, Refused, Unavailable
from mesh.protocol.control import LASTVALUE
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.saving import Saving
from nodes.domain.accounts import Position
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import Bar, Quote
from nodes.domain.orders import Fill, Order, OrderEvent, OrderIntent
from nodes.domain.plain import plain
from nodes.domain.schemas import SCHEMAS
from nodes.domain.strategies import StrategyStatus
from nodes.strategy.host import SCHEMA, Host, parse_bars, upgrade_offsets
from nodes.strategy.loader import load_strategy
from nodes.strategy.sdk import BARS_MAX, Action, Submit
from nodes.strategy.settings import StrategySettings

RETRY_S = 0.1  # between tries of one intent; it keeps its client_order_id
ABSENT_S = 1.0  # between tries to get past bars


class StrategyNode(Component):
    """Runs one strategy; strategy.ema is the instance that calls itself ema in orders."""

    says: ClassVar = {"strat.": LASTVALUE}
    schemas = SCHEMAS

    def __init__(self, settings: StrategySettings) -> None:
        super().__init__(settings)
        self.wanted = settings
        self.published: StrategyStatus | None = None

    async def on_start(self) -> None:
        """Begin where the checkpoint ends; past bars come as soon as analysis is there."""
        self.host = self.restored()
        for client_order_id in self.host.unseen():
            self.spawn(self.settle(client_order_id), f"settle {client_order_id}")
        self.spawn(self.warm_up(), "warm up")
        self.every(1.0, self.tick)
        self.saving.start(self.wanted.checkpoint_s)
        self.tick()

    def restored(self) -> Host:
        """Return the strategy as the last run left it."""
        host = Host(
            load_strategy(self.wanted.strategy),
            name=self.node.partition(".")[2] or self.node,
            epoch=self.epoch,
            account=self.wanted.account,
            params=self.wanted.params,
        )
        self.saving = Saving(
            self,
            host.snapshot,
            schema=SCHEMA,
            upgrades={1: upgrade_offsets},
            forget=host.forget_orders,
        )
        if saved := self.saving.restore():
            host.restore(saved)
        host.start(self.now_ns())
        return host

    async def on_stop(self) -> None:
        """Leave nothing to be replayed."""
        await self.saving.close()

    def applied_offset(self, node: str, log_id: str) -> int | None:
        """Return where our orders and fills go on; bars are taken from the live end."""
        if node.partition(".")[0] != "execution":
            return None
        return self.saving.position(node, log_id)

    @event("md.bar.", durable=True)
    async def on_bar(self, bar: Bar, meta: EventMeta) -> None:
        """Let the strategy see a closed bar."""
        self.act(self.host.bar(bar, self.now_ns()))

    @event("md.quote.")
    def on_quote(self, quote: Quote, meta: EventMeta) -> None:
        """Let the strategy see the best bid and ask."""
        if self.host.meet(quote.instrument):
            self.spawn(self.warm_up(), "warm up")
        self.act(self.host.quote(quote, self.now_ns()))

    @event("order.", durable=True, halt=True)
    async def on_order(self, change: OrderEvent, meta: EventMeta) -> None:
        """Apply what happened to an order."""
        if self.saving.is_new(meta):
            actions = self.host.order(change, self.now_ns(), self.monotonic_s())
            self.saving.reached(meta.node, meta.log_id, meta.offset)
            self.act(actions)

    @event("fill.", durable=True, halt=True)
    async def on_fill(self, fill: Fill, meta: EventMeta) -> None:
        """Apply a fill."""
        if self.saving.is_new(meta):
            actions = self.host.fill(fill, self.now_ns(), self.monotonic_s())
            self.saving.reached(meta.node, meta.log_id, meta.offset)
            self.act(actions)

    @event("acct.position.")
    def on_position(self, position: Position, meta: EventMeta) -> None:
        """Compare with what execution holds for us."""
        self.host.report(position)

    @request("strategy.pause", timeout_s=1.0)
    async def pause(self, arg: None, caller: str) -> dict[str, Any]:
        """Stop sending intents; cancels and bookkeeping go on."""
        return await self.set_paused(paused=True)

    @request("strategy.resume", timeout_s=1.0)
    async def resume(self, arg: None, caller: str) -> dict[str, Any]:
        """Send intents again, after failures too."""
        self.host.failures_in_row = 0
        return await self.set_paused(paused=False)

    @request("strategy.status", timeout_s=1.0)
    def current_status(self, arg: None, caller: str) -> dict[str, Any]:
        """Return state, parameters and positions."""
        status: dict[str, Any] = plain(self.host.status(self.now_ns()))
        return status

    async def set_paused(self, *, paused: bool) -> dict[str, Any]:
        """Pause or resume, durably; return the status."""
        self.host.paused = paused
        await self.saving.save()
        return self.current_status(None, self.node)

    def act(self, actions: list[Action]) -> None:
        """Begin what a hook asked for."""
        intents = [action.intent for action in actions if isinstance(action, Submit)]
        for intent in intents:
            self.host.sent(intent.client_order_id)
        if intents:
            self.spawn(self.send(intents), f"send {intents[0].client_order_id}")
        for action in actions:
            if not isinstance(action, Submit):
                self.spawn(self.cancel(action.client_order_id), f"cancel {action}")

    async def send(self, intents: list[OrderIntent]) -> None:
        """Save, then send: what cannot be remembered is not sent."""
        try:
            await self.saving.save()
        except Unavailable as error:
            for intent in intents:
                self.host.drop(intent.client_order_id, str(error))
            self.log.warning("intents_unsaved", count=len(intents), why=str(error))
            return
        for intent in intents:
            self.spawn(self.submit(intent), f"submit {intent.client_order_id}")

    async def submit(self, intent: OrderIntent) -> None:
        """Send an intent until there is an answer; the same client_order_id makes it one."""
        client_order_id = intent.client_order_id
        give_up = self.monotonic_s() + self.wanted.resend_s
        while True:
            try:
                decision = await self.call(
                    "risk.submit",
                    intent,
                    RiskDecision,
                    timeout_s=self.wanted.submit_timeout_s,
                    key=client_order_id,
                )
            except MeshError as error:
                # Expired tells of the last try alone: an earlier one may have come through.
                if isinstance(error, Refused) and not isinstance(error, Expired):
                    self.host.drop(client_order_id, f"{error.code}: {error}")
                    return
                if self.monotonic_s() >= give_up:
                    self.log.warning("intent_unanswered", order=client_order_id, why=str(error))
                    await self.settle(client_order_id)
                    return
                await asyncio.sleep(RETRY_S)
                continue
            if not decision.approved:
                self.host.drop(client_order_id, f"{decision.code}: {decision.detail}")
            return

    async def settle(self, client_order_id: str) -> None:
        """Wait for execution to tell of an intent; drop it if it does not."""
        await asyncio.sleep(self.wanted.settle_s)
        if self.host.drop(client_order_id, "no answer, and execution does not know it"):
            self.log.warning("intent_dropped", order=client_order_id)

    async def cancel(self, client_order_id: str) -> None:
        """Ask for an order to be taken back; its events tell how that ended."""
        try:
            await self.call("execution.cancel", client_order_id, Order, timeout_s=1.0, urgent=True)
        except MeshError as error:
            self.log.warning("cancel_failed", order=client_order_id, why=str(error))

    async def warm_up(self) -> None:
        """Fetch the past bars of every series, for as long as it takes."""
        for instrument, interval in tuple(self.host.ctx.series):
            if instrument.endswith("."):
                continue  # no venue has shown it yet; see Host.meet
            query = {"instrument": instrument, "interval": interval, "limit": BARS_MAX}
            while True:
                try:
                    items = await self.call(
                        "analysis.history", query, list[dict[str, Any]], timeout_s=2.0
                    )
                except Refused:
                    raise
                except MeshError:
                    await asyncio.sleep(ABSENT_S)
                    continue
                self.host.warm(parse_bars(items))
                self.log.info("warm", instrument=instrument, interval=interval, bars=len(items))
                break

    def tick(self) -> None:
        """Publish the status if it changed; compare positions."""
        for instrument, (ours, theirs) in self.host.adopt(self.monotonic_s()).items():
            self.saving.changed()
            self.log.warning(
                "position_adopted", instrument=instrument, ours=str(ours), theirs=str(theirs)
            )
        status = self.host.status(0)
        if status != self.published:
            self.published = status
            self.emit(f"strat.{self.host.ctx.name}.status", self.host.status(self.now_ns()))
