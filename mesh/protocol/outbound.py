"""Outbound: what a publisher knows of one plane: sequences, last values, the HEADs of them.

Never here: sockets, who may hear what, the journal.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope, topics
from mesh.protocol.control import SCHEMAS, Head, StreamHead
from mesh.protocol.envelope import WIRE, Event

TOPICS_MAX: Final = 10_000  # a publisher refuses more: memory is bounded
HEADS_PER_PAGE: Final = 2_000
BEACON_HEADS: Final = 100
BEACON_HEADS_BYTES: Final = 8 * 1024
SNAPSHOT_BYTES: Final = 128 * 1024


class Stamped(NamedTuple):
    """A last value: its sequence and the frame as published."""

    seq: int
    frame: bytes


class Outbound:
    """Number the events of one run on one plane.

    Raises LocalProtocolError for a bad topic, too many topics or a frame above cap_bytes.
    """

    def __init__(self, nid: int, epoch: int, cap_bytes: int) -> None:
        self.nid, self.epoch, self.cap_bytes = nid, epoch, cap_bytes
        self.heads: dict[str, int] = {}
        self.last_values: dict[str, Stamped] = {}
        self.streams: tuple[StreamHead, ...] = ()
        self._told: dict[str, int] = {}  # heads as the last beacon knew them
        self._turn = 0

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

    def next_seq(self, topic: str) -> int:
        """Return the sequence that the next event of *topic* will have."""
        last = self.heads.get(topic)
        if last is not None:
            return last + 1
        if len(self.heads) >= TOPICS_MAX:
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
        heads = self.heads
        if listed:
            wanted = [prefix for prefix in listed if prefix not in denied]
            heads = {
                topic: seq
                for topic, seq in heads.items()
                if any(topics.matches(prefix, topic) for prefix in wanted)
            }
        pages = list(_pages(heads))
        return [
            self._head(probe, page, denied, number, len(pages))
            for number, page in enumerate(pages)
        ]

    def beacon(self) -> dict[str, int]:
        """Return heads for a heartbeat: what moved since the last, then the others in turn.

        A lost last event shows by it. Bounded in number and bytes.
        """
        moved = {t: s for t, s in self.heads.items() if self._told.get(t) != s}
        self._told = dict(self.heads)
        names = list(self.heads)
        if names:
            self._turn %= len(names)
            for topic in names[self._turn : self._turn + BEACON_HEADS]:
                moved.setdefault(topic, self.heads[topic])
            self._turn += BEACON_HEADS
        chosen: dict[str, int] = {}
        left = BEACON_HEADS_BYTES
        for topic, seq in islice(moved.items(), BEACON_HEADS):
            left -= len(topic) * 4 + 12
            if left < 0:
                break
            chosen[topic] = seq
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


def _pages(heads: dict[str, int]) -> Iterator[dict[str, int]]:
    items = iter(heads.items())
    yield dict(islice(items, HEADS_PER_PAGE))
    while page := dict(islice(items, HEADS_PER_PAGE)):
        yield page
