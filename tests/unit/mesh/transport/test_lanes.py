"""Lanes by themselves; that they do what the whole way does is a property (tests/property)."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from mesh.protocol import envelope
from mesh.protocol.envelope import Event
from mesh.protocol.sequence import SequenceTracker
from mesh.transport import lanes as lanes_module
from mesh.transport.handled import because, cause_now
from mesh.transport.lanes import Lane, Lanes

NAMED = Event("a.x", 1, 7, 3, 0, b"")


def frame(seq: int, topic: str = "a.x", payload: bytes = b"\x01") -> bytes:
    return envelope.encode_event(Event(topic, 1, 7, 3, seq, payload, ts_sent=seq * 10))


class Receiver:
    """A tracker that is live, and lanes fed from a queue."""

    def __init__(self, give: Callable[[Any], object]) -> None:
        self.tracker = SequenceTracker()
        self.tracker.head(3, {"a.x": 0, "a.y": 0})
        self.judged: list[bytes] = []
        self.lanes = Lanes(self.tracker, self.judge)
        self.lanes.open(NAMED, Lane.to(give))
        self.queue: deque[bytes] = deque()
        self.ended: list[zmq.ZMQError] = []

    def judge(self, frame: bytes) -> int:
        self.judged.append(frame)
        return 1

    def recv(self, flags: int) -> bytes:
        assert flags == zmq.NOBLOCK
        if not self.queue:
            raise zmq.Again
        return self.queue.popleft()

    def drain(self, most: int = 64) -> int:
        return self.lanes.take(self.recv, self.end, most)

    def end(self, error: zmq.ZMQError) -> bool:
        self.ended.append(error)
        return False


def test_next_event_takes_its_lane_and_all_else_is_judged() -> None:
    got: list[int] = []
    receiver = Receiver(got.append)
    unusual = [frame(4), frame(1), frame(3, payload=b"\xc1"), frame(1, "a.y"), b"", frame(3)[:60]]
    receiver.queue += [frame(1), frame(2), *unusual, frame(3)]
    assert receiver.drain() == 9
    assert got == [1, 1, 1]
    assert receiver.judged == unusual
    assert receiver.tracker.expected["a.x"] == 4
    assert receiver.lanes.claim() == (3, 30)
    assert receiver.lanes.claim()[0] == 0


def test_drain_takes_no_more_than_it_may_and_tells_the_end_once() -> None:
    receiver = Receiver(lambda value: None)
    receiver.queue += [frame(seq) for seq in range(1, 6)]
    assert receiver.drain(3) == 3
    assert not receiver.ended
    assert receiver.drain(3) == 2
    assert [type(error) for error in receiver.ended] == [zmq.Again]
    assert receiver.drain(3) == 0


def test_what_a_handler_raises_comes_out_and_its_event_counts() -> None:
    def fail(value: object) -> None:
        raise zmq.Again  # not to be taken for the end of the frames

    receiver = Receiver(fail)
    receiver.queue += [frame(1), frame(2)]
    for _ in range(2):
        with pytest.raises(zmq.Again):
            receiver.drain()
    assert receiver.drain() == 0
    assert receiver.lanes.claim() == (2, 20)
    assert (receiver.tracker.frames, receiver.judged) == (2, [])


def test_lanes_closed_by_a_handler_are_closed_for_the_next_frame() -> None:
    receiver = Receiver(lambda value: receiver.lanes.clear())
    receiver.queue += [frame(1), frame(2)]
    receiver.drain()
    assert receiver.judged == [frame(2)]


def test_old_run_takes_no_lane() -> None:
    receiver = Receiver(lambda value: None)
    receiver.tracker.frame(4, "a.x", 1)  # of the next run, whose HEAD is still to come
    receiver.queue += [frame(2)]
    receiver.drain()
    assert receiver.judged == [frame(2)]


def test_what_has_no_lane_is_known_and_all_of_it_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes_module, "LANES_MAX", 3)
    receiver = Receiver(lambda value: None)
    others = [Event(topic, 1, 7, 3, 0, b"") for topic in ("a.y", "a.z", "b.x")]
    receiver.lanes.open(others[0], None)
    assert [receiver.lanes.knows(event) for event in (NAMED, *others)] == [
        True,
        True,
        False,
        False,
    ]
    receiver.lanes.open(others[1], None)
    assert receiver.lanes.knows(others[2])
    receiver.lanes.clear()
    assert not receiver.lanes.knows(NAMED)


def test_while_a_lane_hands_out_an_event_that_one_is_the_cause_of_all_that_is_done() -> None:
    seen: list[int | None] = []

    def note(value: object) -> None:
        cause = cause_now()
        seen.append(None if cause is None else cause.number)

    def handle(value: object) -> None:
        note(value)
        with because(None):
            note(value)

    def judge(data: bytes) -> int:
        note(data)
        return 1

    receiver = Receiver(handle)
    receiver.lanes._judge = judge
    receiver.queue += [frame(1), frame(1, "a.y"), frame(2)]
    receiver.drain()
    note(None)
    assert seen == [1, None, None, 2, None, None]
