"""Cause: what led to an event or a request, and how it travels in the ext of its frame.

The cause is what was being handled: an event, or a request. The trace is one number for all
that follows from one root, an event or request without a cause; it is computed from the root,
so whoever hears the root knows it and the root itself need not carry it.

Never here: frames, what is handled now (mesh.transport.handled).
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from mesh.errors import RemoteProtocolError

TRACE_KEY: Final = 2  # of ext: the number of the trace
CAUSE_KEY: Final = 3  # [nid, epoch, number, name]
RECV_KEY: Final = 7  # of a request's ext: what ts_recv is to an event
NAME_CHARS_MAX: Final = 256  # of a topic or a method
_TRACE_MARK: Final = 1 << 63  # every trace takes eight bytes, in a frame and in text
_ROOTS_KEPT: Final = 64

U32 = Annotated[int, Meta(ge=0, lt=1 << 32)]
U64 = Annotated[int, Meta(ge=0)]  # MessagePack has no larger one


class Cause(Struct, frozen=True, gc=False):
    """An event or request, as what follows from it tells of it.

    nid, epoch: of its publisher or caller. number: offset of a durable event, seq of another,
    corr of a request. name: its topic or method. ts_recv: ns UTC when the first cause of all
    entered the mesh, 0 where nobody knows.
    """

    trace: int
    nid: int
    epoch: int
    number: int
    name: str
    ts_recv: int = 0

    @property
    def text(self) -> str:
        """Return the trace as people write it."""
        return trace_text(self.trace)

    def follows(self) -> "Cause":
        """Return the cause of what is done because of it: itself."""
        return self


class _Link(Struct, frozen=True, array_like=True, gc=False):
    """A cause as it travels; others may leave the name out."""

    nid: U32
    epoch: U64
    number: U64
    name: Annotated[str, Meta(max_length=NAME_CHARS_MAX)] = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_ext: Final = msgspec.msgpack.Decoder(dict[int, Raw]).decode
_decode_number: Final = msgspec.msgpack.Decoder(U64).decode
_decode_link: Final = msgspec.msgpack.Decoder(_Link).decode


@lru_cache(_ROOTS_KEPT)
def root_trace(nid: int, epoch: int, number: int, name: str, server: int = 0) -> int:
    """Return the trace of all that follows from a root. server: nid, if it is a request.

    A caller counts its requests to each peer anew, so only with the peer they are unique.
    """
    root = f"{nid} {epoch} {number} {server} {name}".encode()
    return int.from_bytes(blake2b(root, digest_size=8).digest()) | _TRACE_MARK


def trace_text(trace: int) -> str:
    """Return a trace as people write it: 16 hex digits."""
    return f"{trace:016x}"


def following(  # who published or asked, its number there, and what that follows from
    before: Cause | None, nid: int, epoch: int, number: int, name: str, ts_recv: int
) -> Cause:
    """Return the cause of what is done because of an event; before: its own, None for a root."""
    trace = root_trace(nid, epoch, number, name) if before is None else before.trace
    return Cause(trace, nid, epoch, number, name, ts_recv)


def encode_cause(cause: Cause, *, ts_recv: bool = False) -> bytes:
    """Return the ext that tells of *cause*. ts_recv: also of the time, which no header holds."""
    link = _Link(cause.nid, cause.epoch, cause.number, cause.name)
    ext: dict[int, object] = {TRACE_KEY: cause.trace, CAUSE_KEY: link}
    if ts_recv and cause.ts_recv:
        ext[RECV_KEY] = cause.ts_recv
    return _encode(ext)


def decode_cause(ext: bytes, ts_recv: int = 0) -> Cause | None:
    """Return the cause that *ext* tells of, None if of none. Raises RemoteProtocolError.

    ts_recv: of the header, where there is one. Unknown keys are ignored.
    """
    try:
        told = _decode_ext(ext)
        if TRACE_KEY not in told and CAUSE_KEY not in told:
            return None
        trace, link = _decode_number(told[TRACE_KEY]), _decode_link(told[CAUSE_KEY])
        recv = ts_recv or _decode_number(told.get(RECV_KEY, b"\0"))
    except Exception as error:  # noqa: BLE001  # one boundary: whatever bytes do to a decoder is a reject
        raise RemoteProtocolError(f"ext that tells of no cause: {error!r:.100}") from None
    return Cause(trace, link.nid, link.epoch, link.number, link.name, recv)
