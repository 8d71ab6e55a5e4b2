"""The blotter: every order we know and every fill, made of journaled events alone.

decide() looks at evidence and returns events without changing anything; apply() changes state
from events. So the state after a restart is the state before it.

Never here: money, calls, time of its own.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

from nodes.domain.numbers import add, mul
from nodes.domain.orders import (
    DENIED,
    NEW,
    TERMINAL,
    Fill,
    Order,
    OrderEvent,
    OrderIntent,
    VenueReport,
)
from nodes.domain.transitions import step

FillKey: TypeAlias = tuple[str, str, str]  # account, instrument, fill_id


class Evidence(NamedTuple):
    """Something that happened to an order: by us, or proved by the venue."""

    event: str
    client_order_id: str
    venue_order_id: str = ""
    reason: str = ""
    fill: Fill | None = None


class Decision(NamedTuple):
    """Events to journal together, in this order; none if the evidence brought no news."""

    fill: Fill | None = None
    event: OrderEvent | None = None
    alarm: str = ""
    refused: bool = False


def evidence_of(report: VenueReport) -> Evidence:
    """Return a venue's report as evidence."""
    return Evidence(
        report.event, report.client_order_id, report.venue_order_id, report.reason, report.fill
    )


def key_of(fill: Fill) -> FillKey:
    """Return what makes a fill the same fill, whoever reports it and how often."""
    return (fill.account, fill.instrument, fill.fill_id)


@dataclass(slots=True)
class Blotter:
    """Orders by client_order_id and fills by key, in order of arrival."""

    orders: dict[str, Order] = field(default_factory=dict)
    open: dict[str, Order] = field(default_factory=dict)  # the orders that may still trade
    fills: dict[FillKey, Fill] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)  # coid to ns of our last command
    ignored: int = 0

    def record(self, intent: OrderIntent, now: int, *, denied: str = "") -> OrderEvent:
        """Return the event that makes *intent* a PENDING order, or a DENIED one with a reason."""
        event = "deny" if denied else "rec"
        after = step(Order(intent, NEW), event)
        return OrderEvent(event, Order(intent, after.state, reason=denied, ts_state=now))

    def decide(self, evidence: Evidence, now: int, *, sent: bool = True) -> Decision:
        """Return what *evidence* changes. The order must be known; now: ns.

        Raises InvalidTransition for what only a bug of ours can ask.
        """
        before = self.orders[evidence.client_order_id]
        order, event, alarm = before, evidence.event, ""
        if evidence.fill is not None:
            if key_of(evidence.fill) in self.fills:
                return Decision()
            order = _booked(order, evidence.fill)
            event = "fill" if order.filled < order.intent.quantity else "full"
            alarm = "OVERFILL" if order.filled > order.intent.quantity else ""
        after = step(order, event, sent=sent)
        if after.refused:
            return Decision(refused=True)
        order = msgspec.structs.replace(
            order,
            state=after.state,
            doubt=after.doubt,
            venue_order_id=order.venue_order_id or evidence.venue_order_id,
            reason=before.reason if after.ignored else (evidence.reason or after.reason),
            ts_state=before.ts_state,
        )
        alarm = alarm or after.alarm
        if order == before and event != "cxl":
            return Decision(alarm=alarm)
        order = msgspec.structs.replace(order, reason=order.reason or alarm, ts_state=now)
        return Decision(evidence.fill, OrderEvent(event, order), alarm)

    def apply(self, event: OrderEvent) -> None:
        """Take over a journaled event; the same one again changes nothing."""
        coid = event.order.intent.client_order_id
        self.orders[coid] = event.order
        if event.order.state in TERMINAL:
            self.open.pop(coid, None)
        else:
            self.open[coid] = event.order
        if event.event in ("rec", "cxl"):
            self.attempts[coid] = event.order.ts_state

    def apply_fill(self, fill: Fill) -> bool:
        """Take over a journaled fill; return False if it was known."""
        known = key_of(fill) in self.fills
        self.fills[key_of(fill)] = fill
        return not known

    def working(self) -> list[Order]:
        """Return every order that may still trade, oldest first."""
        return list(self.open.values())

    def check(self) -> None:
        """Assert every invariant."""
        for coid, order in self.orders.items():
            assert order.filled >= 0
            assert (coid in self.open) is (order.state not in TERMINAL)
            assert order.state is not DENIED or not order.filled


def _booked(order: Order, fill: Fill) -> Order:
    return msgspec.structs.replace(
        order,
        filled=add(order.filled, fill.quantity),
        notional=add(order.notional, mul(fill.price, fill.quantity)),
        venue_order_id=order.venue_order_id or fill.venue_order_id,
    )
