"""Calls: what one session with one peer has been asked: what waits, what is in flight.

A request takes one credit and its answer gives it back, also when its caller has given up: the
peer is still at it. A fifth of the window is kept for urgent calls.

Never here: sessions, frames, a clock.
"""

from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Final

import msgspec

from mesh.protocol.deadlines import Deadlines
from mesh.protocol.envelope import REQ, Rpc
from mesh.protocol.rpcs import (
    ONCE,
    PARTS,
    URGENT,
    WINDOW,
    WINDOW_BYTES,
    Ask,
    MethodClass,
    less_reserve,
)
from mesh.protocol.waiting import Waiting, rank

WINDOW_MAX: Final = 1_024  # whatever a peer grants


class CallStage(IntEnum):
    """Where a call stands; a settled one that holds no credit is forgotten."""

    QUEUED = auto()  # never sent, or surely not executed
    SENT = auto()
    STARTED = auto()  # the peer says so
    ABANDONED = auto()  # settled; its credit is still out


class CallTurn(IntEnum):
    """What happens to a call."""

    SEND = auto()
    START = auto()
    ABANDON = auto()
    RETURN = auto()  # it did not reach a handler


QUEUED, SENT, STARTED = CallStage.QUEUED, CallStage.SENT, CallStage.STARTED
ABANDONED = CallStage.ABANDONED
SEND, START, ABANDON, RETURN = CallTurn.SEND, CallTurn.START, CallTurn.ABANDON, CallTurn.RETURN

TRANSITIONS: Final = {
    QUEUED: {SEND: SENT},
    SENT: {START: STARTED, ABANDON: ABANDONED, RETURN: QUEUED},
    STARTED: {START: STARTED, ABANDON: ABANDONED},
    ABANDONED: {START: ABANDONED},
}


class Call(msgspec.Struct):
    """One attempt of a call to one peer."""

    corr: int
    method: int
    ask: Ask
    deadline: float
    kind: MethodClass = ONCE  # until somebody says what the method is
    stage: CallStage = QUEUED
    serial: int = 0  # order of sending
    parts: int = 0  # of its reply that came
    consumed: int = 0  # and were taken

    @property
    def urgent(self) -> bool:
        """Say whether it may use what is kept for cancels, mode and leases."""
        return self.ask.prio < URGENT

    def turn(self, turn: CallTurn) -> None:
        """Go to the next stage. Raises KeyError for a bug."""
        self.stage = TRANSITIONS[self.stage][turn]

    def take_part(self) -> bool:
        """Learn that a part came; return False if the peer had no credit for it."""
        if self.parts >= self.consumed + PARTS:
            return False
        self.parts += 1
        return True

    def consume_part(self) -> int:
        """Learn that a part was taken; return how many may come in all."""
        self.consumed = min(self.consumed + 1, self.parts)
        return self.consumed + PARTS

    def frame(self, epoch: int, budget_ms: int) -> Rpc:
        """Return the request as it travels. budget_ms: time left."""
        ask, corr = self.ask, self.corr
        prio, idem, attempt = ask.prio, ask.idem, ask.attempt
        return Rpc(
            REQ, self.method, corr, epoch, ask.body, budget_ms, attempt, prio, idem, ask.cause
        )


@dataclass(slots=True)
class Calls:
    """Hold the calls to one peer. now: monotonic seconds."""

    queue_max: int
    window: int = WINDOW
    window_bytes: int = WINDOW_BYTES
    asked: int = 0  # requests sent
    queue: Waiting[Call] = field(init=False)
    flying: dict[int, Call] = field(default_factory=dict)  # in order of sending
    bytes: int = 0  # of their bodies
    deadlines: Deadlines = field(default_factory=Deadlines)

    def __post_init__(self) -> None:
        self.queue = Waiting(self.queue_max)

    def add(self, call: Call) -> Call | None:
        """Let *call* wait; return who gives way for it, perhaps itself."""
        place = rank(call.ask.prio, call.ask.attempt, call.deadline, call.corr)
        victim = self.queue.add(place, call)
        if victim is not call:
            self.deadlines.set(call.corr, call.deadline)
        if victim is not None:
            self.deadlines.drop(victim.corr)
        return victim

    def grant(self, messages: int, size: int) -> None:
        """Learn the window that the peer keeps for us, within reason."""
        self.window = min(max(messages, 1), WINDOW_MAX)
        self.window_bytes = max(size, 1)

    def first(self) -> Call | None:
        """Return what is to be sent next if there is credit for it, None if not."""
        call = self.queue.first()
        return call if call is not None and self._has_credit(call) else None

    def goes(self, call: Call) -> bool:
        """Let a new *call* that overtakes nobody go at once: send it; False if it has to wait."""
        if self.queue or not self._has_credit(call):
            return False
        self.deadlines.set(call.corr, call.deadline)
        self._fly(call)
        return True

    def send(self, call: Call) -> None:
        """Learn that *call*, which waited, is sent."""
        self.queue.take(call.corr)
        self._fly(call)

    def withdraw(self, corr: int) -> Call | None:
        """Forget and return a call that waits, None if it does not."""
        call = self.queue.take(corr)
        if call is not None:
            self.deadlines.drop(corr)
        return call

    def land(self, corr: int) -> Call | None:
        """Forget and return a call in flight: its credit is back. None for an unknown one."""
        call = self.flying.pop(corr, None)
        if call is not None:
            self.bytes -= len(call.ask.body)
            self.deadlines.drop(corr)
        return call

    def abandon(self, call: Call) -> None:
        """Learn that a call in flight is settled without an answer; its credit stays out."""
        call.turn(ABANDON)
        self.deadlines.drop(call.corr)

    def put_back(self, corr: int) -> Call | None:
        """Let a call in flight wait again: it reached no handler; return who gives way."""
        call = self.land(corr)
        if call is None or call.stage is ABANDONED:
            return None
        call.turn(RETURN)
        return self.add(call)

    def overdue(self, now: float) -> list[Call]:
        """Return the calls whose deadline has passed, each once; they are still here."""
        found = [self.flying.get(corr) or self.queue.get(corr) for corr in self.deadlines.due(now)]
        return [call for call in found if call is not None]

    def missing(self, asked: int, held: set[int]) -> list[int]:
        """Return the calls among the first *asked* that the peer does not hold any more."""
        return [c.corr for c in self.flying.values() if c.serial <= asked and c.corr not in held]

    def check(self) -> None:
        """Assert every invariant."""
        self.queue.check()
        self.deadlines.check()
        flying = list(self.flying.values())
        assert [call.serial for call in flying] == sorted(call.serial for call in flying)
        assert all(call.stage is not QUEUED for call in flying)
        assert all(call.stage is QUEUED for call in self.queue)
        assert self.bytes == sum(len(call.ask.body) for call in flying)
        unsettled = len(self.queue) + sum(call.stage is not ABANDONED for call in flying)
        assert len(self.deadlines) <= unsettled

    def _has_credit(self, call: Call) -> bool:
        if not self.flying:
            return True
        most = self.window if call.urgent else less_reserve(self.window)
        size = self.bytes + len(call.ask.body)
        return len(self.flying) < most and size <= self.window_bytes

    def _fly(self, call: Call) -> None:
        self.asked += 1
        call.serial = self.asked
        call.turn(SEND)
        self.flying[call.corr] = call
        self.bytes += len(call.ask.body)
