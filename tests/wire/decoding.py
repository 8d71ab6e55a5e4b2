"""Frames taken apart with struct and msgpack alone, as another language would.

Never here: anything of mesh.
"""

import struct
from typing import Any, Final

import msgpack

EVENT: Final = struct.Struct("<BBHIIIQQQQQ")
EVENT_FIELDS: Final = (
    *("magic", "wire", "flags", "schema", "nid", "ext_len"),
    *("epoch", "seq", "offset", "ts_recv", "ts_sent"),
)
RPC: Final = struct.Struct("<BBBBIQQIHH16s")
RPC_FIELDS: Final = (
    *("magic", "wire", "kind", "flags", "method", "corr"),
    *("client_epoch", "budget_ms", "attempt", "prio", "idem"),
)
RPC_MAGIC: Final = 0xE8


def unpacked(payload: bytes) -> Any:
    return msgpack.unpackb(payload, strict_map_key=False)


def event_of(frame: bytes) -> dict[str, Any]:
    """Return the fields of an event frame, its topic, ext and payload decoded."""
    topic, _, rest = frame.partition(b"\0")
    found: dict[str, Any] = dict(zip(EVENT_FIELDS, EVENT.unpack_from(rest), strict=True))
    body = rest[EVENT.size :]
    cut = found["ext_len"]
    found["topic"] = topic.decode("latin-1" if topic[0] == 0xFF else "utf-8")
    found["ext"] = unpacked(body[:cut]) if cut else None
    found["payload"] = unpacked(body[cut:])
    return found


def rpc_of(frame: bytes) -> dict[str, Any]:
    """Return the fields of a request frame, its body decoded."""
    found: dict[str, Any] = dict(zip(RPC_FIELDS, RPC.unpack_from(frame), strict=True))
    body = frame[RPC.size :]
    if found["flags"] & 1:
        (size,) = struct.unpack_from("<H", body)
        found["ext"], body = unpacked(body[2 : 2 + size]), body[2 + size :]
    found["body"] = unpacked(body) if body else None
    return found


def decoded_of(frame: bytes) -> dict[str, Any]:
    """Return what *frame* reads, of either kind, as JSON can hold it: bytes as hex."""
    found = rpc_of(frame) if frame[0] == RPC_MAGIC else event_of(frame)
    plain = jsonable(found)
    assert isinstance(plain, dict)
    return plain


def jsonable(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case list() | tuple():
            return [jsonable(item) for item in value]
        case dict():
            return {str(key): jsonable(item) for key, item in value.items()}
        case _:
            return value
