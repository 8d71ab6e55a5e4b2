"""Peer: one server as a caller knows it: link, session, breaker, latency, attempts under way.

Never here: choosing among servers, making another attempt.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mesh import errors
from mesh.protocol import envelope, outcomes, rpcs
from mesh.protocol.asking import Asking
from mesh.protocol.balancing import Latency
from mesh.protocol.breaker import CLOSED, Breaker
from mesh.protocol.control import Failure
from mesh.protocol.envelope import NO_IDEM, REQ
from mesh.protocol.once import Key
from mesh.protocol.retries import Attempts
from mesh.protocol.rpcs import SAFE, Ask, Method
from mesh.sim.feed import Alarm
from mesh.sim.process import Process
from mesh.sim.requestconfig import LIST, PARTS, STOP
from mesh.sim.requestjudges import Deeds, Desk, Gate, Who
from mesh.sim.requestlink import RequestLink

CONSUME_S: Final = 0.002  # until a part is taken
URGENT_PRIO: Final = 50
CHECK_EVERY: Final = 8  # steps of a machine: to check costs more than to run
KINDS: Final = errors.by_code()


@dataclass(slots=True)
class Call:
    """One call with all its attempts. home: the instance that may have executed it."""

    body: bytes
    method: Method
    idem: bytes
    deadline: float
    attempts: Attempts
    explicit: bool  # the caller says what class the method is of
    account: bytes  # whose keyed calls go to one instance
    home: str = ""
    whose: list[Who] = field(default_factory=list)
    earlier: Failure | None = None
    ended: bool = False
    reply: bytes | None = None

    @property
    def keyed(self) -> bool:
        """Say whether it has a key."""
        return self.idem != NO_IDEM


@dataclass(slots=True)
class Attempt:
    """One attempt under way."""

    call: Call
    permit: int
    began: float
    parts: list[bytes] = field(default_factory=list)


class Owner(Protocol):
    """Who asks."""

    process: Process
    deeds: Deeds
    desk: Desk

    @property
    def now(self) -> float: ...

    def later(self, after_s: float, call: Callable[..., object], *args: Any) -> None: ...

    def failed(self, call: Call, outcome: outcomes.Failed, began: float) -> None: ...

    def end(self, call: Call, reply: bytes | None) -> None: ...


@dataclass(slots=True)
class Peer:
    """What a caller knows of one instance."""

    name: str
    caller: Owner
    link: RequestLink
    asking: Asking
    breaker: Breaker
    gate: Gate
    latency: Latency = field(default_factory=Latency)
    open: dict[int, Attempt] = field(default_factory=dict)
    steps: int = 0
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.caller.process, self._tick)

    # The socket.

    def take(self, frame: bytes) -> None:
        """Take a frame from the link."""
        self.do(self.asking.frame(envelope.decode_rpc(frame), self.caller.now))

    def told(self, *, connected: bool) -> None:
        """Learn from the monitor."""
        if connected:
            self.do(self.asking.connected(self.caller.now))
            self.do(self.asking.writable(self.caller.now))
        else:
            self.do(self.asking.lost())

    def writable(self) -> None:
        """Learn that the socket takes frames again."""
        self.do(self.asking.writable(self.caller.now))

    def _tick(self) -> None:
        self.do(self.asking.tick(self.caller.now))

    # What the machine wants.

    def do(self, effects: Iterable[outcomes.Effect]) -> None:
        """Carry out effects."""
        for effect in effects:
            self._one(effect)
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self.asking.check()
        self.alarm.set(self.asking.next_deadline())

    def _one(self, effect: outcomes.Effect) -> None:
        if isinstance(effect, outcomes.Send):
            rpc = effect.rpc
            if rpc.kind is REQ:
                self._judge_credit()
            if not self.link.send_up(envelope.encode_rpc(rpc)) and rpc.kind is REQ:
                self.do(self.asking.bounced(rpc.corr))
        elif isinstance(effect, outcomes.Replied | outcomes.Failed):
            self._settle(effect)
        elif isinstance(effect, outcomes.Part):
            self.open[effect.corr].parts.append(effect.body)
            self.caller.later(CONSUME_S, self._consume, effect.corr)
        elif isinstance(effect, outcomes.Close):
            self.link.close()
        elif isinstance(effect, outcomes.Open):
            self.link.open(self)

    def _judge_credit(self) -> None:
        welcome = self.asking.welcome
        assert welcome is not None, "asked before the welcome"
        Desk.credit(
            f"{self.caller.process.name}>{self.name}", self.asking.inflight, welcome.credit
        )

    def _consume(self, corr: int) -> None:
        self.do(self.asking.consumed(corr))

    # An attempt.

    def ask(self, call: Call, permit: int) -> None:
        """Make an attempt."""
        now, tries = self.caller.now, call.attempts.tries
        kind = call.method.kind if call.explicit else None
        prio = URGENT_PRIO if call.method is STOP else rpcs.PRIO
        budget_s = call.deadline - now
        ask = Ask(call.method.name, call.body, budget_s, kind, prio, call.idem, tries + 1)
        corr, effects = self.asking.call(ask, now)
        self.latency.asked()
        call.whose.append(Who(self.name, self.caller.process.name, self.asking.epoch, corr))
        self.open[corr] = Attempt(call, permit, now)
        self.caller.desk.asked(self.name, corr, call.body, call.method.kind, tries)
        self.do(effects)

    def cancel(self, corr: int) -> None:
        """Give up an attempt, and its call."""
        self.do(self.asking.cancel(corr, self.caller.now))

    def _settle(self, outcome: outcomes.Replied | outcomes.Failed) -> None:
        caller, now = self.caller, self.caller.now
        reply = outcome.body if isinstance(outcome, outcomes.Replied) else None
        caller.desk.ended(self.name, outcome.corr, reply)
        attempt = self.open.pop(outcome.corr)
        self._learn(attempt, outcome, now)
        caller.desk.inflight(self.name, self.latency.inflight)
        call = attempt.call
        if isinstance(outcome, outcomes.Failed):
            who = Who(self.name, caller.process.name, self.asking.epoch, outcome.corr)
            caller.deeds.told(who, outcome.failure.executed)
            caller.failed(call, outcome, attempt.began)
            return
        if call.method is LIST:
            Desk.whole(call.body, attempt.parts, PARTS)
        if call.method.kind is not SAFE:
            key = Key(caller.process.name, call.idem) if call.keyed else None
            caller.deeds.replied(key, call.body, outcome.body)
        caller.end(call, outcome.body)

    def _learn(
        self, attempt: Attempt, outcome: outcomes.Replied | outcomes.Failed, now: float
    ) -> None:
        """Tell balancer and breaker how an attempt ended."""
        good = outcomes.verdict(outcome)
        if good is None:
            self.latency.left()
            self.breaker.give_back(attempt.permit, now)
            self.gate.returned(attempt.permit, now)
            return
        took_s = now - attempt.began
        if good:
            self.latency.answered(took_s, now)
        else:
            self.latency.failed(now)
        counted = self.breaker.record(attempt.permit, succeeded=good, now=now, took_s=took_s)
        self.breaker.check()
        self.latency.check()
        self.gate.ended(attempt.permit, now, succeeded=good, counted=counted)
        self.gate.stands(now, refuses=self.breaker.state is not CLOSED)
