"""Envelope: golden frames stay what they are, and every fault in one is told apart."""

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.envelope import (
    ERR,
    EXT_MAX_BYTES,
    MUST_UNDERSTAND,
    REPLAY,
    REQ,
    TOMBSTONE,
    TRACED,
    Event,
    Rpc,
)

EVENT = Event(
    topic="md.quote.BTC-USDT.X",
    schema=0x1001,
    nid=0xAABBCCDD,
    epoch=7,
    seq=3,
    payload=envelope.encode_value(["BTC-USDT.X", "1.5"]),
    offset=9,
    ts_recv=100,
    ts_sent=200,
    flags=1,
    ext=b"\x80",
)
GOLDEN = (
    b"md.quote.BTC-USDT.X\0"
    b"\xe7\x01\x01\x00\x01\x10\x00\x00\xdd\xcc\xbb\xaa\x01\x00\x00\x00"
    b"\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x64\0\0\0\0\0\0\0\xc8\0\0\0\0\0\0\0"
    b"\x80\x92\xaaBTC-USDT.X\xa31.5"
)
RPC = Rpc(REQ, envelope.method_id("risk.submit"), 5, 6, b"\x90", 500, 2, 10, b"k" * 16)
GOLDEN_RPC = (
    b"\xe8\x01\x03\x00"
    + RPC.method.to_bytes(4, "little")
    + b"\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0"
    b"\xf4\x01\0\0\x02\0\x0a\0kkkkkkkkkkkkkkkk\x90"
)

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
topic_texts = st.from_regex(r"\A[a-z!][a-z.é-]{0,40}\Z")
events = st.builds(
    Event,
    topic_texts,
    u32,
    u32,
    u64,
    u64,
    st.binary(max_size=20),
    u16,
    u64,
    u64,
    u64,
    st.binary(max_size=20) | st.just(bytes(EXT_MAX_BYTES + 1)),
)


def test_golden_event_frame() -> None:
    assert envelope.encode_event(EVENT) == GOLDEN
    assert envelope.decode_event(GOLDEN) == EVENT


def test_golden_request_frame() -> None:
    assert envelope.encode_rpc(RPC) == GOLDEN_RPC
    assert envelope.decode_rpc(GOLDEN_RPC) == RPC


def test_plain_msgpack_reads_the_payload() -> None:
    assert msgpack.unpackb(envelope.decode_event(GOLDEN).payload) == ["BTC-USDT.X", "1.5"]


@given(events)
def test_whatever_can_be_encoded_is_read_by_everybody(event: Event) -> None:
    try:
        frame = envelope.encode_event(event)
    except LocalProtocolError:
        assert len(event.ext) > EXT_MAX_BYTES or event.flags & MUST_UNDERSTAND
        return
    if event.flags & TRACED and event.ext:  # it promises a cause: see test_cause
        with contextlib.suppress(RemoteProtocolError):
            envelope.decode_event(frame)
    else:
        assert envelope.decode_event(frame) == event


@pytest.mark.parametrize("flags", [1 << 8, 1 << 15])
def test_event_that_nobody_would_read_is_our_own_fault(flags: int) -> None:
    with pytest.raises(LocalProtocolError):
        envelope.encode_event(Event("a", 1, 2, 3, 4, b"", flags))


def test_ext_that_nobody_would_read_is_our_own_fault() -> None:
    """It would have gone into a journal, to be rejected by every reader for ever."""
    with pytest.raises(LocalProtocolError):
        envelope.encode_event(Event("a", 1, 2, 3, 4, b"", ext=bytes(EXT_MAX_BYTES + 1)))


@given(topic_texts, u32, u32, u64, u64, u64, st.binary(max_size=20))
def test_plain_frame_is_an_ordinary_frame_made_sooner(
    topic: str, schema: int, nid: int, epoch: int, seq: int, ts_sent: int, payload: bytes
) -> None:
    event = Event(topic, schema, nid, epoch, seq, payload, ts_recv=5, ts_sent=ts_sent)
    head = envelope.plain_head(event)
    frame = head + envelope.plain_tail(seq, 5, ts_sent) + payload
    assert frame == envelope.encode_event(event)
    assert envelope.decode_event(frame) == event
    assert envelope.find_tail(frame) == len(head)
    assert envelope.tail_seq(frame, len(head)) == (seq,)
    assert envelope.sent_ns_of(frame) == ts_sent


@pytest.mark.parametrize(
    "other",
    [
        Event("a", 1, 2, 3, 4, b"", flags=TOMBSTONE),
        Event("a", 1, 2, 3, 4, b"", ext=b"x"),
        Event("a", 9, 2, 3, 4, b""),
        Event("a", 1, 9, 3, 4, b""),
        Event("a", 1, 2, 9, 4, b""),
        Event("a.b", 1, 2, 3, 4, b""),
    ],
)
def test_frames_with_anything_else_have_another_head(other: Event) -> None:
    head = envelope.plain_head(Event("a", 1, 2, 3, 0, b""))
    assert not envelope.encode_event(other).startswith(head)


@pytest.mark.parametrize("frame", [b"", b"\0", bytes(24), b"x" * 300])
def test_head_of_what_is_no_frame_is_that_of_no_event(frame: bytes) -> None:
    head = frame[: envelope.find_tail(frame)]
    assert len(head) < len(envelope.plain_head(Event("a", 1, 2, 3, 0, b"")))


def test_numbers_of_the_publisher_replace_those_of_the_event() -> None:
    frame = envelope.encode_numbered(EVENT, 1, 2, 3, 1000)
    numbered = envelope.decode_event(frame)
    assert (numbered.nid, numbered.epoch, numbered.seq, numbered.offset) == (1, 2, 3, EVENT.offset)
    frame = envelope.encode_numbered(EVENT, 1, 2, 3, 1000, offset=77)
    assert envelope.decode_event(frame).offset == 77


def test_reader_of_a_journal_marks_what_it_replays() -> None:
    frame = envelope.encode_event(Event("a", 1, 2, 3, 4, b"", TOMBSTONE))
    assert envelope.decode_event(frame, REPLAY).flags == TOMBSTONE | REPLAY


def test_probe_topics_keep_their_bytes() -> None:
    topic = b"\xff0123456789abcdef\x1emd.\xc3\xa9"
    frame = envelope.encode_event(Event(topic.decode("latin-1"), 1, 2, 3, 0, b""))
    assert frame.startswith(topic + b"\0")
    assert envelope.decode_event(frame).topic.encode("latin-1") == topic


def test_frames_above_the_cap_are_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        envelope.encode_event(EVENT, len(GOLDEN) - 1)
    assert envelope.encode_event(EVENT, len(GOLDEN)) == GOLDEN
    with pytest.raises(LocalProtocolError):
        envelope.encode_rpc(Rpc(ERR, 0, 0, 0, bytes(100)), 100)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        GOLDEN[:40],
        b"x" * 256 + GOLDEN[19:],  # a topic without end
        GOLDEN.replace(b"\xe7", b"\xe6"),
        GOLDEN.replace(b"\xe7\x01", b"\xe7\x02"),
        GOLDEN.replace(b"\xe7\x01\x01\x00", b"\xe7\x01\x01\x01"),  # an unknown flag of weight
        GOLDEN.replace(b"\xaa\x01\x00\x00\x00", b"\xaa\xff\xff\x00\x00"),  # ext above its cap
        GOLDEN.replace(b"\xaa\x01\x00\x00\x00", b"\xaa\x7f\x00\x00\x00"),  # ext behind the end
        b"\xfe" + GOLDEN[1:],
    ],
)
def test_faulty_event_frames_are_rejected(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_event(frame)


def test_ext_above_its_cap_is_rejected_although_it_is_there() -> None:
    size = EXT_MAX_BYTES + 1
    header = GOLDEN.replace(b"\xaa\x01\x00\x00\x00", b"\xaa" + size.to_bytes(4, "little"))
    with pytest.raises(RemoteProtocolError):
        envelope.decode_event(header + bytes(size))


def test_unknown_light_flags_are_ignored() -> None:
    assert envelope.decode_event(GOLDEN.replace(b"\xe7\x01\x01", b"\xe7\x01\x21")).flags == 0x21


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        GOLDEN_RPC[:47],
        b"\xe7" + GOLDEN_RPC[1:],
        b"\xe8\x02" + GOLDEN_RPC[2:],
        b"\xe8\x01\x00" + GOLDEN_RPC[3:],
        b"\xe8\x01\x0f" + GOLDEN_RPC[3:],
        b"\xe8\x01\x03\x10" + GOLDEN_RPC[4:],  # an unknown flag of weight
        b"\xe8\x01\x03\x01" + GOLDEN_RPC[4:],  # an ext of which there is half a length
        b"\xe8\x01\x03\x01" + GOLDEN_RPC[4:48] + b"\x02\0x",  # an ext behind the end
    ],
)
def test_faulty_request_frames_are_rejected(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_rpc(frame)


def test_ext_of_a_request_is_skipped() -> None:
    """A newer peer may send one; it used to be taken for the beginning of the body."""
    frame = b"\xe8\x01\x03\x01" + GOLDEN_RPC[4:48] + b"\x03\0\x81\x01\x02" + RPC.body
    assert envelope.decode_rpc(frame) == RPC


def test_conflation_key_tells_events_of_a_topic_apart() -> None:
    keyed = Event("a", 1, 2, 3, 4, b"", ext=envelope.encode_value({1: "BTC", 2: 7}))
    assert envelope.conflation_key(keyed) == "a BTC"


@pytest.mark.parametrize("ext", [b"", b"\x90", b"\xc1", envelope.encode_value({2: 1})])
def test_without_a_key_the_topic_is_the_key(ext: bytes) -> None:
    assert envelope.conflation_key(Event("a", 1, 2, 3, 4, b"", ext=ext)) == "a"


def test_prepared_decoders_decode_and_reject_alike() -> None:
    assert envelope.decoder()(b"\x92\x01\x02") == [1, 2]
    assert envelope.decoder(tuple[int, int])(b"\x92\x01\x02") == (1, 2)
    for kind in (None, int):
        with pytest.raises(RemoteProtocolError):
            envelope.decoder(kind)(b"\xc1")
        with pytest.raises(RemoteProtocolError):
            envelope.decode_value(b"\xc1", kind)


def test_node_ids_differ_by_cluster() -> None:
    assert envelope.node_id("a", "risk") != envelope.node_id("b", "risk")
