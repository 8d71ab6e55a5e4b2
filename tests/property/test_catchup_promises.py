"""A durable stream is applied once, in order, without holes, whatever is lost or repeated."""

from collections import deque
from typing import TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh.protocol import catchup, topics
from mesh.protocol.catchup import HALTED, SUBSCRIBED, CatchUp, Gone, Notice, Range, Reset
from mesh.protocol.control import LogIndex, StreamHead
from tests.property.walks import FATES, ROUNDS_MAX, names, run

# An index, an offset for its record, a heartbeat's stream, a HEAD with the run that sent it.
Sent: TypeAlias = LogIndex | int | StreamHead | tuple[int, StreamHead]


class CatchUpPromises(RuleBasedStateMachine):
    """A journal of topics, a pipe that loses and repeats, fetches that fail or answer late.

    The consumer hears "a."; whatever happens it applies exactly the offsets of those topics,
    in order, once, but for what retention took and what it was told of.
    """

    @initialize()
    def new(self) -> None:
        self.log_id, self.topics, self.first = "j1", list[str](), 1
        self.pipe: deque[Sent] = deque()
        self.asked: list[Range] = []
        self.now = 0.0
        self.run = self.heard_run = 0  # runs of the owner: the present, the one whose HEAD came
        self.store = ("j1", 0)  # the consumer's disk
        self.excused = 0  # offsets up to here that retention took, as we were told
        self.taken: int | None = None
        self.begin_consumer()

    def begin_consumer(self) -> None:
        self.consumer: CatchUp[str] = CatchUp(("a.",))
        self.consumer.begin(*self.store)
        self.heard_run, self.taken = 0, None
        self.asked.clear()

    # The owner.

    @rule(group=st.lists(names, min_size=1, max_size=5), fates=st.lists(FATES, min_size=6))
    def store_group(self, group: list[str], fates: list[str]) -> None:
        first = len(self.topics) + 1
        self.topics += group
        frames: list[Sent] = [LogIndex(self.log_id, first, tuple(group))]
        frames += [
            offset for offset, topic in enumerate(group, first) if topics.matches("a.", topic)
        ]
        for frame, fate in zip(frames, fates, strict=False):
            self.pipe.extend([frame] * ("lost", "sent", "sent twice").index(fate))

    @rule()
    def beat(self) -> None:
        self.pipe.append(self.stream())

    @rule()
    def answer_probe(self) -> None:
        self.pipe.append((self.run, self.stream()))

    @rule(ahead=st.integers(0, 4))
    def retain(self, ahead: int) -> None:
        self.first = min(self.first + ahead, len(self.topics) + 1)

    @rule()
    def restart(self) -> None:
        self.run += 1
        self.pipe.clear()

    @precondition(lambda self: self.log_id == "j1")
    @rule()
    def delete_the_journal(self) -> None:
        self.log_id, self.topics, self.first = "j2", [], 1
        self.restart()

    def stream(self) -> StreamHead:
        return StreamHead("owner", self.log_id, self.first, len(self.topics))

    # The link and the consumer.

    @precondition(lambda self: self.pipe)
    @rule()
    def receive(self) -> None:
        frame = self.pipe.popleft()
        if isinstance(frame, tuple):
            run, stream = frame
            began, self.heard_run = run + 1 != self.heard_run, run + 1
            self.told(self.consumer.head(stream, began=began))
        elif self.heard_run != self.run + 1:
            return  # EARLY: of a run whose HEAD is still to come
        elif isinstance(frame, LogIndex):
            self.consumer.index(frame.log_id, frame.first, frame.topics)
        elif isinstance(frame, StreamHead):
            self.consumer.beacon(frame)
        else:
            self.consumer.live(frame, self.topics[frame - 1])

    @rule()
    def lose_what_is_on_its_way(self) -> None:
        self.pipe.clear()

    @rule(seconds=st.sampled_from((0.1, 6.0)))
    def ask(self, seconds: float) -> None:
        self.now += seconds
        self.asked += self.consumer.asks(self.now)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), rows=st.integers(1, 6))
    def answer(self, which: int, rows: int) -> None:
        asked = self.asked.pop(which % len(self.asked))
        if asked.log_id != self.log_id:
            self.consumer.failed(asked, self.now, 0.5)
            return
        through = min(asked.to, asked.after + rows, len(self.topics))
        if asked.after + 1 < self.first:
            through = asked.after
        found = [
            (offset, self.topics[offset - 1])
            for offset in range(asked.after + 1, through + 1)
            if self.topics[offset - 1].startswith("a.")
        ]
        self.told(self.consumer.page(asked, through, found, self.first))

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), dice=st.floats(0, 1))
    def fail(self, which: int, dice: float) -> None:
        self.consumer.failed(self.asked.pop(which % len(self.asked)), self.now, dice)

    @precondition(lambda self: self.taken is None)
    @rule()
    def take(self) -> None:
        taken = self.consumer.take()
        if taken is not None:
            self.taken = taken[0]

    @precondition(lambda self: self.taken is not None)
    @rule()
    def apply(self) -> None:
        offset, self.taken = self.taken, None
        assert offset is not None
        if self.consumer.taken:  # else the journal was reset while the handler worked
            self.applied(offset)
        self.consumer.done(offset)

    @rule()
    def confirm(self) -> None:
        log_id, confirmed = self.consumer.log_id, self.consumer.confirm()
        assert confirmed >= self.store[1] or log_id != self.store[0]
        if log_id == self.store[0]:
            assert not self.wanted(self.store[1], confirmed)  # nothing unapplied is confirmed
            self.store = (log_id, confirmed)

    @rule()
    def crash(self) -> None:
        self.begin_consumer()

    def told(self, notices: list[Notice]) -> None:
        for notice in notices:
            if isinstance(notice, Reset):
                self.store, self.excused = (notice.now, 0), 0
            elif isinstance(notice, Gone):
                # What was handed over before the hole is still to come; the hole is excused.
                self.excused = max(self.excused, notice.first - 1)
            else:
                pytest.fail(f"the owner never loses what it has stored: {notice}")

    def wanted(self, after: int, to: int) -> list[int]:
        """Return the offsets behind *after*, up to *to*, that the consumer must apply."""
        return [
            offset
            for offset in range(max(after, self.excused) + 1, to + 1)
            if self.log_id == self.store[0] and self.topics[offset - 1].startswith("a.")
        ]

    def applied(self, offset: int) -> None:
        log_id, before = self.store
        assert offset > before, "applied twice"
        if log_id == self.log_id:
            assert self.topics[offset - 1].startswith("a.")
            assert not self.wanted(before, offset - 1), "skipped"
        self.store = (log_id, offset)

    @invariant()
    def check(self) -> None:
        self.consumer.check()
        assert self.consumer.stage is not HALTED

    def teardown(self) -> None:
        """Heal: the owner answers, nothing is lost; the consumer has it all in a while."""
        if not hasattr(self, "consumer"):
            return
        self.pipe.clear()
        self.asked.clear()  # what was under way is lost, and stalls
        self.answer_probe()
        for _ in range(ROUNDS_MAX):
            while self.pipe:
                self.receive()
            self.ask(6.0)
            while self.asked:
                self.answer(0, 3)
            while self.taken is not None or self.consumer.ready:
                self.take()
                if self.taken is None:
                    break
                self.apply()
            self.check()
        assert self.consumer.stage is not SUBSCRIBED
        assert not self.wanted(self.store[1], len(self.topics))
        assert (self.consumer.lag, self.consumer.confirm()) == (0, len(self.topics))


def test_journal_is_applied_once_in_order_without_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"RANGE": 3, "WINDOW": 3, "READY_MAX": 4, "BUFFER_MAX": 4}
    for name, limit in limits.items():
        monkeypatch.setattr(catchup, name, limit)
    run(CatchUpPromises, examples=150, steps=60)
