"""Commits: durable events are numbered, stored as one group, and only then published."""

from itertools import count

import pytest

from mesh.errors import LocalProtocolError, Overloaded
from mesh.protocol import commits, envelope, outbound, topics
from mesh.protocol.commits import (
    GROUP_RECORDS,
    INDEX_BYTES,
    QUEUE_MAX,
    Applied,
    DeadLetter,
    Group,
    GroupCommit,
    Wish,
)
from mesh.protocol.control import LogIndex, StreamHead
from mesh.protocol.envelope import DURABLE_FLAG, Event
from mesh.protocol.outbound import Outbound

Commits = GroupCommit[str]

CAP_BYTES = 4 * 1024
APPLIED = Applied("md", "k", 3)
ACK = Applied("recorder", "j", 9)
DEAD = DeadLetter("md", "k", 4, "order.a", "why", 5, b"frame")


def event(topic: str = "order.a", payload: bytes = b"\x01") -> Event:
    return Event(topic, 0x1001, 0, 0, 0, payload, ts_recv=11, ts_sent=12, ext=b"\x80")


def journal(last: int = 9) -> Commits:
    return Commits(Outbound(7, 3, CAP_BYTES), "execution", "j", 1, last)


def next_group(machine: Commits) -> Group:
    group = machine.group()
    assert group is not None
    machine.check()
    return group


def stored(machine: Commits, wish: Wish[str]) -> list[Event]:
    """Store *wish* and return what is published for it."""
    machine.add(wish)
    next_group(machine)
    frames = machine.committed().frames
    machine.check()
    return [envelope.decode_event(frame) for frame in frames]


def test_story() -> None:
    machine = journal()
    machine.add(Wish("one", (event(), event("fill.a")), applied=(APPLIED,)))
    machine.add(Wish("two", acks=(ACK,)))
    group = next_group(machine)
    assert [(r.offset, r.topic, r.schema) for r in group.records] == [
        (10, "order.a", 0x1001),
        (11, "fill.a", 0x1001),
    ]
    assert (group.applied, group.acks, group.dead) == ((APPLIED,), (ACK,), ())
    machine.add(Wish("three", (event(),), dead=(DEAD,)))
    assert machine.group() is None  # one is under way
    assert machine.outbound.streams == (StreamHead("execution", "j", 1, 9),)  # nobody knows
    outcome = machine.committed()
    assert outcome.tickets == [("one", 11), ("two", 11)]
    assert machine.outbound.streams == (StreamHead("execution", "j", 1, 11),)
    assert machine.outbound.heads == {"order.a": 1, "fill.a": 1, topics.LOG: 1}
    index, *records = [envelope.decode_event(frame) for frame in outcome.frames]
    assert (index.topic, index.ts_recv) == (topics.LOG, 11)
    assert envelope.decode_value(index.payload, LogIndex) == LogIndex(
        "j", 10, ("order.a", "fill.a")
    )
    assert [envelope.encode_event(record) for record in records] == [
        r.frame for r in group.records
    ]
    group = next_group(machine)
    assert ([r.offset for r in group.records], group.dead) == ([12], (DEAD,))
    assert machine.committed().tickets == [("three", 12)]
    assert machine.group() is None


def test_record_carries_the_numbers_of_its_run_and_what_the_caller_gave() -> None:
    [_, record] = stored(journal(), Wish("w", (event(),)))
    assert record == Event(
        "order.a", 0x1001, 7, 3, 1, b"\x01", DURABLE_FLAG, 10, 11, 12, ext=b"\x80"
    )


def test_sequences_rise_per_topic_within_and_across_groups() -> None:
    machine = journal()
    published = [
        *stored(machine, Wish("w", (event("a"), event("b"), event("a")))),
        *stored(machine, Wish("w", (event("b"), event("a")))),
    ]
    numbers = [(e.topic, e.seq) for e in published if e.topic != topics.LOG]
    assert numbers == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)]
    assert [e.seq for e in published if e.topic == topics.LOG] == [1, 2]


def test_f5_refused_group_was_never_seen_and_its_numbers_are_free_again() -> None:
    machine = journal()
    machine.add(Wish("one", (event(), event())))
    refused = next_group(machine)
    assert machine.refused() == ["one"]
    assert (machine.last, machine.outbound.heads) == (9, {})
    assert machine.group() is None
    machine.add(Wish("again", (event(), event())))
    assert next_group(machine) == refused


def test_patient_wishes_of_a_refused_group_go_first_in_their_order() -> None:
    machine = journal()
    for name in ("a", "b", "c"):
        machine.add(Wish(name, (event(name),), patient=name != "b"))
    next_group(machine)
    machine.add(Wish("d", (event("d"),)))
    assert machine.refused() == ["b"]
    assert machine.queued == 3
    assert [r.topic for r in next_group(machine).records] == ["a", "c", "d"]
    assert machine.committed().tickets == [("a", 10), ("c", 11), ("d", 12)]


def test_wish_without_events_gets_the_newest_offset_before_it() -> None:
    machine = journal()
    machine.add(Wish("acks", acks=(ACK,)))
    machine.add(Wish("event", (event(),)))
    machine.add(Wish("more acks", acks=(ACK,)))
    next_group(machine)
    assert machine.committed().tickets == [("acks", 9), ("event", 10), ("more acks", 10)]


def test_group_without_records_publishes_nothing() -> None:
    machine = journal()
    assert stored(machine, Wish("acks", acks=(ACK,))) == []
    assert machine.last == 9


def test_group_holds_what_fits_and_never_half_a_wish() -> None:
    machine = journal()
    sizes = [GROUP_RECORDS - 1, 2, 0, GROUP_RECORDS]
    for size in sizes:
        machine.add(Wish(str(size), (event("a"),) * size))
    grouped = []
    while machine.queued:
        grouped.append(len(next_group(machine).records))
        machine.committed()
    assert grouped == [GROUP_RECORDS - 1, 2, GROUP_RECORDS]


def test_wishes_without_end_are_refused() -> None:
    machine = journal()
    for _ in range(QUEUE_MAX):
        machine.add(Wish("w"))
    with pytest.raises(Overloaded):
        machine.add(Wish("one too many"))
    assert machine.queued == QUEUE_MAX


@pytest.mark.parametrize(
    "events",
    [
        (event("a"),) * (GROUP_RECORDS + 1),
        (event("a"), event("Not.a.topic")),
        (event("a"), event("a", bytes(CAP_BYTES))),
    ],
)
def test_what_no_group_could_store_is_our_own_fault(events: tuple[Event, ...]) -> None:
    machine = journal()
    with pytest.raises(LocalProtocolError):
        machine.add(Wish("w", events))
    assert machine.queued == 0


def test_wish_accepted_while_there_was_room_for_its_topic_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The topics ran out between add() and group(): it raised, and every wish of it was lost."""
    monkeypatch.setattr(outbound, "TOPICS_MAX", 2)
    machine = journal()
    machine.add(Wish("one", (event("a"), event("b"))))
    next_group(machine)
    machine.add(Wish("two", (event("c"),)))
    machine.committed()
    next_group(machine)
    assert machine.committed().tickets == [("two", 12)]
    with pytest.raises(LocalProtocolError):
        machine.add(Wish("three", (event("d"),)))


def test_index_is_published_although_all_topics_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raised behind the commit: stored, but never published, its callers never told."""
    monkeypatch.setattr(outbound, "TOPICS_MAX", 1)
    assert [e.topic for e in stored(journal(), Wish("w", (event("a"),)))] == [topics.LOG, "a"]


@pytest.mark.parametrize("length", [1, 60, 200])
def test_each_record_follows_an_index_that_names_it_and_fits_in_a_frame(length: int) -> None:
    names = [f"x{n}"[:length].ljust(length, "x") for n in range(300)]
    machine = journal()
    published = stored(machine, Wish("w", tuple(event(name) for name in names)))
    announced: dict[int, str] = {}
    offsets = count(10)
    for message in published:
        assert len(envelope.encode_event(message)) <= CAP_BYTES
        if message.topic == topics.LOG:
            index = envelope.decode_value(message.payload, LogIndex)
            assert not announced, "the one before was not used up"
            announced = dict(enumerate(index.topics, index.first))
        else:
            assert message.offset == next(offsets)
            assert announced.pop(message.offset) == message.topic
    assert not announced
    assert next(offsets) == 310


def test_index_is_as_long_as_its_cap_allows() -> None:
    machine = journal()
    fits = INDEX_BYTES // (4 * 100 + 3)
    published = stored(machine, Wish("w", (event("x" * 100),) * (2 * fits + 1)))
    indexes = [n for n, e in enumerate(published) if e.topic == topics.LOG]
    assert indexes == [0, fits + 1, 2 * (fits + 1)]


def test_retention_is_told() -> None:
    machine = journal()
    machine.retained(10)
    assert machine.outbound.streams == (StreamHead("execution", "j", 10, 9),)
    machine.check()


def test_outcome_of_no_group_is_our_own_fault() -> None:
    for outcome in (journal().committed, journal().refused):
        with pytest.raises(AssertionError):
            outcome()


def test_limits_are_what_the_disk_and_the_planes_were_sized_for() -> None:
    assert commits.INDEX_BYTES < CAP_BYTES
    assert commits.GROUP_RECORDS <= commits.QUEUE_MAX
