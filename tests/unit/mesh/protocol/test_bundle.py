"""Bundle: a burst on one topic is a frame or two, and the same events as ever."""

from collections.abc import Callable

import pytest

from mesh.errors import RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.bundle import BURST_NS, Bundle
from mesh.protocol.envelope import BUNDLE, BUNDLE_MAX, TOMBSTONE, Event, decode_events
from mesh.protocol.outbound import Outbound, Voice

NID, RUN, CAP_BYTES = 7, 3, 1_024


class Teller:
    """A publisher with a clock of its own, whose turns end when the test says so."""

    def __init__(self) -> None:
        self.now, self.sent, self.ends = 1_000, list[bytes](), list[Callable[[], None]]()
        self.out = Outbound(NID, RUN, CAP_BYTES)
        self.bundle = Bundle(self.sent.append, self.ends.append)

    def voice(self, topic: str, *, keep: bool = False) -> Voice:
        return self.out.voice(topic, 9, keep=keep, bundle=self.bundle, now_ns=lambda: self.now)

    def end_turn(self) -> None:
        ends, self.ends[:] = self.ends.copy(), []
        for end in ends:
            end()

    @property
    def heard(self) -> list[tuple[str, int, object]]:
        events = [event for frame in self.sent for event in decode_events(frame)]
        return [(e.topic, e.seq, envelope.decode_value(e.payload)) for e in events]


def test_first_of_a_burst_goes_at_once_and_the_others_as_one_frame() -> None:
    teller = Teller()
    say = teller.voice("a.x")
    for value in range(1, 6):
        say(value, 0)
        teller.now += 3
    assert len(teller.sent) == 1
    teller.end_turn()
    assert len(teller.sent) == 2
    assert teller.heard == [("a.x", n, n) for n in range(1, 6)]
    _, *others = [event for frame in teller.sent for event in decode_events(frame)]
    assert {(e.ts_recv, e.ts_sent) for e in others} == {(1_003, 1_003)}  # the first one's
    teller.end_turn()
    assert len(teller.sent) == 2


def test_event_that_comes_alone_is_never_held() -> None:
    teller = Teller()
    say = teller.voice("a.x")
    for _ in range(3):
        say(1, 0)
        teller.now += BURST_NS
    assert len(teller.sent) == 3
    assert not teller.ends


def test_burst_of_two_is_two_plain_frames() -> None:
    teller = Teller()
    say = teller.voice("a.x")
    say(1, 0)
    say(2, 0)
    teller.end_turn()
    assert [envelope.decode_event(frame).flags for frame in teller.sent] == [0, 0]


@pytest.mark.parametrize("other", ["topic", "cause", "last value", "frame"])
def test_nothing_overtakes_what_is_held(other: str) -> None:
    teller = Teller()
    say, last = teller.voice("a.x"), teller.voice("v.x", keep=True)
    for value in (1, 2, 3):
        say(value, 5)
    match other:
        case "topic":
            teller.voice("b.x")(9, 5)
        case "cause":
            say(9, 6)
        case "last value":
            last(9, 5)
        case _:
            teller.bundle.flush()  # as a publisher does before whatever else it sends
            teller.sent.append(teller.out.frame(Event("b.x", 9, 0, 0, 0, b"\x09")))
    assert [value for _, _, value in teller.heard] == [1, 2, 3, 9]


def test_last_values_are_never_held() -> None:
    teller = Teller()
    say = teller.voice("v.x", keep=True)
    for value in (1, 2, 3):
        say(value, 0)
    assert len(teller.sent) == 3
    assert teller.out.last_values["v.x"].frame == teller.sent[-1]


def test_bundle_is_bounded_in_events_and_bytes() -> None:
    teller = Teller()
    small, large = teller.voice("a.x"), teller.voice("a.y")
    for value in range(3 * BUNDLE_MAX):
        small(value % 100, 0)
    for _ in range(20):
        large("x" * 300, 0)
    teller.end_turn()
    sizes = [len(decode_events(frame)) for frame in teller.sent]
    assert max(sizes) == BUNDLE_MAX
    assert max(map(len, teller.sent)) <= CAP_BYTES
    assert len(teller.heard) == 3 * BUNDLE_MAX + 20
    assert teller.out.heads == {"a.x": 3 * BUNDLE_MAX, "a.y": 20}


def bundle_of(payload: bytes, **fields: object) -> bytes:
    """Return a frame marked as a bundle whose payload is whatever is given."""
    given = {"flags": 0, **fields}
    frame = envelope.encode_event(Event("a.x", 9, NID, RUN, 1, payload, **given))  # type: ignore[arg-type]  # by name
    at = frame.index(0) + 1
    marked = bytearray(frame)
    marked[at + 3] |= BUNDLE >> 8
    return bytes(marked)


@pytest.mark.parametrize(
    "frame",
    [
        bundle_of(b"\x90"),
        bundle_of(b"\x91\x01"),  # one alone is no bundle
        bundle_of(b"\xdc" + (BUNDLE_MAX + 1).to_bytes(2, "big") + b"\x01" * (BUNDLE_MAX + 1)),
        bundle_of(b"\xdd\xff\xff\xff\xff"),
        bundle_of(b"\x01"),
        bundle_of(b""),
        bundle_of(b"\x92\x01"),
        bundle_of(b"\x92\x01\x02", flags=TOMBSTONE),
        bundle_of(b"\x92\x01\x02", offset=4),
        bundle_of(b"\x92\x01\x02", ext=b"\x80"),
        bundle_of(b"\x92\x01\x02")[:20],
    ],
)
def test_what_is_no_sound_bundle_is_a_reject(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_events(frame)
    with pytest.raises(RemoteProtocolError):
        envelope.decode_event(frame)  # where single events are expected


def test_one_bad_payload_is_no_reason_to_reject_the_others() -> None:
    frame = bundle_of(b"\x93\x01\xa1x\x03")
    assert [event.payload for event in decode_events(frame)] == [b"\x01", b"\xa1x", b"\x03"]
