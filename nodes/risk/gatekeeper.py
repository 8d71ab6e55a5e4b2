"""The gatekeeper: what risk knows, and its verdict on each intent.

Everything that may still trade counts in full: working orders, orders in doubt, and approvals
under way until their order is seen or proved absent.

Never here: the checks themselves, calls, the journal.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec

from mesh.protocol.mode import SystemMode
from nodes.domain.accounts import Position
from nodes.domain.decisions import Limits, RiskDecision
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, SELL, Quote, Side
from nodes.domain.numbers import EXACT, ZERO, add
from nodes.domain.orders import WORKING, Order, OrderEvent, OrderIntent
from nodes.risk.limits import ID_CONFLICT, Deny, View, first_denial

Holder: TypeAlias = tuple[str, str]  # account, instrument

DECIDED_MAX: Final = 10_000  # denied intents that are answered alike when they come again
ENDED_MAX: Final = 10_000  # ended orders; beyond that execution alone remembers them
SCHEMA: Final = 1  # of what snapshot returns

sub = EXACT.subtract


class Books(msgspec.Struct, frozen=True):
    """What a checkpoint holds."""

    working: list[Order]
    ended: list[Order]  # oldest end first
    flight: list[OrderIntent]
    forgotten: list[tuple[str, str, Decimal]]  # account, instrument, signed quantity


@dataclass(slots=True)
class Gatekeeper:
    """Judge intents one by one. now: monotonic s; ts: ns, for stamps only."""

    limits: Limits
    mode: SystemMode = SystemMode.SAFE
    mode_epoch: int = 0
    ready: bool = False  # execution has told its open orders
    instruments: dict[str, Instrument] = field(default_factory=dict)
    quotes: dict[str, tuple[Quote, float]] = field(default_factory=dict)  # with time of arrival
    orders: dict[str, Order] = field(default_factory=dict)
    working: dict[str, Order] = field(default_factory=dict)
    ended: dict[str, msgspec.Raw] = field(default_factory=dict)  # encoded once, for checkpoints
    forgotten: dict[Holder, Decimal] = field(default_factory=dict)  # sum of what those had filled
    held: dict[Holder, Decimal] = field(default_factory=dict)  # sum of what orders filled
    reported: dict[Holder, dict[str, Position]] = field(default_factory=dict)
    flight: dict[str, OrderIntent] = field(default_factory=dict)  # approved, order not seen yet
    decided: dict[str, tuple[OrderIntent | None, RiskDecision]] = field(default_factory=dict)

    def handle(self, event: object, now: float) -> None:
        """Learn from an event; a type that is not for us changes nothing."""
        if (learn := _LEARN.get(type(event))) is not None:
            learn(self, event, now)

    def decide(self, intent: OrderIntent, now: float, ts: int) -> RiskDecision:
        """Return the verdict; the same intent again gets the same one. Never raises."""
        known = self.orders.get(intent.client_order_id)
        if known is not None and known.intent == intent:  # approved once: execution has it
            return self._verdict(intent, None, known.ts_state)
        before = self.decided.get(intent.client_order_id)
        if before is not None and before[0] in (None, intent):
            return before[1]
        try:
            deny = first_denial(intent, self.view(intent, now), self.limits)
        except Exception as error:  # noqa: BLE001  # a check that fails, however, denies
            deny = Deny("CHECK_FAILED", f"{type(error).__name__}: {error}"[:200])
        decision = self._verdict(intent, deny, ts)
        if before is None and known is None:
            self._remember(intent.client_order_id, intent, decision)
        if decision.approved and known is None:
            self.flight[intent.client_order_id] = intent
        return decision

    def _verdict(self, intent: OrderIntent, deny: Deny | None, ts: int) -> RiskDecision:
        return RiskDecision(
            client_order_id=intent.client_order_id,
            strategy=intent.strategy,
            approved=deny is None,
            code=deny.code if deny else "",
            detail=deny.detail if deny else "",
            mode_epoch=self.mode_epoch,
            ts_decided=ts,
        )

    def recall(self, decision: RiskDecision) -> None:
        """Learn from a decision of an earlier run, in order: what was denied stays denied.

        Its intent is not known any more. What was approved execution knows, or is judged anew.
        """
        coid = decision.client_order_id
        if decision.approved:
            self.decided.pop(coid, None)
        elif decision.code != ID_CONFLICT:  # that one is about another intent of the same id
            self._remember(coid, None, decision)

    def _remember(self, coid: str, intent: OrderIntent | None, decision: RiskDecision) -> None:
        if len(self.decided) >= DECIDED_MAX:
            self.decided.pop(next(iter(self.decided)))  # the oldest; flight keeps what may trade
        self.decided[coid] = (intent, decision)

    def release(self, coid: str) -> None:
        """Forget an approval whose order is proved not to exist; a new try is judged anew."""
        self.flight.pop(coid, None)
        self.decided.pop(coid, None)

    def view(self, intent: OrderIntent, now: float) -> View:
        """Return what is known about *intent*, itself not included."""
        coid = intent.client_order_id
        quote, arrived = self.quotes.get(intent.instrument, (None, float("-inf")))
        holder = (intent.account, intent.instrument)
        open_orders = [(o.intent, o.remaining) for key, o in self.working.items() if key != coid]
        open_orders += [(i, i.quantity) for key, i in self.flight.items() if key != coid]
        here = [(i, left) for i, left in open_orders if (i.account, i.instrument) == holder]
        return View(
            mode=self.mode,
            ready=self.ready,
            known=self._known(coid),
            instrument=self.instruments.get(intent.instrument),
            quote=quote,
            quote_age_ms=(now - arrived) * 1000,
            held=self.held.get(holder, ZERO),
            reported=_sum(p.signed_quantity for p in self.reported.get(holder, {}).values()),
            buying=_on_side(here, BUY),
            selling=_on_side(here, SELL),
            price_worst=max((i.price for i, _ in here), default=ZERO),
            open_orders=len(open_orders),
        )

    def check(self) -> None:
        """Assert every invariant."""
        assert not self.flight.keys() & self.orders.keys()
        assert all(order.state in WORKING for order in self.working.values())
        assert self.orders.keys() == self.working.keys() | self.ended.keys()
        replayed = dict(self.forgotten)
        for order in self.orders.values():
            _hold(replayed, order.intent, order.filled)
        assert replayed == self.held

    def snapshot(self) -> dict[str, object]:
        """Return what a restart needs of orders and approvals, for restore."""
        return {
            "working": list(self.working.values()),
            "ended": list(self.ended.values()),
            "flight": list(self.flight.values()),
            "forgotten": [(*holder, quantity) for holder, quantity in self.forgotten.items()],
        }

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot that was decoded without types, before anything else is learned."""
        books = msgspec.convert(snapshot, Books)
        for account, instrument, quantity in books.forgotten:
            self.forgotten[account, instrument] = self.held[account, instrument] = quantity
        for order in (*books.ended, *books.working):
            self._on_order(OrderEvent("saved", order), 0.0)
        self.flight = {intent.client_order_id: intent for intent in books.flight}

    def forget_orders(self) -> None:
        """Begin without orders: execution's journal is another one. Approvals still count."""
        for learned in (self.orders, self.working, self.ended, self.held, self.forgotten):
            learned.clear()

    def _known(self, coid: str) -> OrderIntent | None:
        if (order := self.orders.get(coid)) is not None:
            return order.intent
        return self.decided[coid][0] if coid in self.decided else None

    def _on_quote(self, quote: Quote, now: float) -> None:
        self.quotes[quote.instrument] = (quote, now)

    def _on_instrument(self, instrument: Instrument, now: float) -> None:
        self.instruments[instrument.symbol] = instrument

    def _on_order(self, event: OrderEvent, now: float) -> None:
        order = event.order
        coid = order.intent.client_order_id
        before = self.orders.get(coid)
        _hold(self.held, order.intent, sub(order.filled, before.filled if before else ZERO))
        self.orders[coid] = order
        self.flight.pop(coid, None)
        self.decided.pop(coid, None)
        if order.state in WORKING:
            self.working[coid] = order
            self.ended.pop(coid, None)
        else:
            self.working.pop(coid, None)
            self._end(order)

    def _end(self, order: Order) -> None:
        self.ended[order.intent.client_order_id] = msgspec.Raw(msgspec.msgpack.encode(order))
        if len(self.ended) > ENDED_MAX:
            oldest = next(iter(self.ended))
            del self.ended[oldest]
            gone = self.orders.pop(oldest)
            _hold(self.forgotten, gone.intent, gone.filled)

    def _on_position(self, position: Position, now: float) -> None:
        holders = self.reported.setdefault((position.account, position.instrument), {})
        holders[position.strategy] = position


_LEARN: Final[dict[type, Callable[[Gatekeeper, Any, float], None]]] = {
    Quote: Gatekeeper._on_quote,  # noqa: SLF001  # its own table
    Instrument: Gatekeeper._on_instrument,  # noqa: SLF001
    OrderEvent: Gatekeeper._on_order,  # noqa: SLF001
    Position: Gatekeeper._on_position,  # noqa: SLF001
}


def _hold(held: dict[Holder, Decimal], intent: OrderIntent, filled: Decimal) -> None:
    holder = (intent.account, intent.instrument)
    signed = filled if intent.side is BUY else filled.copy_negate()
    held[holder] = add(held.get(holder, ZERO), signed)


def _on_side(orders: list[tuple[OrderIntent, Decimal]], side: Side) -> Decimal:
    return _sum(left for intent, left in orders if intent.side is side)


def _sum(values: Any) -> Decimal:
    total = ZERO
    for value in values:
        total = add(total, value)
    return total
