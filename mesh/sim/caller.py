"""Caller: a simulated node that asks servers: balancing, breakers, retries with a key.

A keyed call stays with the instance that may have executed it, for each has a disk of its own.
What a run leaves open the next one asks again, with the same keys.

Never here: who answers, faults, judgement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Any, Final

from mesh import errors
from mesh.errors import MeshError
from mesh.protocol import outcomes, rpcs
from mesh.protocol.asking import Asking
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.balancing import Candidate, choose
from mesh.protocol.breaker import Breaker
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import NO_IDEM
from mesh.protocol.peerlink import READY
from mesh.protocol.retries import Attempts, RetryBudget
from mesh.protocol.rpcs import KEYED, ONCE
from mesh.sim.config import LOAD_UNTIL_S
from mesh.sim.peer import KINDS, Call, Peer
from mesh.sim.process import Process
from mesh.sim.requestconfig import METHODS, READ, STOP, RequestConfig
from mesh.sim.requestjudges import LATE_S, Deeds, Desk, Gate, Spread
from mesh.sim.requestlink import RequestLink
from mesh.sim.server import CLUSTER

POLICY: Final = BackoffPolicy(0.05, 1.0)
READY_S: Final = 0.1  # between two looks at an instance that is not ready
LAST_S: Final = 4.0  # for the last calls, when all is well again


@dataclass(slots=True)
class Caller:
    """One calling node. links: to every server, by name."""

    process: Process
    config: RequestConfig
    deeds: Deeds
    load: Random
    dice: Random
    links: dict[str, RequestLink]
    peers: dict[str, Peer] = field(default_factory=dict)
    budget: RetryBudget = field(default_factory=RetryBudget)
    desk: Desk = field(init=False)
    spread: Spread = field(init=False)
    calls: int = 0
    unsure: dict[bytes, Call] = field(default_factory=dict)  # keyed, of this and earlier runs
    last: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk, self.spread = Desk(self.process.name, self.config.retries_max), Spread()

    @property
    def now(self) -> float:
        """Return the monotonic time."""
        return self.process.world.now

    def boot(self) -> None:
        """Begin a run: open a link to each server, and ask."""
        self.budget, self.spread = RetryBudget(), Spread()
        self.desk = Desk(self.process.name, self.config.retries_max)
        self.peers = {name: self._peer(name, link) for name, link in self.links.items()}
        for peer in self.peers.values():
            peer.link.open(peer)
        for call in list(self.unsure.values()):
            self.later(0.2 * self.load.random(), self._again, call)
        self.later(self.load.expovariate(self.config.rate), self._ask)

    def _peer(self, name: str, link: RequestLink) -> Peer:
        config, node = self.config, self.process.name
        hello, dice = Hello(CLUSTER, node, 1, 1), self.dice.random
        wall, queue_max = self.process.wall_ns, config.client_queue_max
        asking = Asking(name, hello, self.process.run, wall, dice, queue_max)
        breaker = Breaker(config.failures_max, config.cooldown_s, dice, trickle_s=config.trickle_s)
        gate = Gate(f"{node}>{name}", config.failures_max, config.cooldown_s, config.trickle_s)
        return Peer(name, self, link, asking, breaker, gate)

    def later(self, after_s: float, call: Callable[..., object], *args: Any) -> None:
        """Call after a while, if this run lasts."""
        self.process.at(self.now + after_s, call, *args)

    # Calls.

    def _ask(self) -> None:
        if self.now < LOAD_UNTIL_S:
            self.one()
            self.later(self.load.expovariate(self.config.rate), self._ask)

    def storm(self, calls: int) -> None:
        """Ask for much at once."""
        for _ in range(calls):
            self.one()

    def one(self) -> None:
        """Ask for something."""
        method = self.load.choice(METHODS)
        call = self.new(method, self.config.budget_s)
        self.begin(call)
        if method.kind is KEYED and self.load.random() < self.config.repeats:
            self.later(0.05 * self.load.random(), self._again, call)

    def at_last(self) -> None:
        """Ask each server, past breaker and choice: now it must answer."""
        for peer in self.peers.values():
            call = self.new(READ, LAST_S)
            self.last.append(call)
            self.desk.begun()
            self._watch(call)
            peer.ask(call, 0)

    def _again(self, first: Call) -> None:
        """Ask with the same key, as one who does not know of the first."""
        if first.home:  # not sent yet, it could still go to another instance
            call = self.new(first.method, self.config.budget_s, first)
            self.begin(call)

    def new(self, method: rpcs.Method, budget_s: float, first: Call | None = None) -> Call:
        """Return a call that is not made yet; with the key of *first* if there is one."""
        self.calls += 1
        body = b"%s-%d-%d" % (self.process.name.encode(), self.process.run, self.calls)
        idem = NO_IDEM
        if method.kind is KEYED or (method.kind is ONCE and self.load.random() < 0.3):
            idem = blake2b(body, digest_size=16).digest()
        if first is not None:
            body, idem = first.body, first.idem
        once, deadline = method.kind is ONCE, self.now + budget_s
        attempts = Attempts(
            POLICY, self.config.retries_max, self.dice.random, self.now, deadline, once
        )
        account = b"account-%d" % self.load.randrange(4)
        call = Call(body, method, idem, deadline, attempts, self.load.random() < 0.7, account)
        if first is not None:
            call.home = first.home
        return call

    def begin(self, call: Call) -> None:
        """Make a call."""
        call.attempts.budget = self.budget
        self.budget.first()
        self.desk.begun()
        self._watch(call)
        self._attempt(call)

    def _watch(self, call: Call) -> None:
        after_s = call.deadline - self.now + LATE_S
        self.later(after_s, self._due, call)

    def _due(self, call: Call) -> None:
        # What a blocked process has due may come in another order: so ask once more.
        if not call.ended:
            self.later(LATE_S, lambda: Desk.due(call.body, ended=call.ended))

    def _attempt(self, call: Call) -> None:
        now = self.now
        candidates = [
            Candidate(
                peer.name,
                peer.latency.cost(now),
                peer.asking.state is READY and (call.method is STOP or peer.breaker.ready(now)),
            )
            for peer in self.peers.values()
            if call.home in ("", peer.name)
        ]
        affinity = call.account if call.keyed else None
        name = choose(candidates, self.dice.random, affinity)
        self.spread.chosen(candidates, name, affinity)
        if name is None and call.home and now + READY_S < call.deadline:
            self.later(READY_S, self._attempt, call)  # nobody else may be asked: wait for it
            return
        if name is None:
            why = rpcs.failure(errors.NoService, "nobody can be asked")
            self._failed(call, why, now, again=call.method.kind is not ONCE)
            return
        peer = self.peers[name]
        permit = peer.breaker.admit(now, call.deadline)
        if permit is None:
            assert call.method is STOP, "the breaker was ready, and refuses"
            why = rpcs.failure(errors.BreakerOpen, "the breaker is open")
            self._failed(call, why, now, again=True)
            return
        peer.gate.passed(permit, now, call.deadline)
        if call.keyed:
            call.home = name
            self.unsure[call.idem] = call
        peer.ask(call, permit)

    def failed(self, call: Call, outcome: outcomes.Failed, began: float) -> None:
        """Make another attempt of a call, or end it."""
        Desk.offered(call.body, call.method.kind, again=outcome.again)
        self._failed(call, outcome.failure, began, again=outcome.again)

    def _failed(self, call: Call, why: Failure, began: float, *, again: bool) -> None:
        call.earlier = outcomes.after(call.earlier, why)
        wait_s = call.attempts.failed(raised(why, again=again), began, self.now)
        self.process.world.counters[f"failed {why.code} {why.executed}"] += 1
        if wait_s is None:
            self.end(call, None)
            return
        self.desk.retried()
        self.later(wait_s, self._attempt, call)

    def end(self, call: Call, reply: bytes | None) -> None:
        """Learn how a call ended."""
        assert not call.ended, "a call ends twice"
        call.ended, call.reply = True, reply
        executed = "yes" if call.earlier is None else call.earlier.executed
        if reply is None:
            self.deeds.over(call.whose, executed)
        if reply is not None or executed == "no":
            self.unsure.pop(call.idem, None)
        what = "replied" if reply is not None else "given up"
        self.process.world.counters[f"{what} {call.method.kind.name}"] += 1

    def cancel(self, calls: int) -> int:
        """Give up some calls; return how many there were."""
        found = [(peer, corr) for peer in self.peers.values() for corr in peer.open][:calls]
        for peer, corr in found:
            peer.cancel(corr)
        return len(found)

    def force(self, name: str, for_s: float) -> None:
        """Hold a breaker open for a while."""
        peer = self.peers[name]
        peer.breaker.force_open("operator", self.now)
        peer.gate.forced = True
        self.later(for_s, self._release, peer)

    def _release(self, peer: Peer) -> None:
        if peer.breaker.forced:  # two forces with one reason are one
            peer.breaker.release("operator", self.now)
            peer.gate.released(self.now)


def raised(why: Failure, *, again: bool) -> MeshError:
    """Return *why* as what a retry loop judges: Unavailable if it may be repeated."""
    if again:
        after_s = why.retry_after_ms / 1_000
        return errors.Unavailable(f"{why.code}: {why.message}", retry_after_s=after_s)
    if why.code == rpcs.CANCELLED:
        return MeshError(why.message)
    kind = KINDS[why.code]
    return MeshError(why.message) if issubclass(kind, errors.Unavailable) else kind(why.message)
