"""A lane changes nothing but the time it takes: whatever comes, it does what the whole way does.

Two subscribers get the same frames, in drains of any length: one may take lanes, one may not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.bundle import Bundle
from mesh.protocol.control import Head
from mesh.protocol.envelope import BUNDLE_MAX, MUST_UNDERSTAND, RAW, TOMBSTONE, Event
from mesh.protocol.outbound import Outbound
from mesh.protocol.sequence import Gap
from mesh.protocol.sync import LIVE
from mesh.transport.lanes import Lane
from mesh.transport.pubsub import Ears, Subscriber

NID, CAP_BYTES = 7, 16 * 1024
FATES = ("sent", "sent", "sent", "sent", "lost", "twice", "late", "cut", "forged", "bent")
PAYLOADS = (b"\x01", b"\x02", b"\x03", b"\xa1x", b"", b"\xc1")  # integers, and what is none
FLAGS = (0, 0, 0, 0, TOMBSTONE, RAW, MUST_UNDERSTAND & 0x200)

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"),
            st.sampled_from(("a.x", "a.y", "b.x")),
            st.sampled_from(PAYLOADS),
            st.sampled_from(FATES),
            st.sampled_from(FLAGS),
            st.sampled_from((b"", b"", b"", b"\x80")),
            st.sampled_from((1, 1, 1, 2)),
        ),
        st.tuples(
            st.just("burst"),
            st.sampled_from(("a.x", "a.y", "b.x")),
            st.lists(st.sampled_from((1, 2, "text")), min_size=1, max_size=5),
            st.sampled_from(FATES),
        ),
        st.tuples(st.sampled_from(("restart", "head", "drop", "reroute", "tick"))),
    ),
    max_size=60,
)


class Hearer:
    """A subscriber without a socket, and all that its owner is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, lanes: bool) -> None:
        self.told: list[object] = []
        self.down: deque[bytes] = deque()
        self.fast = 0
        self.subscriber = Subscriber(
            loop,
            lambda: pytest.fail("opens no socket"),
            NID,
            Ears(
                self.on_event,
                lambda head, began: self.told.append((head, began)),
                self.told.append,
                on_drained=self.on_drained,
                lane=self.lane if lanes else lambda topic: None,
            ),
            durable=False,
            token=count(1).__next__,
        )
        self.sync = self.subscriber.sync
        self.sync.want({"a."}, 0.0)
        self.sync.opened(0.0)

    def lane(self, topic: str) -> Lane | None:
        if topic == "a.y":
            return None  # its handler wants more than the payload
        return Lane.to(lambda value: self.told.append((topic, value)), int)

    def on_event(self, event: Event) -> None:
        try:
            self.told.append((event.topic, envelope.decode_value(event.payload, int)))
        except RemoteProtocolError:
            self.told.append("reject")

    def on_drained(self, taken: int, sent_ns: int) -> None:
        self.fast += taken
        assert not taken or sent_ns == 5

    def drain(self, most: int) -> None:
        """Take all that is down, in turns of *most* or, with a bundle at the end, some more."""
        while self.down:
            taken = self.subscriber._lanes.take(self.recv, lambda error: False, most)
            assert taken < most + BUNDLE_MAX
            assert taken >= most or not self.down
            self.subscriber._on_drained()

    def recv(self, flags: int) -> bytes:
        if not self.down:
            raise zmq.Again
        return self.down.popleft()

    @property
    def counted(self) -> object:
        tracker = self.sync.tracker
        return (
            *(tracker.frames, tracker.duplicates, tracker.stale, tracker.missed, tracker.epoch),
            *(tracker.synced, tracker.expected, self.sync.state),
            *(self.subscriber.received, self.subscriber.rejects.total),
        )


class Wire:
    """A publisher and what its frames go through."""

    def __init__(self) -> None:
        self.epoch, self.late = 0, list[bytes]()
        self.restart()

    def restart(self) -> None:
        self.epoch += 1
        self.out = Outbound(NID, self.epoch, CAP_BYTES)

    def burst(self, topic: str, values: list[int | str], fate: str) -> list[bytes]:
        """Say *values* at once; the first goes alone, the others as one frame."""
        said: list[bytes] = []
        bundle = Bundle(said.append, lambda act: None)
        voice = self.out.voice(topic, 1, keep=False, bundle=bundle, now_ns=lambda: 5)
        for value in values:
            voice(value, 5)
        bundle.flush()
        assert len(said) == min(len(values), 2)
        *before, last = said
        return before + self.fated(last, Event(topic, 1, NID, self.epoch, 1, b"\x01"), fate)

    def frames(self, event: Event, fate: str) -> list[bytes]:
        return self.fated(self.out.frame(event), event, fate)

    def fated(self, frame: bytes, event: Event, fate: str) -> list[bytes]:
        sent = {
            "sent": [frame],
            "lost": [],
            "twice": [frame, frame],
            "late": [],
            "cut": [frame[: len(event.topic) + 20], frame[: len(event.topic) + 40]],
            "forged": [envelope.encode_event(msgspec.structs.replace(event, nid=8))],
            "bent": [frame[:-1] + b"\xc1", frame],
        }[fate]
        if fate == "late":
            self.late.append(frame)
        elif self.late and fate == "sent":
            sent.append(self.late.pop())
        return sent

    def head(self, probe: bytes) -> list[bytes]:
        return self.out.answer(probe, lambda prefix: True)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def on_both(hearers: list[Hearer], act: Callable[[Hearer], object]) -> None:
    for hearer in hearers:
        act(hearer)


def walk(hearers: list[Hearer], wire: Wire, step: tuple[object, ...]) -> None:
    match step:
        case ("event", str(topic), bytes(payload), str(fate), int(flags), bytes(ext), int(schema)):
            try:
                sent = wire.frames(
                    Event(topic, schema, NID, wire.epoch, 1, payload, flags, 0, 5, 5, ext), fate
                )
            except LocalProtocolError:
                return  # unknown flags: nobody says that
            on_both(hearers, lambda h: h.down.extend(sent))
        case ("burst", str(topic), list(values), str(fate)):
            sent = wire.burst(topic, values, fate)
            on_both(hearers, lambda h: h.down.extend(sent))
        case ("restart",):
            wire.restart()
        case ("head",):
            on_both(hearers, lambda h: h.down.extend(wire.head(h.sync.probe)))
        case ("reroute",):
            on_both(hearers, lambda h: h.subscriber.reroute())
        case ("drop",):
            on_both(hearers, lambda h: h.sync.drop("a."))
            on_both(hearers, lambda h: h.sync.want({"a."}, 0.0))
        case _:
            on_both(hearers, lambda h: h.sync.tick(0.0))


@given(given_steps=steps, drains=st.lists(st.integers(1, 9), min_size=1, max_size=9))
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_lanes_deliver_report_and_count_what_the_whole_way_does(
    loop: asyncio.AbstractEventLoop, given_steps: list[tuple[object, ...]], drains: list[int]
) -> None:
    hearers = [Hearer(loop, lanes=True), Hearer(loop, lanes=False)]
    fast, full = hearers
    wire = Wire()
    walk(hearers, wire, ("head",))
    for number, step in enumerate(given_steps):
        walk(hearers, wire, step)
        if number % 3 == 0:
            for hearer in hearers:
                hearer.drain(drains[number % len(drains)])
            assert fast.told == full.told
            assert fast.counted == full.counted
    for hearer in hearers:
        hearer.drain(1_000)
    assert fast.told == full.told
    assert fast.counted == full.counted
    assert full.fast == 0


def test_lanes_are_taken_at_all(loop: asyncio.AbstractEventLoop) -> None:
    hearer, wire = Hearer(loop, lanes=True), Wire()
    hearer.down.extend(wire.head(hearer.sync.probe))
    for _ in range(9):
        for topic in ("a.x", "a.y"):
            event = Event(topic, 1, NID, wire.epoch, 0, b"\x01", ts_recv=5, ts_sent=5)
            hearer.down.extend(wire.frames(event, "sent"))
    hearer.drain(1_000)
    assert hearer.sync.state is LIVE
    assert isinstance(hearer.told[0], tuple)
    assert isinstance(hearer.told[0][0], Head)
    assert hearer.told[1:] == [("a.x", 1), ("a.y", 1)] * 9
    assert hearer.fast == 8  # the first of a topic opens its lane
    assert not [told for told in hearer.told if isinstance(told, Gap)]
