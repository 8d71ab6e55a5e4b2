"""Server: a simulated node that answers requests, its handlers, and the rows of its keys.

Effect and row are one record of the node's journal, so one transaction. A marked method acts
elsewhere: on something that never dies and can be asked.

Never here: who asks, faults, judgement.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

from mesh.errors import MeshError, RemoteProtocolError, Unavailable
from mesh.protocol import envelope, rpcs, work
from mesh.protocol.admission import Admission
from mesh.protocol.answering import Answering
from mesh.protocol.commits import Wish
from mesh.protocol.envelope import REQ, Event
from mesh.protocol.once import Key, Once, Row
from mesh.protocol.rpcs import SAFE
from mesh.protocol.sessions import Sessions
from mesh.protocol.work import Work
from mesh.sim.disk import Disk
from mesh.sim.feed import Alarm
from mesh.sim.publisher import SCHEMA, Publisher
from mesh.sim.requestconfig import BY_ID, LIST, NOTE, PARTS, RequestConfig
from mesh.sim.requestjudges import Deed, Deeds, Who

CLUSTER: Final = "sim"
TOPIC: Final = "fx.call"
STALL: Final = 30  # times slower
STOP_S: Final = 0.002  # until an aborted handler has ended
CHECK_EVERY: Final = 16  # steps of the machine: to check costs more than to run
UNSURE: Final = 0.1  # of what is asked for, nobody can say


@dataclass(slots=True)
class Rows:
    """The rows of keys on one disk, read from its records. forgotten: deleted since."""

    disk: Disk
    table: dict[Key, Row] = field(default_factory=dict)  # the oldest first
    log_id: str = ""
    read: int = 0

    def now(self) -> dict[Key, Row]:
        """Return what is stored now."""
        disk = self.disk
        if self.log_id != disk.log_id:
            self.log_id, self.read = disk.log_id, 0
            self.table.clear()
        for record in disk.records[self.read :]:
            if record.topic == TOPIC:
                self._take(decoded(record.frame)[1])
        self.read = disk.last
        return self.table

    def _take(self, row: Row | None) -> None:
        if row is not None:
            key = Key(row.node, row.idem)
            self.table.pop(key, None)
            self.table[key] = row

    def forget(self, keys: Iterable[Key]) -> None:
        """Delete rows."""
        table = self.now()
        for key in keys:
            table.pop(key, None)


@dataclass(slots=True)
class Job:
    """A handler at work. whose: the attempts it works for."""

    work: Work
    whose: set[Who]
    resolves: bool = False
    acted: bool = False  # its effect is there, or on its way to the disk
    stuck: bool = False
    ended: bool = False


@dataclass(slots=True)
class Server:
    """One serving node, beside what it publishes."""

    node: Publisher
    config: RequestConfig
    deeds: Deeds
    dice: Random
    send: Callable[[bytes, bytes], bool]  # to a connection; False: it is no more
    rows: Rows = field(init=False)
    answering: Answering = field(init=False)
    jobs: dict[int, Job] = field(default_factory=dict)
    steps: int = 0
    alarm: Alarm = field(init=False)
    stalled_until: float = 0.0
    stalled_by: int = 0
    failing: list[int] = field(default_factory=list)  # the faults by which handlers fail next
    sticking: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = Rows(self.node.disk)
        self.alarm = Alarm(self.node.process, self._tick)

    @property
    def name(self) -> str:
        """Return the name of the node."""
        return self.node.process.name

    @property
    def now(self) -> float:
        """Return the monotonic time."""
        return self.node.process.world.now

    def boot(self) -> None:
        """Begin a run: recover what was answered, then listen."""
        sessions: Sessions[Work] = Sessions(CLUSTER, lambda user, node: user == node, _all)
        admission = Admission(self.name, self.node.epoch, BY_ID, sessions, self.config.serves)
        once = Once()
        self.answering = Answering(admission, self.node.process.wall_ns, once)
        for row in self.rows.now().values():
            once.load(row, self.now)
        self.jobs = {}
        self.alarm = Alarm(self.node.process, self._tick)
        self._do([])

    def take(self, peer: bytes, frame: bytes) -> None:
        """Take a frame of a connection."""
        rpc, now = envelope.decode_rpc(frame), self.now
        if rpc.kind is REQ and rpc.corr:
            who = Who(self.name, peer.partition(b".")[0].decode(), rpc.client_epoch, rpc.corr)
            self.deeds.taken(who, now + rpc.budget_ms / 1_000)
        try:
            self._do(self.answering.frame(peer, peer.partition(b".")[0].decode(), rpc, now))
        except RemoteProtocolError:
            self.node.process.world.counters["requests rejected"] += 1

    def drain(self, for_s: float) -> None:
        """Take nothing new; say goodbye after a while, or when all is done."""
        self._do(self.answering.drain("stop", int(for_s * 1_000)))

    def close(self) -> None:
        """Say goodbye."""
        self._do(self.answering.close(self.now))

    # What the machine wants.

    def _do(self, effects: list[work.Effect]) -> None:
        gone: dict[bytes, None] = {}
        for effect in effects:
            if not isinstance(effect, work.Send):
                self._one(effect)
            elif not self.send(effect.peer, envelope.encode_rpc(effect.rpc)):
                gone[effect.peer] = None
        self.steps += 1
        if self.steps % CHECK_EVERY == 0:
            self.answering.check()
        for peer in gone:  # not before: what it aborts must have begun
            self._do(self.answering.gone(peer, self.now))
        self.alarm.set(self.answering.next_deadline())

    def _one(self, effect: work.Effect) -> None:
        if isinstance(effect, work.Execute):
            self._execute(effect)
        elif isinstance(effect, work.Resolve):
            job = self._job(effect.work, resolves=True)
            self._later(self._took_s(), self._resolve, job)
        elif isinstance(effect, work.Abort):
            self._later(STOP_S, self._stop, self.jobs[effect.work.number])
        elif isinstance(effect, work.Resume):
            self._parts(self.jobs[effect.work.number])
        elif isinstance(effect, work.Store):
            self._store(effect)
        elif isinstance(effect, work.Forget):
            self.rows.forget(effect.keys)

    def _tick(self) -> None:
        self._do(self.answering.tick(self.now))

    def _later(self, after_s: float, call: Callable[..., object], *args: object) -> None:
        self.node.process.at(self.now + after_s, call, *args)

    def _took_s(self) -> float:
        took_s = self.dice.expovariate(1 / self.config.handler_s)
        if self.now < self.stalled_until:
            self.node.process.world.effective(self.stalled_by, "stall")
            took_s *= STALL
        return took_s

    def _job(self, item: Work, *, resolves: bool = False) -> Job:
        waiters = self._waiters(item)
        self.deeds.begins(waiters, self.now)
        job = self.jobs[item.number] = Job(item, waiters, resolves)
        self.node.process.world.counters["resolve" if resolves else item.method.name] += 1
        return job

    def _waiters(self, item: Work) -> set[Who]:
        found = set[Who]()
        for peer, corr in item.waiters:
            session = self.answering.sessions.get(peer)
            assert session is not None
            found.add(Who(self.name, session.caller.node, session.caller.epoch, corr))
        return found

    # A handler.

    def _execute(self, effect: work.Execute) -> None:
        job = self._job(effect.work)
        if effect.mark is None:
            self._begin(job, 0)
            return
        whose = frozenset(job.whose)
        key = Key(effect.mark.node, effect.mark.idem)
        deed = Deed(job.work.body, key, whose, effect=False, reply=None)
        if not self._write(deed, effect.mark, lambda offset: self._begin(job, offset)):
            self._fail(job, "no")

    def _begin(self, job: Job, offset: int | None) -> None:
        if offset is None:
            self._fail(job, "no")
            return
        if job.ended:
            return
        if self.sticking:
            self.node.process.world.effective(self.sticking.pop(), "stuck")
            job.stuck = True
        elif self.failing and self.dice.random() < 0.5:
            self.node.process.world.effective(self.failing.pop(), "fail")
            self._later(self._took_s(), self._fail, job, "no")
        elif job.work.method is LIST:
            self._parts(job)
        else:
            self._later(self._took_s(), self._work, job)

    def _work(self, job: Job) -> None:
        """Have the effect."""
        item = job.work
        if job.ended:
            return
        if item.method.kind is SAFE:
            self._done(job, b"r" + item.body)
        elif item.method.marks:
            self._act(job)
        elif item.method is NOTE:
            self._done(job, self._reply_to(item))
        else:
            self._commit(job)

    def _reply_to(self, item: Work) -> bytes:
        return b"r%s#%d" % (item.body, self.dice.getrandbits(32))

    def _commit(self, job: Job) -> None:
        """Store effect and row together."""
        item, reply = job.work, self._reply_to(job.work)
        job.acted = True
        sure = self.dice.random() < 0.5
        if sure:
            self.answering.committed(item.number)
        row = self.answering.row(item.number, reply)
        whose = frozenset(job.whose | self._waiters(item))
        deed = Deed(item.body, item.key, whose, effect=True, reply=reply if row else None)
        if not self._write(deed, row, lambda offset: self._committed(job, reply, offset)):
            self._fail(job, "no")

    def _committed(self, job: Job, reply: bytes, offset: int | None) -> None:
        if offset is None:
            self._fail(job, "no")
            return
        self.deeds.works_for(self._waiters(job.work))
        if self.failing:
            self.node.process.world.effective(self.failing.pop(), "fail")
            self._fail(job, "unknown")
        else:
            self._done(job, reply, stored=True)

    def _act(self, job: Job) -> None:
        """Have an effect elsewhere; the reply comes a little later."""
        item, reply = job.work, self._reply_to(job.work)
        assert item.key is not None
        job.acted = True
        self.answering.committed(item.number)
        whose = job.whose | self._waiters(item)
        self.deeds.acted(self.node.disk.log_id, item.key, item.body, reply, whose)
        if self.failing:
            self.node.process.world.effective(self.failing.pop(), "fail")
            self._later(self._took_s(), self._fail, job, "unknown")
        else:
            self._later(self._took_s(), self._done, job, reply)

    def _parts(self, job: Job) -> None:
        """Send as many parts as the caller takes."""
        item = job.work
        while not job.ended and item.parts < PARTS and self.answering.may_send(item.number):
            self._do(self.answering.part(item.number, b"%d" % item.parts))
        if not job.ended and item.parts == PARTS:
            self._done(job, b"r" + item.body)

    def _resolve(self, job: Job) -> None:
        """Say what became of a key."""
        item = job.work
        if job.ended:
            return
        assert item.key is not None
        if self.dice.random() < UNSURE:
            self._fail(job, "unknown")
            return
        reply = self._found(item)
        if reply is not None:
            self.deeds.works_for(job.whose | self._waiters(item))
            self._done(job, reply)
        else:
            self._end(job)
            self._do(self.answering.absent(item.number, self.now))

    def _found(self, item: Work) -> bytes | None:
        assert item.key is not None
        if item.method.marks:
            log_id, reply = self.deeds.elsewhere.get(item.key, ("", b""))
            return reply if log_id == self.node.disk.log_id else None
        row = self.rows.now().get(item.key)
        return row.reply if row is not None else None

    def _stop(self, job: Job) -> None:
        """End an aborted handler, unless it is past the point of no return."""
        if not job.acted:
            self._fail(job, "unknown" if job.resolves else "no")

    def _done(self, job: Job, reply: bytes, *, stored: bool = False) -> None:
        if not job.ended:
            self._end(job)
            self._do(self.answering.done(job.work.number, reply, self.now, stored=stored))

    def _fail(self, job: Job, executed: Literal["no", "unknown"]) -> None:
        if not job.ended:
            self._end(job)
            what = rpcs.failure(Unavailable if executed == "no" else MeshError, "failed", executed)
            self._do(self.answering.failed(job.work.number, what, self.now))

    def _end(self, job: Job) -> None:
        job.ended = True
        del self.jobs[job.work.number]

    # The disk.

    def _store(self, effect: work.Store) -> None:
        key, number = Key(effect.row.node, effect.row.idem), effect.work.number
        deed = Deed(effect.work.body, key, frozenset(), effect=False, reply=effect.row.reply)
        stored = self._write(
            deed, effect.row, lambda _: self._do(self.answering.stored(number, self.now)), True
        )
        if not stored:
            self._later(STOP_S, self._store, effect)

    def _write(
        self,
        deed: Deed,
        row: Row | None,
        ticket: Callable[[int | None], None],
        patient: bool = False,  # as in Wish
    ) -> bool:
        ledger = self.node.ledger
        assert ledger is not None
        payload = envelope.encode_value((self.deeds.mean(deed), row))
        event = Event(TOPIC, SCHEMA, 0, 0, 0, payload)
        return ledger.add(Wish(ticket, (event,), patient=patient))


def decoded(frame: bytes) -> tuple[int, Row | None]:
    """Return number and row of a record of ours."""
    found: tuple[int, Row | None] = envelope.decode_value(
        envelope.decode_event(frame).payload, tuple[int, Row | None]
    )
    return found


def _all(user: str) -> Callable[[str], bool]:
    return lambda method: True
