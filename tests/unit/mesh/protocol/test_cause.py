"""Cause: it survives its frames, costs nothing where there is none; hostile ones are rejects."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.cause import (
    CAUSE_KEY,
    NAME_CHARS_MAX,
    RECV_KEY,
    TRACE_KEY,
    Cause,
    decode_cause,
    encode_cause,
    following,
    root_trace,
)
from mesh.protocol.envelope import EXT_KEY, REQ, RPC_MAX_BYTES, TRACED, Event, Rpc
from mesh.protocol.outbound import Outbound

CAUSE = Cause(root_trace(1, 2, 3, "md.trade.x"), 1, 2, 3, "md.trade.x", 77)
TOLD: dict[Any, Any] = {TRACE_KEY: 5, CAUSE_KEY: [1, 2, 3, "a"]}

u32, u64 = (st.integers(0, 2**bits - 1) for bits in (32, 64))
causes = st.builds(Cause, u64, u32, u64, u64, st.text(max_size=NAME_CHARS_MAX), u64)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 9), inner),
    max_leaves=9,
)


def event(cause: Cause | None, payload: bytes = b"\x01", cap_bytes: int = 4096) -> Event:
    """Return what a reader makes of an event that follows from *cause*."""
    out = Outbound(7, 8, cap_bytes)
    return envelope.decode_event(
        out.frame(out.traced(Event("a.b", 9, 0, 0, 0, payload, ts_sent=99), cause))
    )


@given(causes)
def test_cause_survives_ext_event_and_request(cause: Cause) -> None:
    assert decode_cause(encode_cause(cause, ts_recv=True)) == cause
    assert decode_cause(encode_cause(cause), cause.ts_recv) == cause
    read = event(cause)
    assert read.ts_recv == (cause.ts_recv or 99)
    assert read.cause == Cause(
        cause.trace, cause.nid, cause.epoch, cause.number, cause.name, read.ts_recv
    )
    asked = Rpc(REQ, 1, 2, 3, b"\x90", cause=cause)
    assert envelope.decode_rpc(envelope.encode_rpc(asked)) == asked


def test_without_a_cause_not_a_byte_is_added() -> None:
    read = event(None)
    assert (read.flags, read.ext, read.cause, read.ts_recv) == (0, b"", None, 99)
    frame = envelope.encode_rpc(Rpc(REQ, 1, 2, 3, b"\x90"))
    assert (frame[3], len(frame)) == (0, 49)


def test_a_reader_that_knows_no_causes_finds_the_same_payload_and_body() -> None:
    read = event(CAUSE, b"\x93\x01\x02\x03")
    assert (read.flags, read.payload) == (TRACED, b"\x93\x01\x02\x03")
    assert msgpack.unpackb(read.ext, strict_map_key=False) == {
        2: CAUSE.trace,
        3: [1, 2, 3, "md.trade.x"],
    }
    frame = envelope.encode_rpc(Rpc(REQ, 1, 2, 3, b"\x90", cause=CAUSE))
    size = int.from_bytes(frame[48:50], "little")
    assert (frame[3], frame[50 + size :]) == (1, b"\x90")


def test_every_hearer_of_a_root_finds_the_same_trace_and_hands_it_on() -> None:
    root = event(None)
    first = root.follows()
    assert first == Cause(root_trace(7, 8, 1, "a.b"), 7, 8, 1, "a.b", 99)
    assert first == event(None).follows()
    second = event(first).follows()
    assert (second.trace, second.ts_recv) == (first.trace, 99)
    assert following(second, 1, 2, 3, "c", 4).trace == first.trace


@given(st.tuples(u32, u64, u64, st.text()), st.tuples(u32, u64, u64, st.text()))
def test_other_roots_have_other_traces_of_eight_bytes(
    one: tuple[int, int, int, str], other: tuple[int, int, int, str]
) -> None:
    assert (root_trace(*one) == root_trace(*other)) is (one == other)
    assert 1 << 63 <= root_trace(*one) < 1 << 64


def test_an_event_of_the_journal_is_named_by_its_offset() -> None:
    assert Event("a", 1, 2, 3, 4, b"", offset=5).follows().number == 5
    assert Event("a", 1, 2, 3, 4, b"").follows().number == 4


def test_unknown_keys_and_elements_are_ignored_and_names_may_be_missing() -> None:
    more = {**TOLD, EXT_KEY: "key", 9: [None], CAUSE_KEY: [1, 2, 3, "a", "later"]}
    assert decode_cause(msgpack.packb(more), 6) == Cause(5, 1, 2, 3, "a", 6)
    assert decode_cause(msgpack.packb({**TOLD, CAUSE_KEY: [1, 2, 3]})) == Cause(5, 1, 2, 3, "")


def test_an_ext_that_tells_of_other_things_tells_of_no_cause() -> None:
    assert decode_cause(msgpack.packb({EXT_KEY: "key"})) is None


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"2": 5},
        {TRACE_KEY: 5},
        {CAUSE_KEY: [1, 2, 3]},
        {**TOLD, TRACE_KEY: -1},
        {**TOLD, TRACE_KEY: "x"},
        {**TOLD, CAUSE_KEY: [1, 2]},
        {**TOLD, CAUSE_KEY: [1 << 32, 2, 3]},
        {**TOLD, CAUSE_KEY: [1, 2, -3]},
        {**TOLD, CAUSE_KEY: [1, 2, 3, "a" * (NAME_CHARS_MAX + 1)]},
        {**TOLD, RECV_KEY: 1.5},
    ],
)
def test_what_is_no_cause_is_a_reject(told: object) -> None:
    ext = msgpack.packb(told)
    with pytest.raises(RemoteProtocolError):
        decode_cause(ext)
    frame = envelope.encode_event(Event("a", 1, 2, 3, 4, b"", TRACED, ext=ext))
    with pytest.raises(RemoteProtocolError):
        envelope.decode_event(frame)
    asked = bytearray(envelope.encode_rpc(Rpc(REQ, 1, 2, 3)))
    asked[3] = 1
    with pytest.raises(RemoteProtocolError):
        envelope.decode_rpc(bytes(asked) + len(ext).to_bytes(2, "little") + ext)


@given(st.binary(max_size=99) | plain.map(msgpack.packb))
def test_any_bytes_are_a_cause_none_or_a_reject(ext: bytes) -> None:
    try:
        found = decode_cause(ext)
    except RemoteProtocolError:
        return
    assert found is None or decode_cause(encode_cause(found, ts_recv=True)) == found


def test_an_event_or_request_without_room_goes_without_its_cause() -> None:
    room = 100 - len("a.b") - 1 - envelope.EVENT_HEADER_BYTES
    full = event(CAUSE, bytes(room), 100)
    assert (full.cause, full.ts_recv, len(full.payload)) == (None, 77, room)
    body = bytes(RPC_MAX_BYTES - envelope.RPC_HEADER_BYTES)
    read = envelope.decode_rpc(envelope.encode_rpc(Rpc(REQ, 1, 2, 3, body, cause=CAUSE)))
    assert (read.cause, read.body) == (None, body)
