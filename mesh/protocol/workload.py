"""Workload: what a server has taken on: which works run, which wait, when each is overdue.

A fifth of the slots is kept for urgent works. What waits gives way to what is more urgent.

Never here: sessions, answers, a clock.
"""

from dataclasses import dataclass, field

from mesh.protocol.deadlines import Deadlines
from mesh.protocol.once import Key
from mesh.protocol.rpcs import SAFE, less_reserve
from mesh.protocol.waiting import Waiting, rank
from mesh.protocol.work import QUEUED, START, Work


@dataclass(slots=True)
class Workload:
    """Hold the works of one server. now: monotonic seconds."""

    running_max: int
    queue_max: int
    bytes_max: int
    running: int = 0  # slots taken, also by what is being stored
    bytes: int = 0  # of all bodies
    by_key: dict[Key, Work] = field(default_factory=dict)
    works: dict[int, Work] = field(default_factory=dict)
    queue: Waiting[Work] = field(init=False)
    deadlines: Deadlines = field(default_factory=Deadlines)

    _slots: int = field(init=False)  # for others than urgent works
    _room: int = field(init=False)  # likewise, in bytes

    def __post_init__(self) -> None:
        self.queue = Waiting(self.queue_max)
        self._slots, self._room = less_reserve(self.running_max), less_reserve(self.bytes_max)

    def holds(self, size: int, *, urgent: bool) -> bool:
        """Say whether a body of *size* bytes fits."""
        most = self.bytes_max if urgent else self._room
        return self.bytes + size <= most

    def has_slot(self, size: int) -> bool:
        """Say whether a request of *size* bytes that is not urgent would run at once."""
        return self.running < self._slots and self.bytes + size <= self._room

    def admit(self, work: Work, now: float) -> Work | None:
        """Take *work*: it runs if there is room, else it waits; return who gives way for it."""
        self.works[work.number] = work
        self.bytes += len(work.body)
        self.deadlines.set(work.number, work.deadline)
        if work.key is not None:
            self.by_key[work.key] = work
        if self._has_room(work):
            self._start(work, now)
            return None
        return self.queue.add(rank(work.prio, work.attempt, work.deadline, work.number), work)

    def next(self, now: float) -> Work | None:
        """Return the most urgent that waited, which runs now, None without room for it."""
        work = self.queue.first()
        if work is None or not self._has_room(work):
            return None
        self.queue.take(work.number)
        self._start(work, now)
        return work

    def extend(self, work: Work, deadline: float) -> None:
        """Let *work* wait for a slot until *deadline*, if that is later."""
        if deadline > work.deadline:
            work.deadline = deadline
            if work.stage is QUEUED:
                self.deadlines.set(work.number, deadline)

    def end(self, work: Work) -> None:
        """Forget *work*, whether it ran or waited."""
        del self.works[work.number]
        self.bytes -= len(work.body)
        self.deadlines.drop(work.number)
        if work.key is not None:
            del self.by_key[work.key]
        if work.stage is QUEUED:
            self.queue.take(work.number)
        else:
            self.running -= 1

    def overdue(self, now: float) -> list[Work]:
        """Return what waited or ran too long, each once."""
        return [self.works[number] for number in self.deadlines.due(now)]

    def check(self) -> None:
        """Assert every invariant."""
        self.queue.check()
        self.deadlines.check()
        works, first = self.works.values(), self.queue.first()
        assert self.running == sum(work.stage is not QUEUED for work in works) <= self.running_max
        assert len(self.queue) == sum(work.stage is QUEUED for work in works)
        assert all(work.stage is not QUEUED or work.number in self.queue for work in works)
        assert first is None or not self._has_room(first), "a slot is free and somebody waits"
        assert {work.key: work for work in works if work.key is not None} == self.by_key
        assert self.bytes == sum(len(work.body) for work in works)

    def _has_room(self, work: Work) -> bool:
        slots = self.running_max if work.urgent else self._slots
        return self.running < slots

    def _start(self, work: Work, now: float) -> None:
        work.turn(START)
        self.running += 1
        if work.method.kind is not SAFE:  # it runs to its end, whoever waits
            self.deadlines.set(work.number, now + work.method.limit_s)
