"""CatchUp: a durable stream is applied in offset order, without holes, at least once.

    SUBSCRIBED --HEAD--> FETCHING --target reached--> LIVE --gap, overflow, beacon--> FETCHING
    any --log_id changed--> FETCHING from 0, Reset     any --beyond the end--> HALTED, Ahead
    FETCHING --retention overtook us--> FETCHING from first, Gone

A consumer hears some topics of the journal, so its offsets have holes by nature. The owner
therefore sends an index before the records of a group: it names the topic of every offset,
and whoever hears it knows which records must follow. Whatever does not follow was lost.

While FETCHING live records wait in a buffer behind the target; when the target is reached
they follow. Records are handed out by take(), or some at once by take_run(), and confirmed by
done(): when the consumer is slow nothing is asked for, so the owner's journal is the queue.

Never here: I/O, the journal, decoding.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from mesh.protocol import topics
from mesh.protocol.control import StreamHead

Item = TypeVar("Item")

BUFFER_MAX: Final = 50_000  # live records behind the target; beyond it they are fetched
READY_MAX: Final = 4_096  # records handed over and not yet taken
WINDOW: Final = 4  # fetches under way
RANGE: Final = 512  # offsets a fetch looks at
STALL_S: Final = 5.0  # a fetch without an answer is asked again
RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 5.0


class Stage(Enum):
    """Where a consumer stands."""

    SUBSCRIBED = auto()  # no HEAD yet
    FETCHING = auto()
    LIVE = auto()
    HALTED = auto()  # an operator must look


SUBSCRIBED = Stage.SUBSCRIBED
FETCHING = Stage.FETCHING
LIVE = Stage.LIVE
HALTED = Stage.HALTED


class Range(msgspec.Struct, frozen=True):
    """Fetch what lies in after < offset <= to of the journal."""

    log_id: str
    after: int
    to: int


class Reset(msgspec.Struct, frozen=True):
    """The owner's journal began anew: what we know of it is of another log."""

    was: str
    now: str


class Gone(msgspec.Struct, frozen=True):
    """Retention overtook us: offsets after..first-1 cannot be had any more."""

    after: int
    first: int


class Ahead(msgspec.Struct, frozen=True):
    """We know of more than the journal holds: it is an old copy. The stream halts."""

    known: int
    last: int


Notice: TypeAlias = Reset | Gone | Ahead


@dataclass(slots=True)
class CatchUp(Generic[Item]):
    """Decide for one publisher's journal what to apply and what to fetch.

    applied: last offset whose effect is stored. Offsets at or below it never come out again.
    """

    prefixes: tuple[str, ...] = ("",)
    log_id: str = ""
    applied: int = 0
    stage: Stage = SUBSCRIBED
    position: int = 0  # offsets up to here were handed to ready
    target: int = 0  # to be fetched up to here; what lies behind comes live
    announced: int = 0  # offsets up to here are accounted for: fetched, or named by an index
    first: int = 1  # the oldest offset that the owner keeps
    overflows: int = 0
    taken: deque[tuple[int, Item]] = field(default_factory=deque)  # being applied right now
    ready: deque[tuple[int, Item]] = field(default_factory=deque)
    buffer: deque[tuple[int, Item]] = field(default_factory=deque)
    due: deque[int] = field(default_factory=deque)  # named by an index, not here yet
    _asked: dict[int, tuple[int, float]] = field(default_factory=dict)  # after to (to, since)
    _pages: dict[int, tuple[int, list[tuple[int, Item]]]] = field(default_factory=dict)
    _fails: int = 0
    _not_before: float = 0.0

    def begin(self, log_id: str, applied: int) -> None:
        """Start behind *applied* of journal *log_id*, as the consumer stored it."""
        self.log_id, self.applied = log_id, applied
        self.position = self.target = self.announced = applied

    def head(self, stream: StreamHead, *, began: bool) -> list[Notice]:
        """Learn where the journal stands; behind this HEAD everything comes live or as a gap.

        began: it is the first HEAD of a run of the owner, so nothing of that run was heard.
        """
        if self.stage is HALTED:
            return []
        notices: list[Notice] = []
        if self.log_id and stream.log_id != self.log_id:
            notices.append(Reset(self.log_id, stream.log_id))
            self._restart()
        elif began and stream.last < self.announced:
            known = self.announced
            self.halt()
            return [Ahead(known, stream.last)]
        self.log_id, self.first = stream.log_id, stream.first
        self._aim(stream.last)
        return [*notices, *self._overtaken()]

    def index(self, log_id: str, first: int, topic_names: Sequence[str]) -> None:
        """Learn the topics of the offsets from *first* on, whose records follow in the pipe."""
        last = first + len(topic_names) - 1
        if self.stage in (SUBSCRIBED, HALTED) or log_id != self.log_id or last <= self.announced:
            return
        if self.due or first > self.announced + 1:  # what was due, or an index, was lost
            self._aim(first - 1)
        self.due.extend(
            offset
            for offset, topic in enumerate(topic_names, first)
            if offset > self.announced and self._hears(topic)
        )
        self.announced = last
        self._advance()

    def live(self, offset: int, item: Item) -> None:
        """Take a live record."""
        if self.stage in (SUBSCRIBED, HALTED) or offset <= max(self.position, self.target):
            return
        if self.due and self.due[0] == offset:
            self.due.popleft()
        elif offset > self.announced or (self.due and offset > self.due[0]):
            self._aim(offset - 1)  # its index, or records before it, were lost
            self.announced = max(self.announced, offset)
            while self.due and self.due[0] <= offset:
                self.due.popleft()
        else:
            return  # a copy of one that was here already
        if self.stage is LIVE and len(self.ready) < READY_MAX:
            self.ready.append((offset, item))
            self._advance()
        elif self.stage is LIVE or len(self.buffer) >= BUFFER_MAX:
            self.overflows += 1
            self._aim(offset)
        else:
            self.buffer.append((offset, item))

    def beacon(self, stream: StreamHead) -> None:
        """Learn a heartbeat, which came behind every live record it counts."""
        if self.stage in (SUBSCRIBED, HALTED) or stream.log_id != self.log_id:
            return
        self.first = stream.first
        if stream.last > self.announced or (self.due and self.due[0] <= stream.last):
            self._aim(stream.last)

    def asks(self, now: float) -> list[Range]:
        """Return the fetches to send now: a window of ranges, none while the consumer is slow."""
        if self.stage is not FETCHING or now < self._not_before:
            return []
        for after in [a for a, (_, since) in self._asked.items() if now >= since + STALL_S]:
            del self._asked[after]
        asks = []
        after = self.position
        while after < self.target and len(self._asked) + len(self._pages) < WINDOW:
            if len(self.ready) >= READY_MAX:
                break
            page, asked = self._pages.get(after), self._asked.get(after)
            if page is not None:
                after = page[0]
            elif asked is not None:
                after = asked[0]
            else:
                behind = [a for a in (*self._asked, *self._pages) if a > after]
                to = min(after + RANGE, self.target, *behind)  # a page may have ended early
                self._asked[after] = (to, now)
                asks.append(Range(self.log_id, after, to))
                after = to
        return asks

    def page(
        self, asked: Range, through: int, items: list[tuple[int, Item]], first: int
    ) -> list[Notice]:
        """Learn the answer to *asked*: the records up to through; the oldest kept is first.

        One that looked at nothing counts as none: it is asked again when it has stalled.
        """
        if asked.log_id != self.log_id or asked.after not in self._asked:
            return []
        self._fails, self.first = 0, first
        notices = self._overtaken()
        if asked.after in self._asked and asked.after < through <= asked.to:
            del self._asked[asked.after]
            within = [item for item in items if asked.after < item[0] <= through]
            self._pages[asked.after] = (through, within)
            self._hand_over()
        return notices

    def failed(self, asked: Range, now: float, dice: float) -> None:
        """Learn that *asked* got no answer: ask again after a while. dice: 0..1."""
        if asked.log_id != self.log_id:
            return  # of a journal that is no more
        self._asked.pop(asked.after, None)
        pause = min(RETRY_S * 2 ** min(self._fails, 10), RETRY_S_MAX)
        self._fails += 1
        self._not_before = now + pause * (0.5 + dice / 2)

    def take(self) -> tuple[int, Item] | None:
        """Return the next record to apply, None if there is none now. Apply it, then done()."""
        run = self.take_run(1, lambda first, item: False)
        return run[0] if run else None

    def take_run(
        self, most: int, joins: Callable[[Item, Item], bool]
    ) -> Sequence[tuple[int, Item]]:
        """Return the next record and, up to *most*, those behind it to be applied with it.

        joins(first, item) says whether the item may go with the first. Nothing comes while
        another run is being applied. Apply them in order, then done() with the last offset.
        """
        if self.taken:
            return ()
        while self.ready and len(self.taken) < most:
            offset, item = self.ready[0]
            if offset > self.applied:
                if self.taken and not joins(self.taken[0][1], item):
                    break
                self.taken.append((offset, item))
            self.ready.popleft()
        return tuple(self.taken)

    def done(self, offset: int) -> None:
        """Learn that the effects of what was taken are stored, up to *offset*.

        What was not taken, or was of another journal, is not confirmed by it.
        """
        if self.taken and offset <= self.taken[-1][0]:
            while self.taken and self.taken[0][0] <= offset:
                self.applied = self.taken.popleft()[0]

    def give_back(self) -> None:
        """Learn that what was taken is not applied yet: it comes out again, first."""
        if self.stage is not HALTED:
            self.ready.extendleft(reversed(self.taken))
        self.taken.clear()

    def confirm(self) -> int:
        """Return the offset up to which nothing is left to apply: also what others only said."""
        if not self.ready and not self.taken and self.stage is not HALTED:
            self.applied = max(self.applied, self.position)
        return self.applied

    def halt(self) -> None:
        """Stop this stream until the process begins anew."""
        self.stage = HALTED
        self._clear()

    @property
    def lag(self) -> int:
        """Return how many offsets are known and not yet applied."""
        unsettled = self.ready or self.taken or self.stage is HALTED
        done = self.applied if unsettled else max(self.applied, self.position)
        return max(0, self.announced - done)

    def next_deadline(self, now: float) -> float | None:
        """Return when asks() has something to say at the latest without a new event."""
        if self.stage is not FETCHING:
            return None
        stalls = [since + STALL_S for _, since in self._asked.values()]
        if now < self._not_before:
            return self._not_before
        return min(stalls, default=None)

    def check(self) -> None:
        """Assert every invariant."""
        if self.stage is HALTED:
            return
        assert self.position <= self.announced
        assert self.target <= self.announced
        assert self.stage is not LIVE or (self.position >= self.target and not self.buffer)
        assert len(self.buffer) <= BUFFER_MAX
        offsets = [offset for offset, _ in (*self.taken, *self.ready, *self.buffer)]
        assert offsets == sorted(set(offsets))
        assert not self.taken or self.taken[0][0] > self.applied
        assert all(offset > self.target for offset, _ in self.buffer)
        assert all(after >= self.position for after in (*self._asked, *self._pages))

    def _hears(self, topic: str) -> bool:
        return any(topics.matches(prefix, topic) for prefix in self.prefixes)

    def _aim(self, target: int) -> None:
        """Fetch up to *target* before anything live; what waits in the buffer lies behind it."""
        self.target = max(self.target, target)
        self.announced = max(self.announced, target)
        while self.buffer and self.buffer[0][0] <= self.target:
            self.buffer.popleft()
        while self.due and self.due[0] <= self.target:
            self.due.popleft()
        self.stage = FETCHING
        self._hand_over()

    def _advance(self) -> None:
        """While LIVE nothing is missing before the first record that is due."""
        if self.stage is LIVE:
            self.position = self.due[0] - 1 if self.due else self.announced

    def _hand_over(self) -> None:
        while (page := self._pages.pop(self.position, None)) is not None:
            through, items = page
            self.ready.extend(items)
            self.position = through
        if self.stage is FETCHING and self.position >= self.target:
            self._asked.clear()
            self._pages.clear()
            self.stage = LIVE
            self.ready.extend(self.buffer)
            self.buffer.clear()
            self._advance()

    def _overtaken(self) -> list[Notice]:
        if self.position + 1 >= self.first or self.stage is HALTED:
            return []
        gone = Gone(self.position, self.first)
        self._asked.clear()
        self._pages.clear()
        self.position = self.first - 1
        self._aim(self.position)
        return [gone]

    def _restart(self) -> None:
        self.applied = self.position = self.target = self.announced = 0
        self.taken.clear()
        self._clear()

    def _clear(self) -> None:
        self.ready.clear()
        self.buffer.clear()
        self.due.clear()
        self._asked.clear()
        self._pages.clear()
