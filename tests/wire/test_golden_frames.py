"""Golden frames: these bytes, read without our code, say what they always said; and our code
makes exactly these bytes.

Made anew by `.venv/bin/python -m tests.wire.golden_frames`.
"""

import json
from typing import Any

import pytest

from mesh.protocol import control, envelope
from mesh.protocol.envelope import DURABLE_FLAG, TOMBSTONE
from tests.wire import golden_frames
from tests.wire.decoding import decoded_of, event_of, jsonable

STORED: dict[str, dict[str, Any]] = {
    entry["name"]: entry
    for file in sorted(golden_frames.FILES)
    for entry in json.loads((golden_frames.FOLDER / f"{file}.json").read_text("utf-8"))
}
MADE = {name: frame for make in golden_frames.FILES.values() for name, frame in make()}


def stored(name: str) -> bytes:
    return bytes.fromhex("".join(STORED[name]["hex"]))


def test_every_frame_is_stored_once() -> None:
    assert set(STORED) == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_our_encoder_makes_exactly_these_bytes(name: str) -> None:
    assert MADE[name].hex() == stored(name).hex()


@pytest.mark.parametrize("name", STORED)
def test_struct_and_msgpack_alone_read_what_is_written_beside_them(name: str) -> None:
    assert decoded_of(stored(name)) == STORED[name]["decoded"]


@pytest.mark.parametrize("name", [n for n, e in STORED.items() if "topic" in e["decoded"]])
def test_our_decoder_reads_the_same_event(name: str) -> None:
    decoded = STORED[name]["decoded"]
    event, *others = envelope.decode_events(stored(name))
    if others:
        assert decoded["flags"] == envelope.BUNDLE
        payloads = [envelope.decode_value(e.payload) for e in (event, *others)]
        assert payloads == decoded["payload"]
        assert [e.seq for e in others] == [decoded["seq"] + n for n in range(1, len(payloads))]
        return
    fields = ("topic", "schema", "nid", "epoch", "seq", "flags", "offset", "ts_recv", "ts_sent")
    assert {field: getattr(event, field) for field in fields} == {
        field: decoded[field] for field in fields
    }
    assert jsonable(envelope.decode_value(event.payload)) == decoded["payload"]


@pytest.mark.parametrize("name", [n for n, e in STORED.items() if "kind" in e["decoded"]])
def test_our_decoder_reads_the_same_request(name: str) -> None:
    rpc, decoded = envelope.decode_rpc(stored(name)), STORED[name]["decoded"]
    fields = ("kind", "method", "corr", "client_epoch", "budget_ms", "attempt", "prio")
    assert {field: getattr(rpc, field) for field in fields} == {
        field: decoded[field] for field in fields
    }
    body = envelope.decode_value(rpc.body) if rpc.body else None
    assert jsonable(body) == decoded["body"]


def test_flags_and_offsets_tell_the_classes_apart() -> None:
    told = {n: (e["decoded"].get("flags"), e["decoded"].get("offset")) for n, e in STORED.items()}
    assert told["ephemeral"] == (0, 0)
    assert told["tombstone"] == (TOMBSTONE, 0)
    assert told["durable"] == (DURABLE_FLAG, 42)
    assert told["index"] == (0, 0)
    assert told["head"] == (0, 0)


@pytest.mark.parametrize("name", ["event with a cause", "request with a cause"])
def test_our_decoder_reads_the_same_cause(name: str) -> None:
    decode = envelope.decode_event if name.startswith("event") else envelope.decode_rpc
    assert decode(stored(name)).cause == golden_frames.CAUSE
    ext = STORED[name]["decoded"]["ext"]
    assert (ext["2"], ext["3"][3]) == (golden_frames.CAUSE.trace, "x.tick.a")
    assert ("7" in ext) is name.startswith("request")  # an event has it in its header


def test_frames_in_a_reply_are_the_ones_published() -> None:
    page = STORED["reply mesh.fetch"]["decoded"]["body"]
    assert page[1] == [stored("durable").hex(), stored("durable on another topic").hex()]
    (frame,) = STORED["reply mesh.snapshot"]["decoded"]["body"][0]
    assert event_of(bytes.fromhex(frame))["topic"] == "x.price.a"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("heartbeat", control.Heartbeat),
        ("head", control.Head),
        ("head with a stream", control.Head),
        ("index", control.LogIndex),
    ],
)
def test_payloads_hold_every_field_in_order(name: str, kind: type) -> None:
    decoded = STORED[name]["decoded"]
    assert decoded["schema"] == control.SCHEMAS[kind]
    assert len(decoded["payload"]) == len(kind.__struct_fields__)  # type: ignore[attr-defined]  # a Struct


def test_denied_prefixes_are_named_in_the_head_and_have_no_heads() -> None:
    payload = STORED["head"]["decoded"]["payload"]
    assert payload[5] == ["order."]
    assert payload[3] == {"x.tick.a": 1, "x.price.a": 1, "x.price.b": 2}
