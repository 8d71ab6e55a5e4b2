"""Outbound: what a publisher knows of one plane: sequences, last values, the HEADs of them.

Never here: sockets, who may hear what, the journal.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope, topics
from mesh.protocol.bundle import BUNDLE_HEADER_BYTES, BURST_NS, Bundle
from mesh.protocol.cause import Cause, encode_cause
from mesh.protocol.control import SCHEMAS, Head, StreamHead
from mesh.protocol.envelope import EVENT_HEADER_BYTES, TRACED, WIRE, Event

TOPICS_MAX: Final = 10_000  # a publisher refuses more: memory is bounded
HEADS_PER_PAGE: Final = 2_000
HEADS_BYTES: Final = 128 * 1024  # of a page: the frame around it has twice as much
BEACON_HEADS: Final = 100
SNAPSHOT_BYTES: Final = 128 * 1024
# Said by the mesh itself, which must be able to say how a node is that ran out of topics.
_SYSTEM: Final = frozenset({topics.HEARTBEAT, topics.VIEW, topics.MODE, topics.LOG})


class Stamped(NamedTuple):
    """A last value: its sequence and the frame as published."""

    seq: int
    frame: bytes


Voice: TypeAlias = Callable[[object, int], None]  # value, ts_recv or 0


class Outbound:
    """Number the events of one run on one plane.

    Raises LocalProtocolError for a bad topic, too many topics or a frame above cap_bytes.
    """

    def __init__(self, nid: int, epoch: int, cap_bytes: int) -> None:
        self.nid, self.epoch, self.cap_bytes = nid, epoch, cap_bytes
        self.heads: dict[str, int] = {}
        self.last_values: dict[str, Stamped] = {}
        self.streams: tuple[StreamHead, ...] = ()
        self._told: dict[str, int] = {}  # heads as beacons told them, the latest told last

    def frame(self, event: Event, *, keep: bool = False) -> bytes:
        """Return the frame of the next event; with keep it becomes the topic's last value.

        event carries topic, schema, payload, flags, times; its nid, epoch and seq are set here.
        """
        topic = event.topic
        seq = self.next_seq(topic)
        frame = envelope.encode_numbered(event, self.nid, self.epoch, seq, self.cap_bytes)
        self.heads[topic] = seq
        if event.flags & envelope.TOMBSTONE:
            self.last_values.pop(topic, None)
        elif keep:
            self.last_values[topic] = Stamped(seq, frame)
        return frame

    def traced(self, event: Event, cause: Cause | None) -> Event:
        """Return *event* as it tells of *cause*, if a frame has room for that.

        Without a ts_recv it takes that of the cause, else its ts_sent.
        """
        ts_recv = event.ts_recv or (cause.ts_recv if cause else 0) or event.ts_sent
        if cause is None:
            return replace(event, ts_recv=ts_recv)
        ext = encode_cause(cause)
        size = EVENT_HEADER_BYTES + len(event.topic.encode()) + 1 + len(ext) + len(event.payload)
        if size > self.cap_bytes:  # an event counts for more than where it came from
            return replace(event, ts_recv=ts_recv)
        return replace(event, ts_recv=ts_recv, flags=event.flags | TRACED, ext=ext)

    def voice(
        self,
        topic: str,
        schema: int,
        *,
        keep: bool,
        bundle: Bundle,
        now_ns: Callable[[], int],
    ) -> Voice:
        """Return what encodes, numbers and sends events of one topic without flags and ext.

        It does what frame() does and nothing that could be done once for all of them. bundle:
        the publisher's; last values stay out of it, for each is kept as its own frame.
        """
        self.next_seq(topic)
        first = Event(topic, schema, self.nid, self.epoch, 0, b"")
        both = envelope.plain_head(first), envelope.plain_head(first, envelope.BUNDLE)
        tail, encode, heads, head = envelope.plain_tail, envelope.encode_value, self.heads, both[0]
        room = self.cap_bytes - len(head) - envelope.PLAIN_TAIL_BYTES
        bundle_room = room - BUNDLE_HEADER_BYTES

        def say(value: object, ts_recv: int) -> None:
            now = now_ns()
            seq = heads[topic] + 1 if topic in heads else 1
            payload = encode(value)
            if len(payload) > room:
                self.frame(Event(topic, schema, 0, 0, 0, payload))  # which says what is wrong
            heads[topic] = seq
            if (
                bundle.head is head
                and now - bundle.last_ns < BURST_NS
                and bundle.ts_recv == ts_recv
                and not keep
            ):
                bundle.hold(both, seq, now, payload, bundle_room)
                return
            if bundle.payloads:
                bundle.flush()
            frame = head + tail(seq, ts_recv or now, now) + payload
            bundle.head, bundle.last_ns, bundle.ts_recv = head, now, ts_recv
            if keep:
                self.last_values[topic] = Stamped(seq, frame)
            bundle.post(frame)

        return say

    def next_seq(self, topic: str) -> int:
        """Return the sequence that the next event of *topic* will have."""
        last = self.heads.get(topic)
        if last is not None:
            return last + 1
        if len(self.heads) >= TOPICS_MAX and topic not in _SYSTEM:
            raise LocalProtocolError(f"more than {TOPICS_MAX} topics, the last is {topic}")
        topics.check(topic)
        return 1

    def answer(self, probe: bytes, granted: Callable[[str], bool]) -> list[bytes]:
        """Return the HEAD pages for *probe*, none if it is no probe.

        granted says of a prefix whether this subscriber may hear it.
        """
        listed = topics.probed(probe)
        if listed is None:
            return []
        denied = tuple(prefix for prefix in listed if not granted(prefix))
        wanted = [prefix for prefix in listed if prefix not in denied]
        pages = list(
            _pages(
                (topic, seq)
                for topic, seq in self.heads.items()
                if (any(topics.matches(p, topic) for p in wanted) if listed else granted(topic))
            )
        )
        return [
            self._head(probe, page, denied, number, len(pages))
            for number, page in enumerate(pages)
        ]

    def beacon(self) -> dict[str, int]:
        """Return heads for a heartbeat: three that moved, one of the others, and so on.

        Of both, those told longest ago come first, so that in some beacons' time every topic
        is told however many move: a lost last event shows by it, also if its beacon was lost.
        Bounded in number, and to half a frame: the heartbeat has more to tell.
        """
        heads, told = self.heads, self._told
        waiting = [topic for topic in heads if topic not in told]
        moved = [*waiting, *(topic for topic, seq in told.items() if heads[topic] != seq)]
        others = [topic for topic, seq in told.items() if heads[topic] == seq]
        chosen: dict[str, int] = {}
        left = self.cap_bytes // 2
        for topic in islice(_in_turn(moved, others), BEACON_HEADS):
            left -= _head_bytes(topic)
            if left < 0:
                break
            chosen[topic] = heads[topic]
        for topic, seq in chosen.items():
            told.pop(topic, None)
            told[topic] = seq
        return chosen

    def snapshot(self, prefixes: tuple[str, ...], after: str) -> tuple[tuple[bytes, ...], str]:
        """Return some last values of *prefixes* behind topic *after*, and where to go on.

        "" says that these were the last.
        """
        frames: list[bytes] = []
        size = 0
        for topic in sorted(t for t in self.last_values if t > after):
            if not any(topics.matches(prefix, topic) for prefix in prefixes):
                continue
            frame = self.last_values[topic].frame
            if frames and size + len(frame) > SNAPSHOT_BYTES:
                return tuple(frames), after
            frames.append(frame)
            size += len(frame)
            after = topic
        return tuple(frames), ""

    def _head(
        self, probe: bytes, heads: dict[str, int], denied: tuple[str, ...], page: int, pages: int
    ) -> bytes:
        head = Head(self.epoch, WIRE, WIRE, heads, self.streams, denied, page, pages)
        return envelope.encode_event(
            Event(
                probe.decode("latin-1"),
                SCHEMAS[Head],
                self.nid,
                self.epoch,
                0,
                envelope.encode_value(head),
            )
        )


def _pages(heads: Iterator[tuple[str, int]]) -> Iterator[dict[str, int]]:
    """Yield *heads* in pages of bounded size, at least one."""
    page: dict[str, int] = {}
    left = HEADS_BYTES
    for topic, seq in heads:
        left -= _head_bytes(topic)
        if left < 0 or len(page) >= HEADS_PER_PAGE:
            yield page
            page, left = {}, HEADS_BYTES - _head_bytes(topic)
        page[topic] = seq
    yield page


def _head_bytes(topic: str) -> int:
    return len(topic) * 4 + 12


def _in_turn(moved: list[str], others: list[str]) -> Iterator[str]:
    rest = iter(others)
    for start in range(0, len(moved), 3):
        yield from chain(moved[start : start + 3], islice(rest, 1))
    yield from rest
