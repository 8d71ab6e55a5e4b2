"""The execution node: carries the desk's decisions to the venue and to the journal.

Every command of an order runs to its end in a task of the runner, one at a time per order,
whether or not its caller still waits. Records are journaled in the order they were decided:
commit() is called in the same step as the decision, and it is first in, first out.

Never here: what evidence means.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mesh import errors
from mesh.protocol.control import DURABLE, LASTVALUE
from mesh.protocol.envelope import decode_event
from mesh.protocol.mode import SystemMode
from mesh.runtime.component import Component, EventMeta, event, request
from nodes.domain.accounts import Balance, Position
from nodes.domain.decisions import ApprovedIntent
from nodes.domain.orders import (
    CANCELING,
    DENIED,
    PENDING,
    UNKNOWN,
    Order,
    OrderIntent,
    VenueOrder,
    VenueReport,
)
from nodes.domain.schemas import SCHEMAS
from nodes.execution import gate, outcome, reconcile
from nodes.execution.blotter import Evidence, evidence_of
from nodes.execution.desk import Desk, Said, Taken
from nodes.execution.paging import page
from nodes.execution.settings import ExecutionSettings

SWEEP_S = 0.25  # how often the mode is looked at
HELD = "mode emergency"  # why the breaker of venue.place is open; cancels have their own
REPEAT_S = 1.0  # how often EMERGENCY cancels what is still open

_REFUSALS: dict[str, type[errors.Refused]] = {
    "NOT_RISK": errors.Denied,
    "MODE_BLOCKED": errors.ModeBlocked,
    "APPROVAL_EXPIRED": errors.Expired,
}


class ExecutionNode(Component):
    """Orders, fills and money of one account at one venue."""

    says = {  # noqa: RUF012  # read by the runner, never changed
        "order.": DURABLE,
        "fill.": DURABLE,
        "acct.ledger.": DURABLE,
        "acct.position.": LASTVALUE,
        "acct.balance.": LASTVALUE,
    }
    schemas = SCHEMAS

    def __init__(self, settings: ExecutionSettings) -> None:
        super().__init__(settings)
        self.params = settings
        self.desk = Desk(settings.account)
        self.busy: dict[str, asyncio.Future[None]] = {}  # coid to its running command
        self.inquiring: set[str] = set()
        self.opened = False
        self.swept_s = float("-inf")

    def applied_offset(self, node: str, log_id: str) -> int:
        """Return 0: a report from before the first connection is a report as well."""
        return 0

    async def on_start(self) -> None:
        """Rebuild from the journal; doubt what was under way, ask about all that is open."""
        for _, _, schema, frame in self.journal.read():
            self.desk.apply(self.decode(schema, decode_event(frame).payload))
        self.opened = bool(self.desk.ledger.refs)
        for order in self.desk.blotter.working():
            coid = order.intent.client_order_id
            if order.state in (PENDING, CANCELING):
                await self._take(Evidence("dbt", coid, reason="RESTARTED"))
            self._inquire(coid)
        self._tell_money(*self.desk.positions())
        self.spawn(self._open_ledger(), "open ledger")
        self.every(SWEEP_S, self._sweep)

    def on_mode(self, mode: SystemMode) -> None:
        """Let no order to the venue in EMERGENCY, not even one whose call is being repeated."""
        if mode is SystemMode.EMERGENCY:
            self.breakers.force_open(HELD, "keyed")
        else:
            self.breakers.release(HELD)

    async def on_stop(self) -> None:
        """Let every order's work under way come to its end."""
        while self.busy:
            await asyncio.wait(set(self.busy.values()))

    # Requests that change something.

    @request("execution.submit", kind="keyed", recalls=True, timeout_s=5.0, writes=True)
    async def submit(self, approved: ApprovedIntent, caller: str) -> Order:
        """Place an approved order once; a known coid answers what became of it.

        Replies PENDING when the venue takes longer than the budget. Raises Conflict for the
        same coid with other content, Refused where the gate is closed.
        """
        intent = approved.intent
        coid = intent.client_order_id
        scene = self.desk.scene(
            intent,
            caller=caller,
            mode=self.mode,
            now=self.now_ns(),
            age_max_ns=self.params.approval_age_max_ms * 1_000_000,
        )
        if caller == "risk" and (known := self.desk.blotter.orders.get(coid)):
            if known.intent != intent:
                raise errors.Conflict(f"{coid} is known with other content")
            return await self._answer(coid)
        if closed := gate.closed_to(approved, scene):
            raise _REFUSALS.get(closed.code, errors.Refused)(f"{closed.code}: {closed.detail}")
        if not self.opened:
            raise errors.Unavailable("NOT_READY: the venue has not told the balances yet")
        taken = self.desk.record(intent, self.now_ns())
        return await self._perform(coid, lambda: self._place(intent, taken))

    @request("execution.cancel", urgent=True, timeout_s=5.0)
    async def cancel(self, coid: str) -> Order:
        """Cancel an order; replies CANCELING when the venue takes longer than the budget.

        Raises NotFound for an unseen order, which is then denied for a minute, and Refused
        for one that has ended.
        """
        if coid not in self.desk.blotter.orders:
            self.desk.bury(coid, self.now_ns())
            raise errors.NotFound(f"no order {coid}")
        await self._answer(coid)
        order = self.desk.blotter.orders[coid]
        if order not in self.desk.blotter.working():
            raise errors.Refused(f"{coid} is {order.state.value}")
        return await self._perform(coid, lambda: self._cancel(coid))

    # Questions.

    @request("execution.order", timeout_s=1.0)
    def order(self, coid: str) -> Order:
        """Return one order. Raises NotFound."""
        if (known := self.desk.blotter.orders.get(coid)) is None:
            raise errors.NotFound(f"no order {coid}")
        return known

    @request("execution.open_orders", timeout_s=1.0)
    def open_orders(self, _: None) -> list[Order]:
        """Return every order that may still trade."""
        return self.desk.blotter.working()

    @request("execution.holdings", timeout_s=1.0)
    def holdings(self, _: None) -> list[Position]:
        """Return every position as a typed value."""
        return self.desk.positions()

    @request("execution.orders", timeout_s=1.0)
    def orders(self, query: dict[str, Any] | None) -> dict[str, Any]:
        """Return a page of orders, newest first."""
        return page(list(self.desk.blotter.orders.values()), query)

    @request("execution.fills", timeout_s=1.0)
    def fills(self, query: dict[str, Any] | None) -> dict[str, Any]:
        """Return a page of fills, newest first."""
        return page(list(self.desk.blotter.fills.values()), query)

    @request("execution.positions", timeout_s=1.0)
    def positions(self, query: dict[str, Any] | None) -> dict[str, Any]:
        """Return a page of positions."""
        return page(self.desk.positions(), query)

    @request("execution.balances", timeout_s=1.0)
    def balances(self, query: dict[str, Any] | None) -> dict[str, Any]:
        """Return a page of balances."""
        return page(self.desk.balances(), query)

    # The venue's private stream.

    @event("venue.report.", durable=True, halt=True)
    async def on_report(self, report: VenueReport, meta: EventMeta) -> None:
        """Book what the venue reports; its offset is journaled with what it led to."""
        await self._take(evidence_of(report), applied=meta)

    # Commands, one at a time per order.

    async def _perform(self, coid: str, work: Callable[[], Awaitable[None]]) -> Order:
        while (before := self.busy.get(coid)) is not None:
            await asyncio.wait({before})
        done = self.busy[coid] = asyncio.get_running_loop().create_future()
        self.spawn(self._finish(coid, work, done), f"command {coid}")
        return await self._answer(coid)

    async def _finish(
        self, coid: str, work: Callable[[], Awaitable[None]], done: asyncio.Future[None]
    ) -> None:
        try:
            await work()
        finally:
            del self.busy[coid]
            done.set_result(None)

    async def _answer(self, coid: str) -> Order:
        if (running := self.busy.get(coid)) is not None:
            await asyncio.wait({running}, timeout=self.params.reply_budget_s)
        return self.desk.blotter.orders[coid]

    async def _place(self, intent: OrderIntent, taken: Taken) -> None:
        coid = intent.client_order_id
        await self._commit(*taken.said)  # nothing reaches the venue that is not on disk
        if self.desk.blotter.orders[coid].state is DENIED:
            return
        if closed := gate.mode_closed_to(intent, self._scene_now(intent)):
            await self._take(Evidence("deny", coid, reason=closed.code), sent=False)
            return
        result = await self._ask_venue("venue.place", intent, VenueReport, key=coid)
        await self._take(outcome.of_place(coid, result))

    async def _cancel(self, coid: str) -> None:
        taken = await self._take(Evidence("cxl", coid))
        if taken.refused:
            return  # it ended meanwhile
        result = await self._ask_venue("venue.cancel", coid, VenueReport, urgent=True)
        unasked = isinstance(result, errors.MeshError) and result.executed == "no"
        if unasked and self.desk.blotter.orders[coid].state is UNKNOWN:
            return  # our own failure to ask proves nothing about an order in doubt
        await self._take(outcome.of_cancel(coid, result))

    async def _ask_venue(
        self,
        method: str,
        argument: object,
        reply: type[VenueReport],
        *,
        key: str | None = None,
        urgent: bool = False,
    ) -> VenueReport | errors.MeshError:
        timeout_s = self.params.place_timeout_s
        try:
            return await self.call(
                method, argument, reply, timeout_s=timeout_s, key=key, urgent=urgent
            )
        except errors.MeshError as error:
            return error

    # Evidence to journal, then to everybody.

    async def _take(
        self, evidence: Evidence, *, sent: bool = True, applied: EventMeta | None = None
    ) -> Taken:
        taken = self.desk.take(evidence, self.now_ns(), sent=sent)
        if taken.said or applied is not None:
            await self._commit(*taken.said, applied=applied)
        if taken.alarm:
            self.log.error(
                "order_alarm", alarm=taken.alarm, order=evidence.client_order_id,
                evidence=evidence.event,
            )  # fmt: skip
        if taken.fill is not None:
            fill = taken.fill
            holder = (fill.account, fill.strategy, fill.instrument)
            self._tell_money(self.desk.ledger.positions[holder])
        order = self.desk.blotter.orders.get(evidence.client_order_id)
        if order is not None and order.state is UNKNOWN:
            self._inquire(evidence.client_order_id)
        return taken

    async def _commit(self, *said: Said, applied: EventMeta | None = None) -> None:
        await self.commit(*said, applied=applied, patient=True)  # the desk has decided already
        self._tell_money()

    def _tell_money(self, *positions: Position) -> None:
        for held in positions:
            topic = f"acct.position.{held.account}.{held.strategy}.{held.instrument}"
            self.emit(topic, held)
        for balance in self.desk.balances():
            self.emit(f"acct.balance.{balance.account}.{balance.ccy}", balance)

    # Doubt.

    def _inquire(self, coid: str) -> None:
        if coid not in self.inquiring:
            self.inquiring.add(coid)
            self.spawn(self._resolve(coid), f"inquire {coid}")

    async def _resolve(self, coid: str) -> None:
        """Ask the venue about an order until one answer came and nothing is in doubt."""
        doubt = self.desk.blotter.orders[coid].doubt
        inquiry = reconcile.Inquiry(
            coid,
            self.desk.blotter.attempts.get(coid, 0),
            self.params.absence_window_ms * 1_000_000,
        )
        for delay in reconcile.delays():
            await asyncio.sleep(delay)
            if await self._inquiry_ends(inquiry):
                break
        self.inquiring.discard(coid)
        order = self.desk.blotter.orders[coid]
        if doubt == "CANCEL" and order in self.desk.blotter.working():
            await self._perform(coid, lambda: self._cancel(coid))  # alive: the wish still holds

    async def _inquiry_ends(self, inquiry: reconcile.Inquiry) -> bool:
        coid = inquiry.coid
        asked = self.desk.blotter.orders[coid]
        try:
            timeout_s = self.params.query_timeout_s
            answer = await self.call("venue.order", coid, VenueOrder, timeout_s=timeout_s)
        except errors.MeshError:
            return False  # no answer is no evidence
        fresh = self.desk.blotter.orders[coid] == asked
        for evidence in inquiry.judge(asked, answer):
            if evidence.fill is not None or fresh:  # fills are facts, states may be outdated
                await self._take(evidence)
        return fresh and self.desk.blotter.orders[coid].state is not UNKNOWN

    async def _open_ledger(self) -> None:
        """Take the venue's balances as opening lines, or compare them with ours."""
        for delay in reconcile.delays():
            try:
                timeout_s = self.params.query_timeout_s
                theirs = await self.call(
                    "venue.balances", None, list[Balance], timeout_s=timeout_s
                )
                break
            except errors.MeshError:
                await asyncio.sleep(delay)
        if not self.opened:
            await self._commit(*self.desk.opening(theirs))
            self.opened = True
            return
        ours = {balance.ccy: balance.total for balance in self.desk.balances()}
        for balance in theirs:  # reports under way explain a difference; a person judges the rest
            if ours.get(balance.ccy) != balance.total:
                self.log.warning(
                    "balance_differs", ccy=balance.ccy, venue=str(balance.total),
                    ours=str(ours.get(balance.ccy)),
                )  # fmt: skip

    # Mode.

    def _sweep(self) -> None:
        """Cancel all that is open while EMERGENCY holds, again and again until nothing is."""
        if self.mode is not SystemMode.EMERGENCY:
            self.swept_s = float("-inf")
            return
        if self.monotonic_s() - self.swept_s < REPEAT_S:
            return
        self.swept_s = self.monotonic_s()
        for order in self.desk.blotter.working():
            coid = order.intent.client_order_id
            if coid not in self.busy:
                self.spawn(self._sweep_one(coid), f"sweep {coid}")

    async def _sweep_one(self, coid: str) -> None:
        await self._perform(coid, lambda: self._cancel(coid))

    def _scene_now(self, intent: OrderIntent) -> gate.Scene:
        return self.desk.scene(
            intent, caller="risk", mode=self.mode, now=self.now_ns(), age_max_ns=0
        )
