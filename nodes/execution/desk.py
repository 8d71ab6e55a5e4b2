"""The desk: blotter and ledger moved together by the same events, live and at replay.

take() and record() decide and apply at once, so that nobody decides from an older state; the
caller journals what they return, in the same order, before anybody is told.

Never here: calls, journal, waiting.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from mesh.protocol.mode import SystemMode
from nodes.domain.accounts import Balance, LedgerLine, Position
from nodes.domain.numbers import ZERO, add
from nodes.domain.orders import Fill, OrderEvent, OrderIntent
from nodes.execution.blotter import Blotter, Evidence
from nodes.execution.gate import Scene
from nodes.execution.ledger import Ledger

Record: TypeAlias = OrderEvent | Fill | LedgerLine
Said: TypeAlias = tuple[str, Record]  # topic and value

TOMBSTONE_NS: Final = 60_000_000_000  # a cancel that came before its order denies it this long


class Taken(NamedTuple):
    """What evidence led to: events to journal in one transaction, and what to tell of it."""

    said: tuple[Said, ...] = ()
    fill: Fill | None = None
    alarm: str = ""
    refused: bool = False


@dataclass(slots=True)
class Desk:
    """Orders and money of one account."""

    account: str
    blotter: Blotter = field(default_factory=Blotter)
    ledger: Ledger = field(default_factory=Ledger)
    tombstones: dict[str, int] = field(default_factory=dict)  # coid to ns

    def apply(self, record: object) -> None:
        """Take over one journaled record; others are not ours and change nothing."""
        match record:
            case OrderEvent():
                self.blotter.apply(record)
            case Fill():
                if self.blotter.apply_fill(record):
                    self.ledger.apply_fill(record)
            case LedgerLine():
                self.ledger.apply_line(record)
            case _:
                pass

    def record(self, intent: OrderIntent, now: int) -> Taken:
        """Make *intent* a PENDING order, or a DENIED one if its cancel came first."""
        dead = now - self.tombstones.pop(intent.client_order_id, now - TOMBSTONE_NS) < TOMBSTONE_NS
        denied = "CANCELED_BEFORE_SUBMIT" if dead else ""
        return self._say(None, self.blotter.record(intent, now, denied=denied))

    def take(self, evidence: Evidence, now: int, *, sent: bool = True) -> Taken:
        """Decide what *evidence* changes and apply it. An unknown order raises an alarm."""
        if evidence.client_order_id not in self.blotter.orders:
            return Taken(alarm="UNKNOWN_ORDER")
        decision = self.blotter.decide(evidence, now, sent=sent)
        if decision.event is None:
            self.blotter.ignored += not decision.refused
            return Taken(alarm=decision.alarm, refused=decision.refused)
        return self._say(decision.fill, decision.event, decision.alarm)

    def bury(self, coid: str, now: int) -> None:
        """Remember the cancel of an order that was never seen."""
        self.tombstones = {
            known: ts for known, ts in self.tombstones.items() if now - ts < TOMBSTONE_NS
        }
        self.tombstones[coid] = now

    def opening(self, balances: Iterable[Balance]) -> tuple[Said, ...]:
        """Book the venue's balances as the first lines of the ledger."""
        lines = [
            LedgerLine(
                account=self.account,
                strategy="",
                kind="TRANSFER",
                instrument="",
                ccy=balance.ccy,
                amount=balance.total,
                price=ZERO,
                ref=f"opening-{balance.ccy}",
            )
            for balance in balances
        ]
        for line in lines:
            self.apply(line)
        return tuple((f"acct.ledger.{self.account}", line) for line in lines)

    def scene(
        self, intent: OrderIntent, *, caller: str, mode: SystemMode, now: int, age_max_ns: int
    ) -> Scene:
        """Return what the gate looks at for *intent*, from these books alone."""
        mine = (intent.account, intent.strategy, intent.instrument, intent.side)
        working = ZERO
        for order in self.blotter.working():
            other = order.intent
            owner = (other.account, other.strategy, other.instrument, other.side)
            if owner == mine and other.client_order_id != intent.client_order_id:
                working = add(working, order.remaining)
        return Scene(
            caller=caller,
            mode=mode,
            now=now,
            age_max_ns=age_max_ns,
            account=self.account,
            held=self.ledger.held(*mine[:3]),
            working=working,
        )

    def balances(self) -> list[Balance]:
        """Return the account's balances now."""
        return self.ledger.balances(self.account, self.blotter.working())

    def positions(self) -> list[Position]:
        """Return every position ever held, flat ones included."""
        return list(self.ledger.positions.values())

    def check(self) -> None:
        """Assert that each fill is booked once and positions are the sum of fills."""
        self.blotter.check()
        replayed = Ledger()
        for fill in self.blotter.fills.values():
            replayed.apply_fill(fill)
        assert replayed.positions == self.ledger.positions

    def _say(self, fill: Fill | None, event: OrderEvent, alarm: str = "") -> Taken:
        said: list[Said] = [(f"fill.{self.account}", fill)] if fill else []
        said.append((f"order.{self.account}", event))
        for _, record in said:
            self.apply(record)
        return Taken(tuple(said), fill, alarm)
