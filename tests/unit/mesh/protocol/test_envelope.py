"""Envelope: golden frames stay what they are, and no bytes crash the decoder."""

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.envelope import ERR, REQ, Event, Rpc

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


def test_golden_event_frame() -> None:
    assert envelope.encode_event(EVENT) == GOLDEN
    assert envelope.decode_event(GOLDEN) == EVENT


def test_plain_msgpack_reads_the_payload() -> None:
    assert msgpack.unpackb(envelope.decode_event(GOLDEN).payload) == ["BTC-USDT.X", "1.5"]


def test_request_frame_comes_back_whole() -> None:
    rpc = Rpc(REQ, envelope.method_id("risk.submit"), 5, 6, b"\x90", 500, 2, 10, b"k" * 16)
    frame = envelope.encode_rpc(rpc)
    assert len(frame) == envelope.RPC_HEADER_BYTES + 1
    assert envelope.decode_rpc(frame) == rpc


def test_frames_above_the_cap_are_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        envelope.encode_event(EVENT, 50)
    with pytest.raises(LocalProtocolError):
        envelope.encode_rpc(Rpc(ERR, 0, 0, 0, bytes(100)), 100)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0",
        GOLDEN[:40],
        GOLDEN.replace(b"\xe7", b"\xe6"),
        GOLDEN.replace(b"\xe7\x01\x01\x00", b"\xe7\x01\x01\x01"),  # an unknown flag of weight
        GOLDEN.replace(b"\xaa\x01\x00\x00\x00", b"\xaa\xff\xff\x00\x00"),  # ext longer than all
        b"\xfe" + GOLDEN[1:],
    ],
)
def test_faulty_event_frames_are_rejected(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_event(frame)


@given(st.binary(max_size=200), st.integers(0, len(GOLDEN)))
def test_no_bytes_crash_a_decoder(noise: bytes, cut: int) -> None:
    for decode in (envelope.decode_event, envelope.decode_rpc, envelope.decode_value):
        for frame in (noise, GOLDEN[:cut] + noise):
            with contextlib.suppress(RemoteProtocolError):
                assert decode(frame) is not NotImplemented  # anything else would raise here


def test_deeply_nested_payload_is_a_reject() -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_value(b"\x91" * 100_000)


def test_node_ids_differ_by_cluster() -> None:
    assert envelope.node_id("a", "risk") != envelope.node_id("b", "risk")
