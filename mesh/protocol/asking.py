"""Asking: the client of one peer: it greets, sends within its credit, and settles each call once.

A call ends as Replied or Failed, by its deadline at the latest. `executed=no` in a Failed is a
promise: the peer never ran it, nor will it. Without that and without a reply it is unknown.

Never here: sockets, choosing among peers, making another attempt.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mesh import errors
from mesh.protocol import envelope, rpcs
from mesh.protocol.calls import ABANDONED, START, Call, Calls
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import (
    ERR,
    HELLO,
    REP,
    WELCOME,
    Kind,
    Rpc,
)
from mesh.protocol.outcomes import (
    Close,
    Effect,
    Open,
    Part,
    Ready,
    Replied,
    Send,
    ended,
    failed,
    lost,
    overdue,
)
from mesh.protocol.peerlink import (
    CONNECT,
    CONNECTING,
    DEAD,
    DRAINING,
    FORGET,
    GREETING,
    READY,
    Due,
    PeerLink,
    PeerState,
    PeerTurn,
)
from mesh.protocol.rpcs import Ask, Welcome, failure, kind_of

QUEUE_MAX: Final = 64  # as many as a window: more would wait past their deadlines


@dataclass(slots=True)
class Asking:
    """Decide for the calls to one peer. now: monotonic seconds; stamp: ns UTC; dice: [0, 1).

    Carry out the effects in their order. tick() is due at next_deadline().
    """

    peer: str  # its name, for messages
    hello: Hello
    epoch: int  # of this run, in every frame
    stamp: Callable[[], int]
    dice: Callable[[], float]
    queue_max: int = QUEUE_MAX
    welcome: Welcome | None = None
    late: int = 0  # answers that nobody waits for
    rejects: int = 0  # frames that make no sense
    healed: int = 0  # credits that were lost with an answer
    rtt_ns: int = 0
    offset_ns: int = 0  # of the peer's wall clock; corrects ages only
    _link: PeerLink = field(init=False)
    _calls: Calls = field(init=False)
    _corr: int = 0
    _full: bool = False  # the socket takes no more for now
    _why: Failure | None = None  # it is DEAD

    def __post_init__(self) -> None:
        self._calls, self._link = Calls(self.queue_max), PeerLink(self.dice)

    @property
    def state(self) -> PeerState:
        """Return where the link stands; only READY ones should be chosen."""
        return self._link.state

    @property
    def inflight(self) -> int:
        """Return how many requests the peer has of us."""
        return len(self._calls.flying)

    @property
    def queued(self) -> int:
        """Return how many wait for credit or a session."""
        return len(self._calls.queue)

    def call(self, ask: Ask, now: float) -> tuple[int, list[Effect]]:
        """Ask the peer; return the number by which the outcome comes, perhaps at once.

        Raises LocalProtocolError for a body that no frame can hold.
        """
        if len(ask.body) > rpcs.BODY_MAX_BYTES:
            raise errors.LocalProtocolError(f"{ask.method}: a request of {len(ask.body)} bytes")
        corr = self._corr = self._corr + 1
        budget_s = rpcs.clamped_s(ask.budget_s)
        kind = kind_of(ask, self.welcome)
        call = Call(corr, envelope.method_id(ask.method), ask, now + budget_s, kind)
        budget_ms = int(budget_s * 1_000)
        if self._link.state is READY and not self._full and budget_ms and self._calls.goes(call):
            return corr, [Send(call.frame(self.epoch, budget_ms))]
        refusal = self._refusal(call, now)
        if refusal is not None:
            return corr, [failed(call, refusal, ours=True)]
        victim = self._calls.add(call)
        return corr, [*self._shed(victim), *self._pump(now)]

    def cancel(self, corr: int, now: float) -> list[Effect]:
        """Give up a call; best effort at the peer. Its Failed comes at once."""
        call = self._calls.withdraw(corr)
        if call is not None:
            return [failed(call, rpcs.cancelled("no")), *self._pump(now)]
        call = self._calls.flying.get(corr)
        if call is None or call.stage is ABANDONED:
            return []
        self._calls.abandon(call)
        given_up = failed(call, rpcs.cancelled("unknown"))
        return [Send(self._rpc(rpcs.CANCEL, b"", call.method, corr)), given_up]

    def consumed(self, corr: int) -> list[Effect]:
        """Learn that a part was taken: one more may come."""
        call = self._calls.flying.get(corr)
        if call is None or call.stage is ABANDONED:
            return []
        body = rpcs.encoded(rpcs.Credit(call.consume_part()))
        return [Send(self._rpc(rpcs.CREDIT, body, call.method, corr))]

    def connected(self, now: float) -> list[Effect]:
        """Learn that the socket has a connection, a new one if it had one before."""
        if self.state is DEAD:
            return []
        effects = self.lost() if self._link.has_session else []
        return [*effects, *self._greet(CONNECT, now)]

    def lost(self) -> list[Effect]:
        """Learn that the connection is no more: all in flight fails, nothing queues for it."""
        if self.state in (CONNECTING, DEAD):
            return []
        self._link.lost()
        return self._lose(failure(errors.Unavailable, f"{self.peer} is gone"))

    def bounced(self, corr: int) -> list[Effect]:
        """Learn that the socket did not take a REQ: it waits until writable()."""
        self._full = True
        return self._shed(self._calls.put_back(corr))

    def writable(self, now: float) -> list[Effect]:
        """Learn that the socket takes frames again."""
        self._full = False
        return self._pump(now)

    def close(self, now: float) -> list[Effect]:
        """Fail what is under way and say goodbye; for good."""
        effects: list[Effect] = [Send(self._rpc(rpcs.BYE))] if self._link.has_session else []
        if self.state is not DEAD:
            effects += self._break(failure(errors.Draining, f"{self.peer} is not asked here"), now)
        self._link.at = None
        return effects

    def frame(self, rpc: Rpc, now: float) -> list[Effect]:
        """Learn a frame from the peer. Raises RemoteProtocolError."""
        if rpc.client_epoch != self.epoch or self.state in (CONNECTING, DEAD):
            self.late += 1  # of a connection that we know is no more
            return []
        self._link.heard()
        return self._about_call(rpc, now) if rpc.corr else self._about_session(rpc, now)

    def tick(self, now: float) -> list[Effect]:
        """Settle what is overdue, greet or ping again, open a new socket."""
        effects: list[Effect] = []
        for call in self._calls.overdue(now):
            effects.append(overdue(call, self.peer, ready=self._link.has_session))
            if self._calls.withdraw(call.corr) is None:
                self._calls.abandon(call)
        return [*effects, *self._due(now), *self._pump(now)]

    def next_deadline(self) -> float | None:
        """Return when tick() has something to do at the latest, None if never."""
        call, link = self._calls.deadlines.next(), self._link.next_deadline()
        if call is None or link is None:
            return link if call is None else call
        return min(call, link)

    def check(self) -> None:
        """Assert every invariant."""
        self._calls.check()
        self._link.check()
        assert self._link.has_session or not self._calls.flying
        assert self.state not in (DRAINING, DEAD) or not self.queued
        assert self.state is not READY or self._full or self._calls.first() is None
        assert (self._why is not None) is (self.state is DEAD)

    # A frame.

    def _about_call(self, rpc: Rpc, now: float) -> list[Effect]:
        call = self._calls.flying.get(rpc.corr)
        if call is None or call.stage is ABANDONED:
            self.late += 1
        if call is None:
            return []
        if rpc.kind is REP:
            return self._landed(call, Replied(call.corr, rpc.body), now)
        if rpc.kind is ERR:
            return self._refused(call, envelope.decode_value(rpc.body, Failure), now)
        if rpc.kind is rpcs.PART:
            return self._part(call, rpc.body)
        if rpc.kind is rpcs.END:
            end = envelope.decode_value(rpc.body, rpcs.End)
            return self._landed(call, ended(call, end), now)
        if rpc.kind is rpcs.INPROG:
            call.turn(START)
        else:
            self.rejects += 1
        return []

    def _refused(self, call: Call, why: Failure, now: float) -> list[Effect]:
        if why.code == errors.UnknownSession.code:
            return self._forgotten(call.serial, now)
        return self._landed(call, failed(call, why), now)

    def _landed(self, call: Call, outcome: Effect, now: float) -> list[Effect]:
        self._calls.land(call.corr)
        effects = [] if call.stage is ABANDONED else [outcome]
        return [*effects, *(self._pump(now) if self._calls.queue else self._goodbye())]

    def _part(self, call: Call, body: bytes) -> list[Effect]:
        if not call.take_part():
            self.rejects += 1
            return []  # END will not agree with what came
        return [] if call.stage is ABANDONED else [Part(call.corr, body)]

    def _about_session(self, rpc: Rpc, now: float) -> list[Effect]:
        if rpc.kind is WELCOME:
            return self._welcomed(envelope.decode_value(rpc.body, Welcome), now)
        if rpc.kind is rpcs.PONG:
            return self._ponged(envelope.decode_value(rpc.body, rpcs.Pong), now)
        if rpc.kind is ERR:
            return self._turned_away(envelope.decode_value(rpc.body, Failure), now)
        if rpc.kind is rpcs.GOAWAY:
            return self._left(envelope.decode_value(rpc.body, rpcs.Goaway), now)
        if rpc.kind is rpcs.CREDIT:
            credit = envelope.decode_value(rpc.body, rpcs.Credit)
            self._calls.grant(credit.messages, credit.bytes)
            return self._pump(now)
        if rpc.kind is rpcs.BYE:
            return self._gone(now)
        self.rejects += 1
        return []

    def _welcomed(self, welcome: Welcome, now: float) -> list[Effect]:
        if self.state is not GREETING:
            return []  # of a greeting said twice
        self._link.welcomed(now)
        self.welcome = welcome
        self._calls.grant(welcome.credit, welcome.credit_bytes)
        return [Ready(welcome), *self._pump(now)]

    def _ponged(self, pong: rpcs.Pong, now: float) -> list[Effect]:
        """Compare what the peer has of ours with what we think it has."""
        self.rtt_ns, self.offset_ns = pong.measured(self.stamp())
        missing = self._calls.missing(pong.asked, set(pong.open))
        self.healed += len(missing)
        why = failure(errors.Unavailable, "the request or its answer was lost")
        return [*self._lose_each(missing, why), *self._pump(now)]

    def _turned_away(self, why: Failure, now: float) -> list[Effect]:
        if why.code == errors.UnknownSession.code:
            return self._gone(now)
        if self.state is GREETING:
            return self._break(why, now)
        self.rejects += 1
        return []

    def _gone(self, now: float) -> list[Effect]:
        """Greet again, unless that is under way: then this is of the session before.

        Not lost(): the connection may be a new one. Who drained has ended, and is not greeted.
        """
        if self.state is DRAINING:
            return self._lose(failure(errors.Unavailable, f"{self.peer} has ended"))
        return self._forgotten(self._calls.asked + 1, now) if self._link.has_session else []

    def _left(self, goaway: rpcs.Goaway, now: float) -> list[Effect]:
        """Finish what is in flight; what waits may go elsewhere."""
        run = self.welcome.epoch if self.welcome is not None else 0
        if not self._link.has_session or goaway.epoch not in (0, run):
            return []  # of an earlier session
        self._link.leaves(goaway.ms, now)
        why = f"{self.peer} is draining: {goaway.reason[:100]}"
        return [*self._fail_queue(failure(errors.Draining, why)), *self._goodbye()]

    def _goodbye(self) -> list[Effect]:
        """Tell who drains that nothing of ours is there or on its way: then it may go."""
        stays = self.state is not DRAINING or self._calls.flying
        return [] if stays else [Send(self._rpc(rpcs.BYE))]

    def _forgotten(self, serial: int, now: float) -> list[Effect]:
        """Greet again: the peer knows no session. What was sent from *serial* on it refused.

        What was sent before may have been executed under a session that is no more.
        """
        effects: list[Effect] = []
        why = failure(errors.Unavailable, f"{self.peer} forgot the session")
        for call in list(self._calls.flying.values()):
            if call.serial < serial:
                effects += self._lost_one(call.corr, why)
            else:
                effects += self._shed(self._calls.put_back(call.corr))
        return [*effects, *self._greet(FORGET, now)]

    # The session.

    def _greet(self, turn: PeerTurn, now: float) -> list[Effect]:
        self._full = False
        self._link.greeted(now, turn)
        return [self._hello()]

    def _hello(self) -> Send:
        return Send(self._rpc(HELLO, rpcs.encoded(self.hello)))

    def _due(self, now: float) -> list[Effect]:
        due = self._link.due(now)
        if due is Due.HELLO:
            return [self._hello()]
        if due is Due.PING:
            ping = rpcs.Ping(self.stamp(), self._calls.asked)
            return [Send(self._rpc(rpcs.PING, rpcs.encoded(ping)))]
        if due is Due.SILENT:
            return self._break(failure(errors.Unavailable, f"{self.peer} is silent"), now)
        if due is Due.LEFT:
            return self._break(failure(errors.Draining, f"{self.peer} has left"), now)
        if due is Due.OPEN:
            self._why = None
            return [Open()]
        return []

    def _break(self, why: Failure, now: float) -> list[Effect]:
        """Give the socket up; a new one after a pause."""
        self._link.give_up(now)
        self._why = why
        return [*self._lose(why), Close(why)]

    def _rpc(self, kind: Kind, body: bytes = b"", method: int = 0, corr: int = 0) -> Rpc:
        return Rpc(kind, method, corr, self.epoch, body)

    # A call.

    def _refusal(self, call: Call, now: float) -> Failure | None:
        if now >= call.deadline:
            return failure(errors.Expired, f"{call.ask.method}: no time left")
        if self.state is DRAINING:
            return failure(errors.Draining, f"{self.peer} is draining")
        return self._why if self.state is DEAD else None

    def _pump(self, now: float) -> list[Effect]:
        """Send what waits, as far as the credit goes."""
        effects: list[Effect] = []
        if self.state is not READY or self._full:
            return effects
        while (call := self._calls.first()) is not None:
            budget_ms = int((call.deadline - now) * 1_000)
            if budget_ms < 1:
                self._calls.withdraw(call.corr)
                effects.append(overdue(call, self.peer, ready=True))
                continue
            call.kind = kind_of(call.ask, self.welcome)
            self._calls.send(call)
            effects.append(Send(call.frame(self.epoch, budget_ms)))
        return effects

    def _shed(self, victim: Call | None) -> list[Effect]:
        full = f"{self.queue_max} requests to {self.peer} wait"
        why = failure(errors.Overloaded, full)
        return [] if victim is None else [failed(victim, why, ours=True)]

    def _lost_one(self, corr: int, why: Failure) -> list[Effect]:
        call = self._calls.land(corr)
        return [] if call is None or call.stage is ABANDONED else [lost(call, why)]

    def _lose(self, why: Failure) -> list[Effect]:
        """Fail what is in flight, and what waits for the same connection."""
        return [*self._lose_each(list(self._calls.flying), why), *self._fail_queue(why)]

    def _lose_each(self, corrs: list[int], why: Failure) -> list[Effect]:
        return [effect for corr in corrs for effect in self._lost_one(corr, why)]

    def _fail_queue(self, why: Failure) -> list[Effect]:
        calls = [self._calls.withdraw(call.corr) for call in list(self._calls.queue)]
        return [failed(call, why) for call in calls if call is not None]
