"""Lanes: the short way of plain events, from the socket to the handler in one function.

A lane is found by the first bytes of a frame: topic, NUL and all of the header that does not
change from event to event. So one look into a table says that magic, wire, flags, schema,
publisher and epoch are those of an event that went the whole way before. What finds no lane,
or is not the very next of its topic, or cannot be decoded, goes the whole way: judge().

A frame costs 2.9 us here, of which recv is 0.5, the payload 0.7 and a plain handler 0.3.

Never here: verdicts about frames, what a lane's handler does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import zmq

from mesh.protocol.envelope import (
    PLAIN_TAIL_BYTES,
    Event,
    find_tail,
    plain_head,
    sent_ns_of,
    tail_seq,
)
from mesh.protocol.sequence import SequenceTracker
from mesh.transport.link import Ended, Recv

LANES_MAX: Final = 10_000
_NOBLOCK: Final = int(zmq.NOBLOCK)


@dataclass(frozen=True, slots=True)
class Lane:
    """What becomes of a topic's plain events: give(decode(payload)).

    decode raises whatever it likes; then the event goes the whole way.
    """

    decode: Callable[[bytes], Any]
    give: Callable[[Any], object]


class Lanes:
    """The lanes of one subscriber.

    tracker: what came so far; a frame is taken only if it is the next there, and is noted.
    judge: takes any other frame.
    """

    def __init__(self, tracker: SequenceTracker, judge: Callable[[bytes], None]) -> None:
        self._tracker, self._judge = tracker, judge
        self._lanes: dict[bytes, tuple[str, int, Callable[[bytes], Any], Callable[[Any], object]]]
        self._lanes = {}
        self._known: set[bytes] = set()  # heads of frames without a lane
        self._width = 0  # of the head that was found last: mostly that of the next
        self._taken, self._sent_ns = 0, 0

    def knows(self, event: Event) -> bool:
        """Say whether it was settled how events like this go, or there is room for no more."""
        return len(self._known) >= LANES_MAX or plain_head(event) in self._known

    def open(self, event: Event, lane: Lane | None) -> None:
        """Let events like this take *lane*, or the whole way for good."""
        head = plain_head(event)
        self._known.add(head)
        if lane is not None:
            self._lanes[head] = event.topic, event.epoch, lane.decode, lane.give

    def clear(self) -> None:
        """Close all lanes; it may be called from within one."""
        self._known.clear()
        self._lanes.clear()

    def claim(self) -> tuple[int, int]:
        """Return how many events took lanes since the last call, and when the last was sent."""
        taken, self._taken = self._taken, 0
        return taken, self._sent_ns

    def take(self, recv: Recv, ended: Ended, most: int) -> int:
        """Take at most *most* frames; return how many. See Link's bulk."""
        lanes, tracker, judge, width = self._lanes, self._tracker, self._judge, self._width
        expected, quick, last = tracker.expected, 0, b""
        body = width + PLAIN_TAIL_BYTES
        try:
            for taken in range(most):
                try:
                    frame = recv(_NOBLOCK)
                except zmq.ZMQError as error:
                    ended(error)
                    return taken
                lane = lanes.get(frame[:width])
                if lane is None:
                    width = find_tail(frame)
                    body = width + PLAIN_TAIL_BYTES
                    lane = lanes.get(frame[:width])
                if lane is None:
                    judge(frame)
                    continue
                topic, epoch, decode, give = lane
                try:
                    (seq,) = tail_seq(frame, width)
                    is_next = seq == expected[topic] and epoch == tracker.epoch and tracker.synced
                    value = decode(frame[body:])
                except Exception:  # noqa: BLE001  # whatever bytes do to a decoder is judged elsewhere
                    judge(frame)
                    continue
                if not is_next:
                    judge(frame)
                    continue
                expected[topic] = seq + 1
                last = frame
                quick += 1
                give(value)
            return most
        finally:
            self._width = width
            if quick:
                tracker.frames += quick
                self._taken += quick
                self._sent_ns = sent_ns_of(last)
