"""Publisher and Subscriber: events out and in, with sequences, heads and gaps.

Never here: parsing of payloads, discovery, snapshots.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from mesh.errors import LocalProtocolError, MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.control import SCHEMAS, Head, Record
from mesh.protocol.envelope import Event
from mesh.protocol.sequence import DELIVER, Gap, SequenceTracker
from mesh.transport.link import Link
from mesh.transport.sockets import Sockets

TOPICS_MAX: Final = 10_000  # a publisher refuses more: memory is bounded
EVENT_CAP_BYTES: Final = 16 * 1024  # queue length x cap bounds a stalled peer's memory
DURABLE_CAP_BYTES: Final = 4 * 1024
HEAD_TIMEOUT_S: Final = 2.0


class Publisher:
    """Publish events of one plane; answer every probe with a HEAD.

    Sequences count per topic from 1. Last values are kept for LASTVALUE topics. Raises
    LocalProtocolError for a bad topic, too many topics or a frame above the cap.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        address: str,
        *,
        nid: int,
        epoch: int,
        durable: bool = False,
    ) -> None:
        self.nid, self.epoch, self._durable = nid, epoch, durable
        self.heads: dict[str, int] = {}
        self.last_values: dict[str, bytes] = {}
        self.log_id, self.last_offset = "", 0
        self.published = 0
        self._link = Link(loop, sockets.publisher(address, durable=durable), sink=self._on_frame)

    def publish(
        self, topic: str, schema: int, payload: bytes, *, ts_recv: int, ts_sent: int, keep: bool
    ) -> None:
        """Send an event to whoever listens; with keep it stays as the topic's last value."""
        seq = self.next_seq(topic)
        frame = envelope.encode_event(
            Event(
                topic,
                schema,
                self.nid,
                self.epoch,
                seq,
                payload,
                0,
                0,
                ts_recv or ts_sent,
                ts_sent,
            ),
            EVENT_CAP_BYTES,
        )
        if keep:
            self.last_values[topic] = frame
        self.send(topic, frame, seq)

    def next_seq(self, topic: str) -> int:
        """Return the sequence that the next event of *topic* will have."""
        last = self.heads.get(topic)
        if last is not None:
            return last + 1
        if len(self.heads) >= TOPICS_MAX:
            raise LocalProtocolError(f"more than {TOPICS_MAX} topics, the last is {topic}")
        topics.check(topic)
        return 1

    def send(self, topic: str, frame: bytes, seq: int, offset: int = 0) -> None:
        """Send a frame already encoded with *seq*, as a journal stored it."""
        self.heads[topic] = seq
        self.last_offset = max(self.last_offset, offset)
        self.published += 1
        self._link.send(frame)

    def snapshot(self, prefixes: tuple[str, ...]) -> tuple[bytes, ...]:
        """Return the last values whose topics begin with one of *prefixes*."""
        return tuple(
            frame
            for topic, frame in self.last_values.items()
            if any(topics.matches(prefix, topic) for prefix in prefixes)
        )

    def close(self) -> None:
        """Close the socket."""
        self._link.close()

    def _on_frame(self, frame: bytes) -> None:
        if frame[:2] != b"\x01" + topics.PROBE_MARK or len(frame) != 18:
            return  # an ordinary subscription: libzmq has taken it
        head = Head(self.epoch, self.heads, self.log_id, self.last_offset)
        event = Event(
            frame[1:].decode("latin-1"),
            SCHEMAS[Head],
            self.nid,
            self.epoch,
            0,
            envelope.encode_value(head),
        )
        self._link.send(envelope.encode_event(event))


@dataclass(slots=True)
class Ears:
    """What a Subscriber tells its owner; none may raise."""

    on_event: Callable[[Event], None]
    on_head: Callable[[Head, bool], None]  # True: a new run of the publisher began
    on_gap: Callable[[Gap], None]


class Subscriber:
    """Hear one publisher on one plane, from its HEAD on.

    Sequences are judged here on the plane of EPHEMERAL and LASTVALUE; durable frames pass
    as they are, for catch-up judges them by offset.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        record: Record,
        ears: Ears,
        *,
        durable: bool,
        token: Callable[[], int],
    ) -> None:
        self.record, self._ears, self._durable, self._token = record, ears, durable, token
        self.sequences = SequenceTracker()
        self.received = self.rejects = 0
        self.live = False
        self._probe = b""
        self._probed_at = 0.0
        self._loop = loop
        self._prefixes: set[str] = set()
        self._sock = sockets.subscriber(durable=durable)
        self._link = Link(loop, self._sock, sink=self._on_frame)
        self._sock.connect(record.endpoints["d" if durable else "e"])

    def subscribe(self, prefixes: set[str]) -> None:
        """Hear these prefixes too, and probe anew: HEAD tells from where on."""
        for prefix in sorted(prefixes - self._prefixes):
            self._sock.setsockopt(zmq.SUBSCRIBE, prefix.encode())
        if prefixes - self._prefixes:
            self._prefixes |= prefixes
            self.sequences.widen()
            self.probe()

    def unsubscribe(self, prefix: str) -> None:
        """Hear no longer this prefix."""
        if prefix in self._prefixes:
            self._prefixes.remove(prefix)
            self._sock.setsockopt(zmq.UNSUBSCRIBE, prefix.encode())
            self.sequences.forget(prefix.rstrip("\0"))

    def probe(self) -> None:
        """Ask for a HEAD, behind all subscriptions made so far."""
        if self._probe:
            self._sock.setsockopt(zmq.UNSUBSCRIBE, self._probe)
        self._probe = topics.probe(self._token())
        self._sock.setsockopt(zmq.SUBSCRIBE, self._probe)
        self.live, self._probed_at = False, self._loop.time()

    def tick(self) -> None:
        """Probe again if no HEAD came; touching the socket also lets libzmq resend."""
        if not self.live and self._loop.time() - self._probed_at > HEAD_TIMEOUT_S:
            self.probe()

    def close(self) -> None:
        """Close the socket."""
        self._link.close()

    def _on_frame(self, frame: bytes) -> None:
        try:
            event = envelope.decode_event(frame)
            if event.nid != self.record.nid:
                self.rejects += 1
                return
            if event.topic.startswith("\xff"):
                self._on_head(envelope.decode_value(event.payload, Head))
                return
        except MeshError:
            self.rejects += 1
            return
        self.received += 1
        if self._durable:
            self._ears.on_event(event)
            return
        verdict, gap = self.sequences.frame(event.epoch, event.topic, event.seq)
        if gap is not None:
            self._ears.on_gap(gap)
        if verdict is DELIVER and self.sequences.synced:  # before HEAD: a snapshot covers it
            self._ears.on_event(event)

    def _on_head(self, head: Head) -> None:
        self.live = True
        began = False
        if not self._durable:
            heads = {t: s for t, s in head.heads.items() if self._hears(t)}
            began, gaps = self.sequences.head(head.epoch, heads)
            for gap in gaps:
                self._ears.on_gap(gap)
        self._ears.on_head(head, began)

    def _hears(self, topic: str) -> bool:
        return any(topics.matches(prefix, topic) for prefix in self._prefixes)
