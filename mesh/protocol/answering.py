"""Answering: the server of requests: it greets, admits, queues, executes, answers each once.

    OPEN --drain--> DRAINING (GOAWAY; new requests go elsewhere) --close--> CLOSED (BYE)
    a request:  refused | stored reply | attached | QUEUED --a slot--> RUNNING --> answered
                QUEUED --deadline, cancel, caller gone, shed--> never executed

`executed=no` is a promise: neither did the effect happen nor will it. What waits is ordered by
urgency; a fifth of all room is kept for urgent methods.

Never here: sockets, handlers, the disk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from mesh import errors
from mesh.errors import LocalProtocolError
from mesh.protocol import envelope, rpcs
from mesh.protocol.admission import END, LEAVE, Admission
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import (
    ERR,
    HELLO,
    NO_IDEM,
    REP,
    REQ,
    WELCOME,
    Kind,
    Rpc,
)
from mesh.protocol.once import ATTACH, CONFLICT, FULL, RESOLVE, STORED, Key, Once, Row
from mesh.protocol.rpcs import SAFE, failure
from mesh.protocol.sessions import Session, Sessions
from mesh.protocol.waiters import dismiss, leave, pong, refuse, say, strange, tell, wait
from mesh.protocol.work import (
    QUEUED,
    RUNNING,
    STORE,
    STORING,
    Abort,
    Effect,
    Execute,
    Forget,
    Resolve,
    Resume,
    Send,
    Store,
    Work,
)
from mesh.protocol.workload import Workload

SWEEP_S: Final = 1.0
LATE: Final = "the deadline passed before the work began"


@dataclass(slots=True)
class Answering:
    """Decide for the requests of one node. now: monotonic seconds; stamp gives ns UTC.

    Carry out the effects in their order. Every Execute and Resolve ends by exactly one of
    done(), failed() and, for Resolve, absent(). tick() is due at next_deadline().
    """

    admission: Admission
    stamp: Callable[[], int]
    once: Once = field(default_factory=Once)
    rejects: int = 0  # frames that make no sense
    orphans: int = 0  # answers that nobody waited for any more
    _numbers: int = 0
    _load: Workload = field(init=False)
    _sweep_at: float | None = None

    def __post_init__(self) -> None:
        limits = self.admission.limits
        self._load = Workload(limits.running_max, limits.queue_max, limits.bytes_max)

    @property
    def sessions(self) -> Sessions[Work]:
        """Return who has greeted."""
        return self.admission.sessions

    @property
    def idle(self) -> bool:
        """Say whether nothing is queued, running or being stored: a drain can end."""
        return not self._load.works

    @property
    def load(self) -> tuple[int, int]:
        """Return how many requests have a slot, and how many wait for one."""
        return self._load.running, len(self._load.queue)

    def frame(self, peer: bytes, user: str, rpc: Rpc, now: float) -> list[Effect]:
        """Learn a frame of an authenticated user's connection. Raises RemoteProtocolError."""
        if rpc.kind is HELLO:
            return self._greeted(peer, user, rpc, now)
        session = self.sessions.get(peer)
        if session is None:
            self.rejects += 1
            return [*strange(peer, rpc)]
        self.sessions.heard(session, now)
        if rpc.kind is REQ:
            return self._requested(session, rpc, now)
        if rpc.kind is rpcs.PING:
            return [pong(session, rpc, self.stamp)]
        if rpc.kind is rpcs.CANCEL:
            return self._cancelled(session, rpc.corr, now)
        if rpc.kind is rpcs.CREDIT:
            return self._credited(session, rpc)
        if rpc.kind is rpcs.BYE:
            return self.gone(peer, now)
        self.rejects += 1
        return []

    def at_once(self, peer: bytes, rpc: Rpc, now: float) -> Session[Work] | None:
        """Return whose plain request *rpc* is, None if it has to go the long way, by frame().

        Nothing happens to it before its answer, which is owed: so nothing is remembered of it.
        """
        return self.admission.at_once(peer, rpc, self._load, now)

    def gone(self, peer: bytes, now: float) -> list[Effect]:
        """Learn that a connection is no more: what only it waited for is dropped or aborted.

        A keyed or once handler that runs goes on to its end.
        """
        session = self.sessions.end(peer)
        if session is None:
            return []
        effects: list[Effect] = []
        for corr in list(session.open):
            work = leave(session, corr)
            if work is None or work.waiters:
                continue
            if work.stage is QUEUED:
                self._drop(work, now)
            elif work.method.kind is SAFE:
                effects += self._abort(work, "the caller has gone")
        return [*effects, *self._next(now)]

    def committed(self, number: int) -> None:
        """Learn that a handler is past its point of no return: cancelling is void."""
        self._load.works[number].committed = True

    def row(self, number: int, reply: bytes | None) -> Row | None:
        """Return what belongs into the transaction of the effect; None without a key."""
        key = self._load.works[number].key
        return None if key is None else self.once.row(key, reply)

    def done(self, number: int, reply: bytes, now: float, *, stored: bool = False) -> list[Effect]:
        """Learn the reply of a handler; stored: its row went with the effect's transaction."""
        work = self._load.works[number]
        if work.key is None or stored:
            return self._replied(work, reply, now)
        work.turn(STORE)
        work.reply = reply
        return [Store(work, self.once.row(work.key, reply))]

    def stored(self, number: int, now: float) -> list[Effect]:
        """Learn that the row of a Store is on disk."""
        work = self._load.works[number]
        assert work.stage is STORING
        return self._replied(work, work.reply, now)

    def failed(self, number: int, failed: Failure, now: float) -> list[Effect]:
        """Learn that a handler ended without reply; executed says what became of its effect.

        With executed=no the key is free; else the next who asks has the service find out.
        """
        work = self._load.works[number]
        assert work.stage is RUNNING
        unexecuted = failed.executed == "no" and not work.committed and not work.resolves
        if failed.executed == "no" and not unexecuted:
            failed = failure(errors.OutcomeUnknown, failed.message)
        if work.key is not None and unexecuted:
            self.once.refused(work.key, marked=work.method.marks)
        elif work.key is not None:
            self.once.doubted(work.key, now)
        return self._ended(work, ERR, rpcs.encoded(failed), now)

    def absent(self, number: int, now: float) -> list[Effect]:
        """Learn that the key of a Resolve surely had no effect: now it may be executed."""
        work = self._load.works[number]
        assert work.resolves
        work.resolves = False
        if not work.waiters or now >= work.deadline or work.aborted:
            return self.failed(number, failure(errors.Expired, LATE), now)
        return [self._execute(work)]

    def part(self, number: int, body: bytes) -> list[Effect]:
        """Send a part of a reply. Raises LocalProtocolError if may_send() says no."""
        work = self._load.works[number]
        if not work.method.streams or not self.may_send(number):
            raise LocalProtocolError(f"{work.method.name}: no credit for a part")
        work.parts += 1
        return [*tell(self.sessions, work, rpcs.PART, body)]

    def may_send(self, number: int) -> bool:
        """Say whether the caller takes a part now; else a Resume will come, or an Abort."""
        work = self._load.works[number]
        return work.parts < work.parts_max

    def drain(self, reason: str, ms: int) -> list[Effect]:
        """Take no new request; what is there is finished. ms: until close()."""
        self.admission.turn(LEAVE)
        body = rpcs.encoded(rpcs.Goaway(reason, ms, self.admission.epoch))
        return [say(session, rpcs.GOAWAY, body) for session in self.sessions.all()]

    def close(self, now: float) -> list[Effect]:
        """Say goodbye to all; handlers that still run are aborted."""
        self.admission.turn(END)
        effects: list[Effect] = []
        for session in self.sessions.all():
            effects += [say(session, rpcs.BYE, b""), *self.gone(session.peer, now)]
        for work in self._load.works.values():
            effects += self._abort(work, "the node ends")
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Tell those whose time is up, forget old replies and silent callers."""
        effects: list[Effect] = []
        for work in self._load.overdue(now):
            effects += self._overdue(work, now)
        if self._sweep_at is not None and now >= self._sweep_at:
            for peer in self.sessions.silent(now):
                effects += self.gone(peer, now)
            self._sweep_at = now + SWEEP_S if len(self.sessions) else None
        self.once.tick(now)
        return [*effects, *self._next(now)]

    def next_deadline(self) -> float | None:
        """Return when tick() has something to do at the latest, None if never."""
        times = (self._load.deadlines.next(), self.once.next_deadline(), self._sweep_at)
        return min((at for at in times if at is not None), default=None)

    def check(self) -> None:
        """Assert every invariant."""
        for part in (self.sessions, self.once, self._load):
            part.check()
        opened = [(s.peer, corr) for s in self.sessions.all() for corr in s.open]
        works = self._load.works.values()
        assert sorted(opened) == sorted(waiter for work in works for waiter in work.waiters)

    # A frame.

    def _greeted(self, peer: bytes, user: str, rpc: Rpc, now: float) -> list[Effect]:
        hello = envelope.decode_value(rpc.body, Hello)
        effects = self.gone(peer, now)  # pipes are in order: nothing of before is on its way
        found = self.admission.greet(peer, user, hello, rpc.client_epoch, now)
        if isinstance(found, Failure):
            self.rejects += 1
            return [*effects, Send(peer, Rpc(ERR, 0, 0, rpc.client_epoch, rpcs.encoded(found)))]
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP_S
        welcome = rpcs.encoded(self.admission.welcome(found))
        return [*effects, say(found, WELCOME, welcome)]

    def _cancelled(self, session: Session[Work], corr: int, now: float) -> list[Effect]:
        found = session.open.get(corr)
        if found is None:
            return []  # the answer is on its way
        work = found[0]
        if len(work.waiters) > 1:  # it goes on for the others
            leave(session, corr)
            return [refuse(session, work.method_id, corr, rpcs.cancelled("unknown"))]
        if work.stage is not QUEUED:
            return [] if work.committed else self._abort(work, "cancelled by the caller")
        return self._unexecuted(work, rpcs.cancelled("no"), now)

    def _credited(self, session: Session[Work], rpc: Rpc) -> list[Effect]:
        credit = envelope.decode_value(rpc.body, rpcs.Credit)
        found = session.open.get(rpc.corr)
        resumes = found is not None and found[0].grant(credit.messages)
        return [Resume(found[0])] if found is not None and resumes else []

    # A request.

    def _requested(self, session: Session[Work], rpc: Rpc, now: float) -> list[Effect]:
        if rpc.corr == 0 or rpc.corr in session.open:
            self.rejects += 1
            return []
        refusal = self.admission.refusal(session, rpc, self._load)
        if refusal is not None:
            return [refuse(session, rpc.method, rpc.corr, refusal)]
        method = self.admission.methods[rpc.method]
        self._numbers += 1
        work = Work(
            self._numbers,
            session.caller,
            method,
            rpc.method,
            rpc.body,
            now + rpcs.clamped_s(rpc.budget_ms / 1_000),
            rpc.prio if method.urgent else max(rpc.prio, rpcs.URGENT),
            rpc.attempt,
        )
        work.corr, work.cause = rpc.corr, rpc.cause
        if method.kind is not SAFE and rpc.idem != NO_IDEM:
            work.key = Key(session.caller.node, rpc.idem)
            return self._judged(session, rpc, work, now)
        return self._admit(session, rpc.corr, work, now)

    def _judged(self, session: Session[Work], rpc: Rpc, work: Work, now: float) -> list[Effect]:
        """Execute a request with a key, or answer it by what the key has seen."""
        assert work.key is not None
        verdict = self.once.judge(work.key, rpc.method, rpc.body, now)
        if verdict is STORED:
            reply = self.once.reply(work.key)
            return [say(session, REP, reply, rpc.method, rpc.corr)]
        if verdict is ATTACH:
            return self._attach(session, rpc.corr, self._load.by_key[work.key], work.deadline)
        if verdict is CONFLICT:
            other = failure(errors.Conflict, "this key was used for something else")
            return [refuse(session, rpc.method, rpc.corr, other)]
        if verdict is FULL:
            return [refuse(session, rpc.method, rpc.corr, self.admission.full("keys"))]
        work.resolves = verdict is RESOLVE
        return self._admit(session, rpc.corr, work, now)

    def _attach(
        self, session: Session[Work], corr: int, work: Work, deadline: float
    ) -> list[Effect]:
        wait(session, corr, work, 0)
        self._load.extend(work, deadline)
        return [say(session, rpcs.INPROG, b"", work.method_id, corr)]

    def _admit(self, session: Session[Work], corr: int, work: Work, now: float) -> list[Effect]:
        wait(session, corr, work, len(work.body))
        victim = self._load.admit(work, now)
        if work.stage is not QUEUED:
            return [self._begin(work)]
        full = self.admission.full
        return [] if victim is None else self._unexecuted(victim, full("requests"), now)

    # A work.

    def _begin(self, work: Work) -> Effect:
        return Resolve(work) if work.resolves else self._execute(work)

    def _execute(self, work: Work) -> Execute:
        marked = work.key is not None and work.method.marks
        return Execute(work, self.row(work.number, None) if marked else None)

    def _abort(self, work: Work, why: str) -> list[Effect]:
        if work.aborted or work.stage is not RUNNING:
            return []
        work.aborted = True
        return [Abort(work, why)]

    def _overdue(self, work: Work, now: float) -> list[Effect]:
        if work.stage is not QUEUED:
            return self._abort(work, "time is up")
        return self._unexecuted(work, failure(errors.Expired, LATE), now)

    def _next(self, now: float) -> list[Effect]:
        """Begin what waited for the slots that are free now."""
        effects: list[Effect] = []
        while (work := self._load.next(now)) is not None:
            if now >= work.deadline:
                effects += self._unexecuted(work, failure(errors.Expired, LATE), now)
            else:
                effects += [*tell(self.sessions, work, rpcs.INPROG, b""), self._begin(work)]
        if keys := self.once.take_forgotten():
            effects.append(Forget(keys))
        return effects

    def _replied(self, work: Work, reply: bytes, now: float) -> list[Effect]:
        if work.key is not None:
            self.once.answered(work.key, reply, now)
        kind = REP
        if work.method.streams:
            kind, reply = rpcs.END, rpcs.encoded(rpcs.End(work.parts, reply))
        return self._ended(work, *rpcs.fitting(kind, reply), now)

    def _unexecuted(self, work: Work, why: Failure, now: float) -> list[Effect]:
        """Answer for a work that never begins; what an earlier run did stays unknown."""
        if work.resolves:
            why = failure(errors.OutcomeUnknown, why.message)
        effects = self._answer(work, ERR, rpcs.encoded(why))
        self._drop(work, now)
        return effects

    def _drop(self, work: Work, now: float) -> None:
        if work.key is not None and work.resolves:
            self.once.doubted(work.key, now)
        elif work.key is not None:
            self.once.refused(work.key)
        self._load.end(work)

    def _ended(self, work: Work, kind: Kind, body: bytes, now: float) -> list[Effect]:
        effects = self._answer(work, kind, body)
        self._load.end(work)
        return [*effects, *self._next(now)]

    def _answer(self, work: Work, kind: Kind, body: bytes) -> list[Effect]:
        """Tell all who wait; they wait no longer."""
        self.orphans += not work.waiters
        effects = tell(self.sessions, work, kind, body)
        dismiss(self.sessions, work)
        return [*effects]
