"""GroupCommit: durable events are numbered, stored as one group, and only then published.

    QUEUED --group()--> COMMITTING --committed()--> PUBLISHED
                        COMMITTING --refused()--> nobody ever saw it; its numbers are free again

One group is under way; what queues meanwhile is the next. Before each run of records goes
an index of their topics, by which a consumer of some topics sees that it has missed none.

Never here: the disk, threads, sockets.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from mesh.errors import LocalProtocolError, Overloaded
from mesh.protocol import envelope, topics
from mesh.protocol.control import SCHEMAS, LogIndex, StreamHead
from mesh.protocol.envelope import DURABLE_FLAG, Event
from mesh.protocol.once import Key, Row
from mesh.protocol.outbound import Outbound

Ticket = TypeVar("Ticket")

QUEUE_MAX: Final = 8_192  # wishes waiting; beyond it the caller is told
GROUP_RECORDS: Final = 1_024
INDEX_BYTES: Final = 3 * 1024  # below the cap of a durable frame


class Stored(NamedTuple):
    """One record as it lies in the journal."""

    offset: int
    topic: str
    schema: int
    frame: bytes


class Applied(NamedTuple):
    """How far a consumer stored the effects of a journal: another node's here, or ours there."""

    node: str
    log_id: str
    offset: int


class DeadLetter(NamedTuple):
    """A record that its consumer could not apply, kept for a human. ts_ns: UTC."""

    node: str
    log_id: str
    offset: int
    topic: str
    why: str
    ts_ns: int
    frame: bytes


class Group(NamedTuple):
    """What one transaction stores: all of it or nothing."""

    records: tuple[Stored, ...] = ()
    applied: tuple[Applied, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    acks: tuple[Applied, ...] = ()
    rows: tuple[Row, ...] = ()  # requests with a key, begun or answered
    forgotten: tuple[Key, ...] = ()


@dataclass(slots=True)
class Wish(Generic[Ticket]):
    """What one caller wants stored together. ticket is handed back with the outcome.

    events carry topic, schema, payload, ext and times; the numbers are given here.
    """

    ticket: Ticket
    events: tuple[Event, ...] = ()
    applied: tuple[Applied, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    acks: tuple[Applied, ...] = ()
    rows: tuple[Row, ...] = ()
    forgotten: tuple[Key, ...] = ()
    patient: bool = False  # wait for space on a full disk: it is decided and cannot be undone


@dataclass(slots=True)
class Outcome(Generic[Ticket]):
    """A group that is stored: publish the frames in order, then tell the callers.

    tickets: each with the offset of its last record, or the newest before it without one.
    """

    frames: list[bytes]
    tickets: list[tuple[Ticket, int]]


@dataclass(slots=True)
class GroupCommit(Generic[Ticket]):
    """Number the durable events of one run; outbound is that of its durable plane."""

    outbound: Outbound
    name: str
    log_id: str
    first: int
    last: int  # newest offset stored
    _queue: deque[Wish[Ticket]] = field(default_factory=deque)
    _group: Group | None = None
    _wishes: list[tuple[Wish[Ticket], int]] = field(default_factory=list)
    _heads: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tell()

    def add(self, wish: Wish[Ticket]) -> None:
        """Queue *wish*. Raises Overloaded, LocalProtocolError for what no group could store."""
        if len(self._queue) >= QUEUE_MAX:
            raise Overloaded(f"{QUEUE_MAX} writes wait for the journal")
        if len(wish.events) > GROUP_RECORDS:
            raise LocalProtocolError(f"more than {GROUP_RECORDS} events in one transaction")
        for event in wish.events:
            self.outbound.next_seq(event.topic)
            envelope.encode_numbered(event, 0, 0, 0, self.outbound.cap_bytes)
        self._queue.append(wish)

    @property
    def queued(self) -> int:
        """Return how many wishes wait for their turn."""
        return len(self._queue)

    def group(self) -> Group | None:
        """Return the next group to store, None while one is under way or nothing waits."""
        if self._group is not None or not self._queue:
            return None
        records: list[Stored] = []
        self._wishes, self._heads = [], {}
        while self._queue and len(records) + len(self._queue[0].events) <= GROUP_RECORDS:
            wish = self._queue.popleft()
            for event in wish.events:
                records.append(self._number(event, self.last + len(records) + 1))
            self._wishes.append((wish, self.last + len(records)))
        wishes = [wish for wish, _ in self._wishes]
        self._group = Group(
            tuple(records),
            tuple(done for wish in wishes for done in wish.applied),
            tuple(letter for wish in wishes for letter in wish.dead),
            tuple(ack for wish in wishes for ack in wish.acks),
            tuple(row for wish in wishes for row in wish.rows),
            tuple(key for wish in wishes for key in wish.forgotten),
        )
        return self._group

    def committed(self) -> Outcome[Ticket]:
        """Learn that the group is stored."""
        group = self._group
        assert group is not None, "no group was under way"
        self._group = None
        self.outbound.heads.update(self._heads)
        if group.records:
            self.last = group.records[-1].offset
            self._tell()
        tickets = [(wish.ticket, offset) for wish, offset in self._wishes]
        return Outcome(list(self._frames(group.records)), tickets)

    def refused(self) -> list[Ticket]:
        """Learn that nothing of the group is stored; return whom to tell.

        The patient go back to the head of the queue, in their order.
        """
        assert self._group is not None, "no group was under way"
        self._group = None
        wishes = [wish for wish, _ in self._wishes]
        self._queue.extendleft(reversed([wish for wish in wishes if wish.patient]))
        return [wish.ticket for wish in wishes if not wish.patient]

    def retained(self, first: int) -> None:
        """Learn that offsets below *first* are gone."""
        self.first = first
        self._tell()

    def check(self) -> None:
        """Assert every invariant."""
        assert self.first <= self.last + 1
        if self._group is not None and self._group.records:
            assert self._group.records[0].offset == self.last + 1

    def _number(self, event: Event, offset: int) -> Stored:
        outbound, topic = self.outbound, event.topic
        # add() has judged the topic; here, with the wishes taken out, nothing may be refused.
        seq = self._heads[topic] = self._heads.get(topic, outbound.heads.get(topic, 0)) + 1
        stamped = msgspec.structs.replace(event, flags=event.flags | DURABLE_FLAG)
        frame = envelope.encode_numbered(
            stamped, outbound.nid, outbound.epoch, seq, outbound.cap_bytes, offset
        )
        return Stored(offset, topic, event.schema, frame)

    def _frames(self, records: tuple[Stored, ...]) -> Iterator[bytes]:
        """Yield the frames to publish: an index, then the records it tells of, and so on."""
        start, size = 0, 0
        for end, record in enumerate(records):
            size += len(record.topic) * 4 + 3
            if size > INDEX_BYTES:
                yield from self._run(records[start:end])
                start, size = end, len(record.topic) * 4 + 3
        if records:
            yield from self._run(records[start:])

    def _run(self, records: tuple[Stored, ...]) -> Iterator[bytes]:
        value = LogIndex(self.log_id, records[0].offset, tuple(r.topic for r in records))
        stamps = envelope.decode_event(records[0].frame)
        yield self.outbound.frame(
            Event(
                topics.LOG,
                SCHEMAS[LogIndex],
                0,
                0,
                0,
                envelope.encode_value(value),
                ts_recv=stamps.ts_recv,
                ts_sent=stamps.ts_sent,
            )
        )
        for record in records:
            yield record.frame

    def _tell(self) -> None:
        self.outbound.streams = (StreamHead(self.name, self.log_id, self.first, self.last),)
