"""Control: every system message crosses the wire unchanged, under a number that stays its own."""

import msgspec
import pytest

from mesh.errors import RemoteProtocolError
from mesh.protocol import control, envelope
from mesh.protocol.control import (
    DURABLE,
    EPHEMERAL,
    LASTVALUE,
    SCHEMAS,
    Ack,
    BreakerTurn,
    Bye,
    DeliveryClass,
    Failure,
    Fetch,
    FetchPage,
    Head,
    Heartbeat,
    Hello,
    LogIndex,
    Message,
    ModeChange,
    NodeState,
    Record,
    Register,
    Snapshot,
    SnapshotPage,
    StreamHead,
    View,
    Welcome,
)

RECORD = Record("risk", 7, 3, 99, ("risk.submit",), {"order.": 2}, {"e": "ipc:///e"}, "log")
STREAM = StreamHead("risk", "log", 1, 9)
STATE = NodeState("risk", 3, "UP", 99)
SAMPLES: list[Message] = [
    RECORD,
    STREAM,
    STATE,
    Head(3, 1, 1, {"md.x": 4}, (STREAM,), ("order.",), 1, 2),
    Heartbeat(
        1, "ready", "SAFE", 2, 3, 4, 5, 6, 7, 1.5, 2.5, 8, 9, {"x": 1.0}, {"a": 1}, (STREAM,)
    ),
    Register(RECORD, "SAFE", 1),
    ModeChange("SAFE", 1, 2, "why", 3, "operator"),
    View(1, 2, (STATE,)),
    Bye("risk", 3),
    Welcome("risk", 3, 1),
    Hello("genesis", "risk", 1, 1),
    Failure("OVERLOADED", "no", "full", 50),
    LogIndex("log", 5, ("order.a", "order.b")),
    Snapshot(("md.",), "md.x"),
    SnapshotPage((b"frame",), "md.x"),
    Fetch("log", 1, 9, ("order.",)),
    FetchPage("log", (b"frame",), 9, 1, 12),
    Ack("log", 9),
    BreakerTurn("OPEN", "3 failures in a row", 3, 5, 9, 2_000),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_message_crosses_the_wire_unchanged(message: Message) -> None:
    payload = envelope.encode_value(message)
    assert isinstance(envelope.decode_value(payload), list)
    assert envelope.decode_value(payload, type(message)) == message
    assert envelope.decoder(type(message))(payload) == message


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_trailing_bytes_are_a_reject(message: Message) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_value(envelope.encode_value(message) + b"\xc0", type(message))


def test_every_message_is_sampled_here() -> None:
    sampled = {type(message) for message in SAMPLES}
    made = {kind for kind in Message.__subclasses__() if kind.__module__ == control.__name__}
    assert made == sampled


def test_messages_are_values() -> None:
    with pytest.raises(AttributeError):
        RECORD.node = "other"  # type: ignore[misc]
    assert all(msgspec.structs.fields(type(message)) for message in SAMPLES)


def test_numbers_of_schemas_are_the_mesh_s_and_used_once() -> None:
    assert len(set(SCHEMAS.values())) == len(SCHEMAS)
    assert all(0 < number < 0x1000 for number in SCHEMAS.values())


def test_delivery_classes_have_their_numbers_for_ever() -> None:
    assert list(DeliveryClass) == [EPHEMERAL, LASTVALUE, DURABLE]
    assert [int(kind) for kind in DeliveryClass] == [0, 1, 2]
