"""Decoders: whatever bytes come, the answer is a value or RemoteProtocolError, nothing else.

Noise finds little behind the magic numbers, so most inputs are sound frames that were bent:
cut, repeated, with bits turned and lengths that lie. The seed is in the test's name.
"""

import datetime
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.protocol import control, envelope, topics
from mesh.protocol.control import Message, NodeState, Record, StreamHead
from mesh.protocol.envelope import (
    EVENT_HEADER_BYTES,
    MUST_UNDERSTAND,
    PLAIN_TAIL_BYTES,
    REQ,
    RPC_HEADER_BYTES,
    Event,
    Rpc,
)

KINDS = [kind for kind in Message.__subclasses__() if kind.__module__ == control.__name__]
BENT = 4_000  # inputs per seed
PEAK_BYTES_MAX = 1024 * 1024  # for an input that claims gigabytes

RECORD = Record("risk", 7, 3, 9, ("risk.submit",), {"order.": 2}, {"e": "ipc:///e"}, "log")
STREAM = StreamHead("risk", "log", 1, 9)
VALUES: list[object] = [
    RECORD,
    STREAM,
    control.Head(3, 1, 1, {"md.x": 4}, (STREAM,), ("order.",), 0, 1),
    control.Heartbeat(
        *(1, "ready", "SAFE", 2, 3, 4, 5, 6, 7, 1.5, 2.5, 8, 9), {"x": 1.0}, {"a": 1}, (STREAM,)
    ),
    control.Register(RECORD, "SAFE", 1),
    control.ModeChange("SAFE", 1, 2, "why", 3, "operator"),
    control.View(1, 2, (NodeState("risk", 3, "UP", 9),)),
    control.LogIndex("log", 5, ("order.a", "order.b")),
    control.FetchPage("log", (b"frame",), 9, 1, 12),
    control.SnapshotPage((b"frame",), "md.x"),
]
PAYLOADS = [envelope.encode_value(value) for value in VALUES]
EVENTS = [
    envelope.encode_event(Event("md.x", 1, 7, 3, 4, PAYLOADS[0])),
    envelope.encode_event(
        Event("order.a", 1, 7, 3, 4, PAYLOADS[1], 1, 9, 10, 11, b"\x81\x01\x02")
    ),
    envelope.encode_event(
        Event(topics.probe(9, {"a."}).decode("latin-1"), 1, 7, 3, 0, PAYLOADS[2])
    ),
]
REQUESTS = [
    envelope.encode_rpc(Rpc(REQ, 1, 2, 3, PAYLOADS[8], 500, 1, 10, b"k" * 16)),
    bytes.fromhex("e8010301") + bytes(44) + b"\x03\x00\x81\x01\x02\x90",
]
PROBES = [topics.probe(9), topics.probe(9, {"a.", "md.x\0"})]


def decoded(decode: Callable[[bytes], Any], frame: bytes) -> Any:
    """Return what *decode* makes of *frame*, None for a reject; any other error is a failure."""
    try:
        return decode(frame)
    except RemoteProtocolError:
        return None


def try_event(frame: bytes) -> None:
    """Decode *frame* as an event and, as far as that goes, all that is in it."""
    event = decoded(envelope.decode_event, frame)
    if event is not None:
        assert not event.flags & MUST_UNDERSTAND
        assert len(event.payload) + len(event.ext) + EVENT_HEADER_BYTES < len(frame)
        assert envelope.encode_event(event, 1 << 20) == frame
        assert isinstance(envelope.conflation_key(event), str)
        try_payload(event.payload)
        if event.topic.startswith("\xff"):
            topics.probed(event.topic.encode("latin-1"))
        if frame.startswith(envelope.plain_head(event)):  # a lane may take it
            at = envelope.find_tail(frame)
            assert (event.flags, event.ext) == (0, b"")
            assert envelope.tail_seq(frame, at) == (event.seq,)
            assert frame[at + PLAIN_TAIL_BYTES :] == event.payload
            assert envelope.sent_ns_of(frame) == event.ts_sent


def try_request(frame: bytes) -> None:
    rpc = decoded(envelope.decode_rpc, frame)
    if rpc is not None:
        assert len(rpc.body) + RPC_HEADER_BYTES <= len(frame)
        try_payload(rpc.body)


def try_payload(payload: bytes) -> None:
    decoded(envelope.decode_value, payload)
    for kind in KINDS:
        value = decoded(lambda frame, kind=kind: envelope.decode_value(frame, kind), payload)  # type: ignore[misc]
        assert value is None or isinstance(value, kind)


def try_probe(topic: bytes) -> None:
    listed = topics.probed(topic)
    if listed:
        again = topics.probe(int(topic[1:17], 16), listed)
        assert topics.probed(again) == tuple(sorted(listed))


def bent(frame: bytes, dice: Random, others: list[bytes]) -> bytes:
    """Return *frame* with one to three faults."""
    data = bytearray(frame)
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0:
                del data[at:]
            case 1 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 2 if at < len(data):
                data[at] = dice.choice(b"\x00\x01\x7f\x80\xc1\xc9\xd9\xdb\xdd\xdf\xff")
            case 3:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 4:
                other = dice.choice(others)
                data[at:] = other[dice.randrange(len(other)) :]
            case _:
                data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("attempt", "sound"),
    [
        pytest.param(try_event, EVENTS, id="events"),
        pytest.param(try_request, REQUESTS, id="requests"),
        pytest.param(try_payload, PAYLOADS, id="payloads"),
        pytest.param(try_probe, PROBES, id="probes"),
    ],
)
def test_a14_a15_bent_frames_are_values_or_rejects(
    attempt: Callable[[bytes], None], sound: list[bytes], seed: int
) -> None:
    dice = Random(f"{seed}:{attempt.__name__}")
    for frame in sound:
        attempt(frame)
    for _ in range(BENT):
        attempt(bent(dice.choice(sound), dice, sound))


noise = st.binary(max_size=120)
tails = st.tuples(st.sampled_from([*EVENTS, *REQUESTS, *PAYLOADS]), st.integers(0, 200), noise)


@settings(max_examples=2_000, deadline=None)
@given(noise | tails.map(lambda tail: tail[0][: tail[1]] + tail[2]))
def test_a14_a15_noise_is_a_value_or_a_reject(frame: bytes) -> None:
    for attempt in (try_event, try_request, try_probe):
        attempt(frame)


short = st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | short
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=500, deadline=None)
@given(st.lists(values, max_size=16))
def test_a15_a18_sound_messagepack_of_any_shape_is_a_value_or_a_reject(value: list[Any]) -> None:
    payload = envelope.encode_value(value)
    assert isinstance(envelope.decode_value(payload), list)
    try_payload(payload)
    try_event(envelope.encode_event(Event("a", 1, 2, 3, 4, b"", ext=payload[:4096])))


@settings(max_examples=1_500, deadline=None)
@given(st.binary(max_size=60).map(lambda tail: b"\xff0123456789abcdef" + tail) | noise)
def test_a10_any_subscription_is_a_probe_or_none(topic: bytes) -> None:
    try_probe(topic)


@pytest.mark.parametrize("size", range(len(EVENTS[1])))
def test_a14_every_cut_of_a_frame_is_a_value_or_a_reject(size: int) -> None:
    try_event(EVENTS[1][:size])
    try_request(REQUESTS[1][:size])


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0" * 60, b"\xe7" * 60, b"\xff" * 300])
def test_a14_frames_that_are_none_are_rejected(frame: bytes) -> None:
    for decode in (envelope.decode_event, envelope.decode_rpc):
        with pytest.raises(RemoteProtocolError):
            decode(frame)


TOO_DEEP = {
    "arrays": b"\x91" * 100_000,
    "maps": b"\x81\x01" * 100_000,
    "arrays that end": b"\x91" * 100_000 + b"\xc0",
}
LIES = {
    "array of 2^31": b"\xdd\x7f\xff\xff\xff",
    "array of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
    "map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
    "text of 2^32 - 1": b"\xdb\xff\xff\xff\xff",
    "bytes of 2^32 - 1": b"\xc6\xff\xff\xff\xff",
    "ext of 2^32 - 1": b"\xc9\xff\xff\xff\xff\x05",
    "array of arrays": b"\xdd\x7f\xff\xff\xff" * 200,
}
ODD = {
    "map as key": b"\x81\x81\x01\x02\x03",
    "bad UTF-8": b"\xa2\xc3\x28",
    "lone surrogate": b"\xa3\xed\xa0\x80",
    "time too far": b"\xc7\x0c\xff" + struct.pack(">Iq", 0, 2**62),
    "time with too many nanoseconds": b"\xc7\x0c\xff" + struct.pack(">Iq", 2**32 - 1, 0),
    "time of no size": b"\xc7\x03\xff\x01\x02\x03",
    "byte that means nothing": b"\xc1",
}


@pytest.mark.parametrize("payload", [*TOO_DEEP.values()], ids=[*TOO_DEEP])
def test_a16_depth_without_end_is_a_reject(payload: bytes) -> None:
    for kind in (None, *KINDS):
        with pytest.raises(RemoteProtocolError):
            envelope.decode_value(payload, kind)


@pytest.mark.parametrize("payload", [*LIES.values()], ids=[*LIES])
@pytest.mark.parametrize("prefix", [b"", b"\x93\xa1a\x01"], ids=["alone", "inside"])
def test_a16_claimed_length_allocates_nothing(prefix: bytes, payload: bytes) -> None:
    tracemalloc.start()
    try:
        for kind in (None, *KINDS):
            with pytest.raises(RemoteProtocolError):
                envelope.decode_value(prefix + payload, kind)
        assert tracemalloc.get_traced_memory()[1] < PEAK_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("payload", [*ODD.values()], ids=[*ODD])
def test_a16_what_no_value_can_be_is_a_reject(payload: bytes) -> None:
    for kind in (None, *KINDS):
        with pytest.raises(RemoteProtocolError):
            envelope.decode_value(payload, kind)


@pytest.mark.parametrize("depth", [10, 500, 900, 1_000, 1_300])
def test_a16_conflation_key_of_any_depth_is_a_key(depth: int) -> None:
    ext = b"\x81\x01" + b"\x91" * depth + b"\xc0"
    assert envelope.conflation_key(Event("a", 1, 2, 3, 4, b"", ext=ext)).startswith("a")


def test_a16_list_as_key_is_no_message() -> None:
    """Without a schema it is a value, its key a tuple; no message has room for it."""
    payload = b"\x81\x91\x01\x02"
    assert envelope.decode_value(payload) == {(1,): 2}
    for kind in KINDS:
        with pytest.raises(RemoteProtocolError):
            envelope.decode_value(payload, kind)


class Trap:
    """What a pickle could do to whoever loads it."""

    sprung: list[int] = []  # noqa: RUF012  # that it is shared is the point

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Trap.sprung.append, (1,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a17_pickles_are_bytes_like_any_other(protocol: int) -> None:
    data = pickle.dumps(Trap(), protocol)
    for attempt in (try_event, try_request, try_payload, try_probe):
        attempt(data)
    envelope.decode_event(EVENTS[0][: 5 + EVENT_HEADER_BYTES] + data)
    for kind in (None, *KINDS):
        with suppress(RemoteProtocolError):
            envelope.decode_value(data, kind)
    assert not Trap.sprung


def with_wire(frame: bytes, at: int, wire: int) -> bytes:
    return frame[:at] + bytes([wire]) + frame[at + 1 :]


@pytest.mark.parametrize("wire", [0, 2, 255])
def test_a18_other_versions_of_the_wire_are_rejected(wire: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"wire {wire}"):
        envelope.decode_event(with_wire(EVENTS[0], 6, wire))
    with pytest.raises(RemoteProtocolError, match=f"wire {wire}"):
        envelope.decode_rpc(with_wire(REQUESTS[0], 1, wire))


@pytest.mark.parametrize("bit", range(16))
def test_a18_flags_of_weight_must_be_understood_and_others_need_not(bit: int) -> None:
    frame = bytearray(EVENTS[0])
    frame[7 + bit // 8] |= 1 << bit % 8
    if 1 << bit & MUST_UNDERSTAND:
        with pytest.raises(RemoteProtocolError):
            envelope.decode_event(bytes(frame))
    else:
        assert envelope.decode_event(bytes(frame)).flags == 1 << bit


@pytest.mark.parametrize("bit", range(4, 8))
def test_a18_flags_of_weight_in_a_request_must_be_understood(bit: int) -> None:
    frame = bytearray(REQUESTS[0])
    frame[3] |= 1 << bit
    with pytest.raises(RemoteProtocolError):
        envelope.decode_rpc(bytes(frame))


@pytest.mark.parametrize("kind", [0, 15, 200, 255])
def test_a18_unknown_kinds_of_request_are_rejected(kind: int) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_rpc(with_wire(REQUESTS[0], 2, kind))


def test_a18_unknown_schema_is_an_event_like_any_other() -> None:
    """Whether it is known is for the one who hears it to say."""
    event = Event("a", 0xFFFF_FFFF, 1, 2, 3, msgpack.packb([1]))
    assert envelope.decode_event(envelope.encode_event(event)) == event


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a18_message_of_a_newer_version_keeps_what_is_known(kind: type[Message]) -> None:
    for value, payload in zip(VALUES, PAYLOADS, strict=True):
        if isinstance(value, kind):
            fields = [*msgpack.unpackb(payload, strict_map_key=False), {"new": [1, 2]}, None]
            assert envelope.decode_value(envelope.encode_value(fields), kind) == value


def test_times_of_messagepack_are_values() -> None:
    sent = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    assert envelope.decode_value(envelope.encode_value(sent)) is not None
