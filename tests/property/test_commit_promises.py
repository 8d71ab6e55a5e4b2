"""Durable events are stored, then published, each once, also when the disk is full."""

from collections import deque
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh.protocol import commits, envelope, topics
from mesh.protocol.commits import Group, GroupCommit, Wish
from mesh.protocol.control import LogIndex
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from tests.property.walks import ROUNDS_MAX, names, run


class CommitPromises(RuleBasedStateMachine):
    """Wishes come while groups are written, stored or refused; the model is a list of records."""

    @initialize()
    def new(self) -> None:
        self.commits: GroupCommit[int] = GroupCommit(Outbound(7, 3, 4096), "owner", "j", 1, 0)
        self.tickets = count()
        self.wishes: dict[int, Wish[int]] = {}  # neither stored nor refused
        self.order: list[int] = []
        self.group: Group | None = None
        self.disk: list[tuple[int, str, int]] = []
        self.published: list[tuple[int, str, int]] = []
        self.seqs: dict[str, int] = {}
        self.due: deque[tuple[int, str]] = deque()  # named by an index, not published yet

    @rule(events=st.lists(names, max_size=4), patient=st.booleans())
    def add(self, events: list[str], patient: bool) -> None:
        ticket = next(self.tickets)
        made = tuple(Event(topic, 0x1001, 0, 0, 0, b"\x01") for topic in events)
        self.wishes[ticket] = Wish(ticket, made, patient=patient)
        self.order.append(ticket)
        self.commits.add(self.wishes[ticket])

    @rule()
    def begin(self) -> None:
        group = self.commits.group()
        assert group is None or self.group is None
        self.group = group or self.group

    @precondition(lambda self: self.group is not None)
    @rule()
    def commit(self) -> None:
        assert self.group is not None
        for record in self.group.records:
            event = envelope.decode_event(record.frame)
            assert (record.offset, record.topic) == (event.offset, event.topic)
            assert event.offset == len(self.disk) + 1
            self.seqs[event.topic] = self.seqs.get(event.topic, 0) + 1
            assert event.seq == self.seqs[event.topic]
            self.disk.append((event.offset, event.topic, event.seq))
        self.group = None
        outcome = self.commits.committed()
        for frame in outcome.frames:
            self.publish(envelope.decode_event(frame))
        assert not self.due
        assert self.published == self.disk
        self.settle(outcome.tickets)

    def settle(self, tickets: list[tuple[int, int]]) -> None:
        """Each in its turn, with the offset of its last record."""
        assert [ticket for ticket, _ in tickets] == self.order[: len(tickets)]
        del self.order[: len(tickets)]
        stored = len(self.disk) - sum(len(self.wishes[ticket].events) for ticket, _ in tickets)
        for ticket, offset in tickets:
            stored += len(self.wishes.pop(ticket).events)
            assert offset == stored
        assert stored == len(self.disk)

    def publish(self, event: Event) -> None:
        if event.topic == topics.LOG:
            index = envelope.decode_value(event.payload, LogIndex)
            assert not self.due
            self.due.extend(enumerate(index.topics, index.first))
            return
        assert self.due.popleft() == (event.offset, event.topic)
        self.published.append((event.offset, event.topic, event.seq))

    @precondition(lambda self: self.group is not None)
    @rule()
    def refuse(self) -> None:
        self.group = None
        refused = self.commits.refused()
        assert all(not self.wishes[ticket].patient for ticket in refused)
        for ticket in refused:
            del self.wishes[ticket]
            self.order.remove(ticket)

    @rule(offsets=st.integers(0, 3))
    def retain(self, offsets: int) -> None:
        self.commits.retained(min(self.commits.first + offsets, self.commits.last + 1))

    @invariant()
    def check(self) -> None:
        self.commits.check()
        heads = {t: s for t, s in self.commits.outbound.heads.items() if t != topics.LOG}
        assert heads == self.seqs  # nothing that is not stored is known to anybody
        [stream] = self.commits.outbound.streams
        assert (stream.first, stream.last) == (self.commits.first, len(self.disk))

    def teardown(self) -> None:
        if not hasattr(self, "commits"):
            return
        for _ in range(ROUNDS_MAX):
            self.begin()
            if self.group is not None:
                self.commit()
        assert not self.wishes


def test_durable_events_are_stored_then_published_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "GROUP_RECORDS", 5)
    monkeypatch.setattr(commits, "INDEX_BYTES", 40)
    run(CommitPromises, examples=120)
