"""Lanes: the short way of plain events, from the socket to the handler in one function.

A lane is found by the first bytes of a frame: topic, NUL and all of the header that does not
change from event to event. So one look into a table says that magic, wire, flags, schema,
publisher and epoch are those of an event that went the whole way before. What finds no lane,
or is not the very next of its topic, or cannot be decoded, goes the whole way: judge().

A frame costs 2.9 us here, of which recv is 0.5, the payload 0.7 and a plain handler 0.3. A
bundle is handed out whole, also if its handler closes the link meanwhile.

Never here: verdicts about frames, what a lane's handler does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import Any, Final, Self, TypeAlias

import zmq

from mesh.protocol.cause import Cause, following
from mesh.protocol.envelope import (
    BUNDLE,
    PLAIN_TAIL_BYTES,
    Event,
    bundle_count,
    decode_event,
    find_tail,
    first_event,
    is_bundle,
    plain_head,
    raw_decoder,
    sent_ns_of,
    tail_seq,
)
from mesh.protocol.sequence import SequenceTracker
from mesh.transport.handled import in_lane
from mesh.transport.link import Ended, Recv

LANES_MAX: Final = 10_000
_NOBLOCK: Final = int(zmq.NOBLOCK)


@dataclass(frozen=True, slots=True)
class Lane:
    """What becomes of a topic's plain events: give(decode(payload)).

    Of those that come in a bundle: give_all(decode_all(payload)). What decodes raises whatever
    it likes; then the events go the whole way.
    """

    decode: Callable[[bytes], Any]
    give: Callable[[Any], object]
    decode_all: Callable[[bytes], list[Any]]
    give_all: Callable[[Iterable[Any]], object]

    @classmethod
    def to(cls, call: Callable[[Any], object], kind: Any = None) -> Self:
        """Return the lane of a handler that is called for each event with its *kind*."""

        def call_each(values: Iterable[Any]) -> None:
            for value in values:
                call(value)

        return cls(raw_decoder(kind), call, raw_decoder(list_of(kind)), call_each)


def list_of(kind: Any) -> Any:
    """Return the type of a bundle's payload; kind: of one event, None for any."""
    return list[Any] if kind is None else list[kind]


_Way: TypeAlias = tuple[str, int, bool, Callable[[bytes], Any], Callable[[Any], object]]


class Lanes:
    """The lanes of one subscriber; while one of its handlers runs, what is handled now.

    tracker: what came so far; a frame is taken only if it is the next there, and is noted.
    judge: takes any other frame; returns how many events it was.
    """

    def __init__(self, tracker: SequenceTracker, judge: Callable[[bytes], int]) -> None:
        self._tracker, self._judge = tracker, judge
        self._lanes: dict[bytes, _Way] = {}  # topic, epoch, of bundles, decode, give
        self._known: set[bytes] = set()  # heads of frames without a lane
        self._width = 0  # of the head that was found last: mostly that of the next
        self._taken, self._sent_ns = 0, 0
        self._last = b""  # the frame whose handler runs
        self._bundled = 0  # events of the bundle whose handler runs
        self._left: Iterator[Any] = iter(())  # and those still to come

    def knows(self, event: Event) -> bool:
        """Say whether it was settled how events like this go, or there is room for no more."""
        return len(self._known) >= LANES_MAX or plain_head(event) in self._known

    def open(self, event: Event, lane: Lane | None) -> None:
        """Let events like this take *lane*, or the whole way for good."""
        head = plain_head(event)
        self._known.add(head)
        if lane is not None:
            topic, epoch = event.topic, event.epoch
            self._lanes[head] = topic, epoch, False, lane.decode, lane.give
            head = plain_head(event, BUNDLE)
            self._lanes[head] = topic, epoch, True, self._unbundled(lane), lane.give_all

    def clear(self) -> None:
        """Close all lanes; it may be called from within one."""
        self._known.clear()
        self._lanes.clear()

    def claim(self) -> tuple[int, int]:
        """Return how many events took lanes since the last call, and when the last was sent."""
        taken, self._taken = self._taken, 0
        return taken, self._sent_ns

    def follows(self) -> Cause | None:
        """Return the cause of what the handler does that runs now, None if none of a lane."""
        frame = self._last
        if not frame:
            return None
        if not is_bundle(frame):
            return decode_event(frame).follows()
        cause = first_event(frame).follows()
        number = cause.number + self._bundled - length_hint(self._left) - 1
        return following(None, cause.nid, cause.epoch, number, cause.name, cause.ts_recv)

    def take(self, recv: Recv, ended: Ended, most: int) -> int:
        """Take frames until *most* events are handed out or none is left; see Link's bulk.

        Return how many: a bundle may make it more than *most*, less means that none is left.
        """
        lanes, tracker, judge, width = self._lanes, self._tracker, self._judge, self._width
        expected, quick, taken, last = tracker.expected, 0, 0, b""
        body, in_lane[0] = width + PLAIN_TAIL_BYTES, self
        try:
            while taken < most:
                try:
                    frame = recv(_NOBLOCK)
                except zmq.ZMQError as error:
                    ended(error)
                    return taken
                lane = lanes.get(frame[:width])
                if lane is None:
                    width = find_tail(frame)
                    body = width + PLAIN_TAIL_BYTES
                    lane = lanes.get(frame[:width], _NO_LANE)
                topic, epoch, bundled, decode, give = lane
                try:
                    (seq,) = tail_seq(frame, width)
                    is_next = seq == expected[topic] and epoch == tracker.epoch and tracker.synced
                    events = bundle_count(frame, body) if bundled else 1
                    value = decode(frame[body:])
                except Exception:  # noqa: BLE001  # whatever bytes do to a decoder is judged elsewhere
                    is_next = False
                if not is_next:
                    self._last = b""  # what is done now is not because of an earlier event
                    taken += judge(frame)
                    continue
                taken += events
                quick += events
                expected[topic] = seq + events
                self._last = last = frame
                give(value)
            return taken
        finally:
            self._width, self._last, in_lane[0] = width, b"", None
            if quick:
                tracker.frames += quick
                self._taken += quick
                self._sent_ns = sent_ns_of(last)

    def _unbundled(self, lane: Lane) -> Callable[[bytes], Iterator[Any]]:
        def decode(payload: bytes) -> Iterator[Any]:
            values = lane.decode_all(payload)
            self._bundled, self._left = len(values), iter(values)
            return self._left

        return decode


def _nothing(_: object) -> None:
    """Take nothing."""


_NO_LANE: Final[_Way] = ("", 0, False, _nothing, _nothing)  # no topic is named so: nothing is next
