"""A durable stream is applied once, in order, without holes, whatever is lost or repeated."""

from collections import deque
from typing import TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from mesh.protocol import catchup, topics
from mesh.protocol.catchup import HALTED, SUBSCRIBED, CatchUp, Gone, Notice, Range, Reset
from mesh.protocol.control import LogIndex, StreamHead
from tests.property.walks import FATES, ROUNDS_MAX, names, run

# An index, an offset for its record, a heartbeat's stream, a HEAD with the run that sent it.
Sent: TypeAlias = LogIndex | int | StreamHead | tuple[int, StreamHead]

# One rule draws them all, and often none: else nothing is ever heard, let alone applied.
MISFORTUNES = ("retention", "loss", "consumer killed", "owner killed", "journal deleted")
FORTUNES = ("fair",) * 5


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
        self.taken: list[int] = []  # what the handler has, in order
        self.begin_consumer()
        self.go_well()

    def begin_consumer(self) -> None:
        self.consumer: CatchUp[str] = CatchUp(("a.",))
        self.consumer.begin(*self.store)
        self.heard_run, self.taken = 0, []
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

    @rule(probed=st.booleans())
    def tell_the_end(self, *, probed: bool) -> None:
        self.pipe.append((self.run, self.stream()) if probed else self.stream())

    @rule(what=st.sampled_from(FORTUNES + MISFORTUNES))
    def suffer(self, what: str) -> None:
        if what == "retention":
            self.first = min(self.first + 3, len(self.topics) + 1)
        elif what == "loss":
            self.pipe.clear()
        elif what == "consumer killed":
            self.begin_consumer()
        elif what != "fair":
            if what == "journal deleted" and self.log_id == "j1":
                self.log_id, self.topics, self.first = "j2", [], 1
            self.restart()

    def restart(self) -> None:
        self.run += 1
        self.pipe.clear()

    def stream(self) -> StreamHead:
        return StreamHead("owner", self.log_id, self.first, len(self.topics))

    # The link and the consumer.

    @rule(frames=st.integers(1, 9))
    def receive(self, frames: int) -> None:
        for _ in range(min(frames, len(self.pipe))):
            self.receive_one(self.pipe.popleft())

    def receive_one(self, frame: Sent) -> None:
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

    @rule(seconds=st.sampled_from((0.1, 6.0)))
    def ask(self, seconds: float) -> None:
        self.now += seconds
        self.asked += self.consumer.asks(self.now)

    @rule()
    def go_well(self) -> None:
        """Let everything on its way arrive."""
        self.tell_the_end(probed=True)
        self.receive(len(self.pipe))
        self.ask(0.1)
        while self.asked:
            self.answer(0, 6)

    @rule(which=st.integers(0, 9), rows=st.integers(1, 6))
    def answer(self, which: int, rows: int) -> None:
        if not self.asked:
            return
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

    @rule(which=st.integers(0, 9), dice=st.floats(0, 1))
    def fail(self, which: int, dice: float) -> None:
        if self.asked:
            self.consumer.failed(self.asked.pop(which % len(self.asked)), self.now, dice)

    @rule(most=st.integers(1, 4))
    def take(self, most: int) -> None:
        if self.taken:
            return
        run = self.consumer.take_run(most, lambda first, item: first == item)
        assert len(run) <= most
        assert len({topic for _, topic in run}) <= 1
        assert not run or not self.consumer.take_run(most, lambda first, item: True)
        self.taken = [offset for offset, _ in run]

    @rule(most=st.integers(0, 4), goes_on=st.booleans())
    def apply(self, most: int, *, goes_on: bool) -> None:
        """Store the effects of so many in one transaction; the rest follow, or come again."""
        applied, self.taken = self.taken[:most], self.taken[most:]
        was_reset = not self.consumer.taken  # while the handler worked
        if was_reset:
            self.taken = []
        for offset in applied:
            if not was_reset:
                self.applied(offset)
        if applied:
            self.consumer.done(applied[-1])
        if not goes_on:
            self.taken = []
            self.consumer.give_back()

    @rule()
    def confirm(self) -> None:
        log_id, confirmed = self.consumer.log_id, self.consumer.confirm()
        assert confirmed >= self.store[1] or log_id != self.store[0]
        if log_id == self.store[0]:
            assert not self.wanted(self.store[1], confirmed)  # nothing unapplied is confirmed
            self.store = (log_id, confirmed)

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
        self.tell_the_end(probed=True)
        for _ in range(ROUNDS_MAX):
            if self.pipe:
                self.receive(len(self.pipe))
            self.ask(6.0)
            while self.asked:
                self.answer(0, 3)
            while self.taken or self.consumer.ready:
                if not self.taken:
                    self.take(3)
                if not self.taken:
                    break
                self.apply(3, goes_on=True)
            self.check()
        assert self.consumer.stage is not SUBSCRIBED
        assert not self.wanted(self.store[1], len(self.topics))
        assert (self.consumer.lag, self.consumer.confirm()) == (0, len(self.topics))


def test_journal_is_applied_once_in_order_without_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"RANGE": 3, "WINDOW": 3, "READY_MAX": 4, "BUFFER_MAX": 4}
    for name, limit in limits.items():
        monkeypatch.setattr(catchup, name, limit)
    run(CatchUpPromises, examples=120, steps=60)
