"""Publisher and Subscriber: the edges of mesh.protocol.outbound and mesh.protocol.sync.

Never here: decisions about sequences and probes, parsing of payloads, discovery.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from mesh.errors import MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.access import ANSWER, END, GRANT, SubscriptionGuard
from mesh.protocol.bundle import Bundle
from mesh.protocol.control import Head, Heartbeat
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.protocol.rejects import Rejects
from mesh.protocol.sequence import DELIVER, Gap
from mesh.protocol.sync import (
    LIVE,
    Close,
    Effect,
    LinkSync,
    Live,
    Open,
    Probe,
    Subscribe,
    Unsubscribe,
)
from mesh.transport.auth import user_of
from mesh.transport.lanes import Lane, Lanes
from mesh.transport.link import Link
from mesh.transport.mux import DURABLE, EVENTS

EVENT_CAP_BYTES: Final = 16 * 1024  # queue length x cap bounds a stalled peer's memory
DURABLE_CAP_BYTES: Final = 4 * 1024
_HEARTBEAT: Final = topics.HEARTBEAT + "\0"
_MESH_MARKS: Final = frozenset("\xff!")  # first letters of HEADs and of the mesh's own topics


def decode_single(frame: bytes) -> tuple[Event, ...]:
    """Return the one event in a frame of the durable plane, where no bundle may come."""
    return (envelope.decode_event(frame),)


class Publisher:
    """Publish the events of one plane; grant subscriptions, answer probes with HEADs."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: "zmq.SyncSocket",
        outbound: Outbound,
        guard: SubscriptionGuard,
        *,
        durable: bool = False,
    ) -> None:
        self.outbound, self._guard, self._loop, self._sock = outbound, guard, loop, sock
        self._rank = DURABLE if durable else EVENTS
        self._link = Link(loop, sock, framed=self._on_subscription, rank=self._rank)
        self.bundle = Bundle(self._link.post, loop.call_soon)

    def send(self, frame: bytes) -> None:
        """Send a frame that has its number, behind all that was said before it."""
        bundle = self.bundle
        if bundle.payloads:
            bundle.flush()
        bundle.post(frame)

    def publish(self, event: Event, *, keep: bool = False) -> None:
        """Number *event* and send it to whoever listens; see Outbound.frame."""
        self.send(self.outbound.frame(event, keep=keep))

    def rebind(self, sock: "zmq.SyncSocket") -> None:
        """Go on with a fresh socket in place of the old one, already closed: all peers come
        again, those that may."""
        self._guard.reset()  # what the old peers held has gone with them
        self._sock = sock
        self._link = Link(self._loop, sock, framed=self._on_subscription, rank=self._rank)
        self.bundle.post = self._link.post

    def close(self) -> None:
        """Send what is held and close the socket."""
        self.bundle.flush()
        self._link.close()

    def _on_subscription(self, frame: zmq.Frame) -> None:
        """Grant before the next frame is read: a grant goes to the peer read last."""
        user, data = user_of(frame), frame.bytes
        ruling = self._guard.judge(user, data, self._loop.time())
        if ruling is END:
            self._sock.setsockopt(zmq.UNSUBSCRIBE, data[1:])
        elif ruling is GRANT:
            self._sock.setsockopt(zmq.SUBSCRIBE, data[1:])
        elif ruling is ANSWER:
            self._sock.setsockopt(zmq.SUBSCRIBE, data[1:])
            grants = self._guard.access.of(user)
            self.bundle.flush()  # a HEAD counts what was said, and must not overtake it
            for page in self.outbound.answer(data[1:], grants.may_hear):
                self._link.send(page)


@dataclass(slots=True)
class Ears:
    """What a Subscriber tells its owner; none may raise.

    lane(topic): what takes the payload of a plain event where nobody needs the rest of it;
    call reroute() when its answers change. on_drained(taken, sent_ns): how many events took
    lanes since the last drain, and when the last of them was sent.
    """

    on_event: Callable[[Event], None]
    on_live: Callable[[Head, bool], None]  # True: a new run of the publisher began
    on_gap: Callable[[Gap], None]
    on_beacon: Callable[[Heartbeat], None] = lambda beacon: None
    on_drained: Callable[[int, int], None] = lambda taken, sent_ns: None
    on_trouble: Callable[[str], None] = lambda why: None
    lane: Callable[[str], Lane | None] = lambda topic: None


class Subscriber:
    """Hear one publisher on one plane, as LinkSync decides.

    nid: of the publisher; frames of another are forged and counted. connect: makes a new
    connected socket. rejects: what came that is no frame; too much of it silences the link.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], "zmq.SyncSocket"],
        nid: int,
        ears: Ears,
        *,
        durable: bool,
        token: Callable[[], int],
    ) -> None:
        self.nid, self._loop, self._connect, self._ears = nid, loop, connect, ears
        self._rank = DURABLE if durable else EVENTS
        self._decode = decode_single if durable else envelope.decode_events
        self.sync = LinkSync(token)
        self._on_event = ears.on_event
        self._lanes = Lanes(self.sync.tracker, self._judge)
        self.received = 0
        self.rejects = Rejects()
        self._link: Link | None = None
        self._sock: zmq.SyncSocket | None = None

    @property
    def live(self) -> bool:
        """Say whether a HEAD was heard, so that nothing is missed in silence."""
        return self.sync.state is LIVE and self.sync.tracker.synced

    def want(self, prefixes: set[str]) -> None:
        """Hear these prefixes too; on_live tells from when on nothing is missed in silence."""
        self._do(self.sync.want(prefixes | {_HEARTBEAT}, self._loop.time()))

    def drop(self, prefix: str) -> None:
        """Hear this prefix no longer."""
        self._do(self.sync.drop(prefix))

    def again(self) -> None:
        """Ask for a HEAD once more."""
        self._do(self.sync.again(self._loop.time()))

    def moved(self) -> None:
        """Connect anew: the publisher is elsewhere now."""
        self._do(self.sync.moved())

    def reroute(self) -> None:
        """Ask for the lanes anew."""
        self._lanes.clear()

    def tick(self) -> None:
        """Let time pass; touching the socket also lets libzmq resend subscriptions."""
        now = self._loop.time()
        if self._link is not None and self.rejects.ignoring(now):
            return
        self._do(self.sync.tick(now))

    def close(self) -> None:
        """Close the socket for good."""
        if self._link is not None:
            self._link.close()
        self._link = self._sock = None

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Gap():
                    self._ears.on_gap(effect)
                case Live(head, began):
                    self._ears.on_live(head, began)
                case Open():
                    self._open()
                case Close(why):
                    self.close()
                    self._ears.on_trouble(why)
                case _:
                    self._subscribe(effect)

    def _open(self) -> None:
        self.close()
        self._sock = self._connect()
        self._link = Link(
            self._loop,
            self._sock,
            bulk=self._lanes.take,
            rank=self._rank,
            on_drained=self._on_drained,
        )
        self._do(self.sync.opened(self._loop.time()))

    def _on_drained(self) -> None:
        taken, sent_ns = self._lanes.claim()
        self.received += taken
        self._ears.on_drained(taken, sent_ns)

    def _judge(self, frame: bytes) -> int:
        """Judge what is in a frame; return how many events that were."""
        try:
            events = self._decode(frame)
        except MeshError:
            self._reject()
            return 1
        for event in events:
            self._judge_event(event)
        return len(events)

    def _judge_event(self, event: Event) -> None:
        try:
            if event.nid != self.nid:
                self._reject()  # forged: this link has one publisher
                return
            if event.topic[0] in _MESH_MARKS and self._took(event):
                return
        except MeshError:
            self._reject()
            return
        self.received += 1
        verdict, gap = self.sync.frame(event.epoch, event.topic, event.seq)
        if gap is not None:
            self._ears.on_gap(gap)
        if verdict is DELIVER and not self.rejects.silenced:
            self._on_event(event)
            if not self._lanes.knows(event):
                self._lanes.open(event, self._ears.lane(event.topic))

    def _took(self, event: Event) -> bool:
        """Take what is for the link itself; return whether it is for nobody else."""
        if event.topic[0] == "\xff":
            self._on_head(event)
            return True
        if event.topic == topics.HEARTBEAT:
            self._on_beacon(event)
        return False

    def _on_head(self, event: Event) -> None:
        head = envelope.decode_value(event.payload, Head)
        self._do(self.sync.head(head, event.topic.encode("latin-1"), self._loop.time()))

    def _on_beacon(self, event: Event) -> None:
        beacon: Heartbeat = envelope.decode_value(event.payload, Heartbeat)
        for gap in self.sync.beacon(event.epoch, beacon.heads):
            self._ears.on_gap(gap)
        if event.epoch == self.sync.tracker.epoch and self.sync.tracker.synced:
            self._ears.on_beacon(beacon)

    def _reject(self) -> None:
        if self.rejects.reject(self._loop.time()):
            self.reroute()  # no lane is opened while the peer is silenced
            self._ears.on_trouble("too many frames that are none; ignored for a minute")

    def _subscribe(self, effect: Subscribe | Unsubscribe | Probe) -> None:
        sock = self._sock
        assert sock is not None, "a link without a socket asks for nothing"
        match effect:
            case Subscribe(prefix):
                sock.setsockopt(zmq.SUBSCRIBE, prefix.encode())
            case Unsubscribe(prefix):
                sock.setsockopt(zmq.UNSUBSCRIBE, prefix.encode())
            case Probe(topic, replaces):
                if replaces:
                    sock.setsockopt(zmq.UNSUBSCRIBE, replaces)
                sock.setsockopt(zmq.SUBSCRIBE, topic)
