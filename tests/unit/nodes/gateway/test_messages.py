"""Messages: exactly the documented maps, in both spellings.

Never here: sessions.
"""

import msgspec
import pytest

from nodes.gateway.messages import (
    JSON,
    MSGPACK,
    Auth,
    Codec,
    Event,
    Frame,
    Gap,
    Request,
    Subscribe,
    decode,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"op":"auth","token":"t"}', Auth("t")),
        (b'{"op":"subscribe","id":1,"topics":["md."]}', Subscribe(1, ("md.",))),
        (
            b'{"op":"request","id":"a","target":"risk","method":"m","params":{},"deadline_ms":5}',
            Request("a", "m", {}, "risk", 5),
        ),
    ],
)
def test_documented_messages_are_read_in_both_spellings(
    text: bytes, message: msgspec.Struct
) -> None:
    assert decode(JSON, text) == message
    assert decode(MSGPACK, msgspec.msgpack.encode(msgspec.json.decode(text))) == message


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"op":"welcome"}', b'{"op":"auth"}', b'{"op":"auth","token":1}', b"\xff", b"["],
)
@pytest.mark.parametrize("codec", Codec)
def test_anything_else_is_refused(codec: Codec, data: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeError)):
        decode(codec, data)


def test_deep_nesting_is_refused_not_a_crash() -> None:
    deep = b'{"op":"request","id":1,"method":"m","params":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    with pytest.raises((msgspec.MsgspecError, RecursionError)):
        decode(JSON, deep)


def test_gap_is_spelled_from_and_to() -> None:
    assert msgspec.json.decode(Frame(Gap("t", 3, 5)).encoded(JSON)) == {
        "op": "gap",
        "topic": "t",
        "from": 3,
        "to": 5,
    }


def test_frame_is_encoded_once_per_spelling() -> None:
    frame = Frame(Event("t", 1, 2, 3, {"a": "1"}))
    assert frame.encoded(JSON) is frame.encoded(JSON)
    assert msgspec.msgpack.decode(frame.encoded(MSGPACK)) == msgspec.json.decode(
        frame.encoded(JSON)
    )
