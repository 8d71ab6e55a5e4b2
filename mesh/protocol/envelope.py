"""Frames: one event or one request per ZeroMQ frame, header first, MessagePack behind it.

An event is `topic | NUL | 56-byte header | ext | payload`; a request frame is a 48-byte
header and a body. Little-endian. Decoding answers with a value or raises
RemoteProtocolError, never anything else.

Never here: the meaning of payloads, sockets.
"""

import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final

import msgspec

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol.cause import Cause, decode_cause, encode_cause, following

WIRE: Final = 1
EVENT_MAGIC: Final = 0xE7
RPC_MAGIC: Final = 0xE8
TOPIC_MAX_BYTES: Final = 200
EVENT_MAX_BYTES: Final = 256 * 1024  # HEAD; a publisher's own cap is lower
RPC_MAX_BYTES: Final = 256 * 1024
EXT_MAX_BYTES: Final = 4096
EXT_KEY: Final = 1  # conflation key

DURABLE_FLAG: Final = 1 << 0
REPLAY: Final = 1 << 1
SNAPSHOT: Final = 1 << 2
TOMBSTONE: Final = 1 << 3
END: Final = 1 << 4
RAW: Final = 1 << 6
TRACED: Final = 1 << 7  # its ext tells of its cause, see mesh.protocol.cause
BUNDLE: Final = 1 << 8  # several plain events, see mesh.protocol.bundle
MUST_UNDERSTAND: Final = 0xFF00  # an unknown bit among these: drop
BUNDLE_MAX: Final = 64  # events in a frame
_RPC_EXT: Final = 1 << 0  # of a request frame: u16 length and a map before the body

_EVENT: Final = struct.Struct("<BBHIIIQQQQQ")
_RPC: Final = struct.Struct("<BBBBIQQIHH16s")
_pack_event, _unpack_event = _EVENT.pack, _EVENT.unpack_from
# A plain event, without flags, offset and ext, is a head that is the same for all events of
# its topic and schema, a tail (seq, offset 0, ts_recv, ts_sent) and the payload.
_pack_head: Final = struct.Struct("<BBHIIIQ").pack
_HEAD_BYTES: Final = 24 + 1  # with the NUL before it
_FLAGS_HIGH: Final = 4  # from the NUL to the upper byte of the flags
_BUNDLE_HIGH: Final = BUNDLE >> 8
_SHORT_ARRAY: Final = 0x90  # of MessagePack: up to 15 elements
plain_tail: Final = struct.Struct("<Q8xQQ").pack
PLAIN_TAIL_BYTES: Final = 32
tail_seq: Final = struct.Struct("<Q24x").unpack_from  # the whole tail has to be there
KINDS_MAX: Final = 512  # types whose decoder is kept; a node knows some dozens
NAMES_MAX: Final = 16_384  # topics whose spelling is remembered; a publisher has 10,000 at most
EVENT_HEADER_BYTES: Final = _EVENT.size
RPC_HEADER_BYTES: Final = _RPC.size
assert EVENT_HEADER_BYTES == 56
assert RPC_HEADER_BYTES == 48

_encoder = msgspec.msgpack.Encoder()


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event frame, taken apart. payload is MessagePack of schema, not yet decoded.

    cause: what a TRACED one tells in its ext; encoding takes the ext alone.
    """

    topic: str
    schema: int
    nid: int
    epoch: int
    seq: int
    payload: bytes
    flags: int = 0
    offset: int = 0
    ts_recv: int = 0
    ts_sent: int = 0
    ext: bytes = b""
    cause: Cause | None = None

    def follows(self) -> Cause:
        """Return the cause of what is done because of this event."""
        number = self.offset or self.seq
        return following(self.cause, self.nid, self.epoch, number, self.topic, self.ts_recv)


class Kind(IntEnum):
    """What a request frame is."""

    HELLO = 1
    WELCOME = 2
    REQ = 3
    INPROG = 4
    REP = 5
    PART = 6
    END = 7
    ERR = 8
    CANCEL = 9
    PING = 10
    PONG = 11
    CREDIT = 12
    GOAWAY = 13
    BYE = 14


HELLO, WELCOME, REQ, REP, ERR = Kind.HELLO, Kind.WELCOME, Kind.REQ, Kind.REP, Kind.ERR
_KINDS: Final = {int(kind): kind for kind in Kind}
NO_IDEM: Final = bytes(16)


class Rpc(msgspec.Struct, frozen=True, gc=False):
    """A request frame, taken apart. budget_ms is the time left; corr is echoed.

    cause: of a request, what made its caller ask.
    """

    kind: Kind
    method: int
    corr: int
    client_epoch: int
    body: bytes = b""
    budget_ms: int = 0
    attempt: int = 1
    prio: int = 500
    idem: bytes = NO_IDEM
    cause: Cause | None = None


def node_id(cluster: str, node: str) -> int:
    """Return the u32 by which frames name their publisher."""
    return zlib.crc32(f"{cluster}/{node}".encode())


def method_id(method: str) -> int:
    """Return the u32 that stands for `service.method` in a request frame."""
    return zlib.crc32(method.encode())


def encode_event(event: Event, max_bytes: int = EVENT_MAX_BYTES) -> bytes:
    """Return the frame of *event*. Raises LocalProtocolError above *max_bytes*."""
    return encode_numbered(event, event.nid, event.epoch, event.seq, max_bytes)


def encode_numbered(
    event: Event, nid: int, epoch: int, seq: int, max_bytes: int, offset: int | None = None
) -> bytes:
    """Return the frame of *event* as publisher *nid* numbers it. Raises LocalProtocolError."""
    header = _pack_event(
        EVENT_MAGIC,
        WIRE,
        event.flags,
        event.schema,
        nid,
        len(event.ext),
        epoch,
        seq,
        event.offset if offset is None else offset,
        event.ts_recv,
        event.ts_sent,
    )
    frame = _name_of(event.topic) + header + event.ext + event.payload
    if len(frame) > max_bytes:
        raise LocalProtocolError(f"event on {event.topic} has {len(frame)} bytes, {max_bytes} max")
    if len(event.ext) > EXT_MAX_BYTES or event.flags & MUST_UNDERSTAND:
        raise LocalProtocolError(f"nobody would read the event on {event.topic}: its ext, flags")
    return frame


def plain_head(event: Event, flags: int = 0) -> bytes:
    """Return what begins every plain frame of the event's topic, schema, publisher and run.

    head + plain_tail(seq, ts_recv, ts_sent) + payload is what encode_event makes of the
    same. The first NUL of a frame being where it is, a frame with this head is sound so far.
    flags: BUNDLE for the head of bundles.
    """
    return _name_of(event.topic) + _pack_head(
        EVENT_MAGIC, WIRE, flags, event.schema, event.nid, 0, event.epoch
    )


def find_tail(frame: bytes) -> int:
    """Return where the tail of *frame* begins if it is plain; what it is, its head tells."""
    return frame.find(0, 0, 256) + _HEAD_BYTES


def sent_ns_of(frame: bytes) -> int:
    """Return ts_sent of a plain frame."""
    tail_end = find_tail(frame) + PLAIN_TAIL_BYTES
    return int.from_bytes(frame[tail_end - 8 : tail_end], "little")


@lru_cache(maxsize=NAMES_MAX)
def _name_of(topic: str) -> bytes:
    """Return the bytes of *topic* and the NUL behind them."""
    return topic.encode("latin-1" if topic.startswith("\xff") else "utf-8") + b"\0"


@lru_cache(maxsize=NAMES_MAX)
def _topic_of(name: bytes) -> str:
    """Return the topic in *name*. Raises RemoteProtocolError.

    Probe topics begin with 0xFF, which is no UTF-8: their bytes stay readable.
    """
    try:
        return name.decode("latin-1" if name[0] == 0xFF else "utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("event frame whose topic is not UTF-8") from None


def decode_event(frame: bytes, mark: int = 0) -> Event:
    """Return the event in *frame*, with flags *mark* added. Raises RemoteProtocolError."""
    nul = frame.find(0, 0, 256)
    start = nul + 1
    if nul < 1 or len(frame) < start + EVENT_HEADER_BYTES:
        raise RemoteProtocolError("event frame too short or without topic")
    magic, wire, flags, schema, nid, ext_len, epoch, seq, offset, ts_recv, ts_sent = _unpack_event(
        frame, start
    )
    if magic != EVENT_MAGIC or wire != WIRE:
        raise RemoteProtocolError(f"event frame of wire {wire}, {WIRE} is spoken here")
    if flags & MUST_UNDERSTAND:
        raise RemoteProtocolError(f"event frame with unknown flags {flags:#x}")
    body, ext, cause = start + EVENT_HEADER_BYTES, b"", None
    if ext_len:
        if ext_len > EXT_MAX_BYTES or body + ext_len > len(frame):
            raise RemoteProtocolError("event frame with a false ext length")
        ext = frame[body : body + ext_len]
        body += ext_len
        cause = decode_cause(ext, ts_recv) if flags & TRACED else None
    return Event(
        _topic_of(frame[:nul]),
        schema,
        nid,
        epoch,
        seq,
        frame[body:],
        flags | mark,
        offset,
        ts_recv,
        ts_sent,
        ext,
        cause,
    )


def decode_events(frame: bytes) -> tuple[Event, ...]:
    """Return the events in a live *frame*: one, or those of a bundle. Raises as decode_event."""
    if not is_bundle(frame):
        return (decode_event(frame),)
    first = first_event(frame)
    if first.flags or first.offset or first.ext or first.topic.startswith("\xff"):
        raise RemoteProtocolError("bundle of events that are not plain")
    bundle_count(first.payload, 0)  # before anything is made of what it claims
    payloads = decode_value(first.payload, list[msgspec.Raw])
    return tuple(
        msgspec.structs.replace(first, seq=seq, payload=bytes(payload))
        for seq, payload in enumerate(payloads, first.seq)
    )


def is_bundle(frame: bytes) -> bool:
    """Say whether a live *frame* claims to hold several events."""
    high = frame.find(0, 0, 256) + _FLAGS_HIGH
    return high < len(frame) and bool(frame[high] & _BUNDLE_HIGH)


def first_event(frame: bytes) -> Event:
    """Return the first event of a bundle, with the payloads of all. Raises as decode_event."""
    plain = bytearray(frame)
    plain[frame.find(0, 0, 256) + _FLAGS_HIGH] &= ~_BUNDLE_HIGH
    return decode_event(bytes(plain))


def bundle_count(frame: bytes, at: int) -> int:
    """Return how many events the array at *at* announces. Raises RemoteProtocolError."""
    head = frame[at : at + 3]
    if head[:1] == b"\xdc":
        count = int.from_bytes(head[1:], "big")
    else:
        count = head[0] & 0x0F if head and head[0] & 0xF0 == _SHORT_ARRAY else 0
    if not 1 < count <= BUNDLE_MAX:
        raise RemoteProtocolError(f"bundle of {count} events; 2 to {BUNDLE_MAX}")
    return count


def encode_rpc(rpc: Rpc, max_bytes: int = RPC_MAX_BYTES) -> bytes:
    """Return the frame of *rpc*. Raises LocalProtocolError above *max_bytes*."""
    if RPC_HEADER_BYTES + len(rpc.body) > max_bytes:
        raise LocalProtocolError(f"request frame of {len(rpc.body)} bytes, {max_bytes} max")
    flags, ext = 0, b""
    if rpc.cause is not None:
        told = encode_cause(rpc.cause, ts_recv=True)
        if RPC_HEADER_BYTES + 2 + len(told) + len(rpc.body) <= max_bytes:
            flags, ext = _RPC_EXT, len(told).to_bytes(2, "little") + told
    return (
        _RPC.pack(
            RPC_MAGIC,
            WIRE,
            rpc.kind,
            flags,
            rpc.method,
            rpc.corr,
            rpc.client_epoch,
            rpc.budget_ms,
            rpc.attempt,
            rpc.prio,
            rpc.idem,
        )
        + ext
        + rpc.body
    )


def encode_answer(rpc: Rpc, kind: Kind, body: bytes) -> bytes:
    """Return the frame that answers *rpc*, as encode_rpc does of a body that fits."""
    head = RPC_MAGIC, WIRE, kind, 0, rpc.method, rpc.corr, rpc.client_epoch, 0, 1, 500, NO_IDEM
    return _RPC.pack(*head) + body


def decode_rpc(frame: bytes) -> Rpc:
    """Return the request frame. Raises RemoteProtocolError on any fault in it."""
    if len(frame) < RPC_HEADER_BYTES:
        raise RemoteProtocolError("request frame too short")
    magic, wire, kind, flags, method, corr, epoch, budget, attempt, prio, idem = _RPC.unpack_from(
        frame
    )
    if magic != RPC_MAGIC or wire != WIRE:
        raise RemoteProtocolError(f"request frame of wire {wire}, {WIRE} is spoken here")
    if kind not in _KINDS or flags & 0xF0:
        raise RemoteProtocolError(f"request frame of unknown kind {kind} or flags {flags:#x}")
    body, cause = frame[RPC_HEADER_BYTES:], None
    if flags & _RPC_EXT:
        ext_end = 2 + int.from_bytes(body[:2], "little")
        if ext_end > len(body):
            raise RemoteProtocolError("request frame with a false ext length")
        cause = decode_cause(body[2:ext_end])
        body = body[ext_end:]
    return Rpc(
        _KINDS[kind],
        method,
        corr,
        epoch,
        body,
        budget,
        attempt,
        prio,
        idem,
        cause,
    )


def conflation_key(event: Event) -> str:
    """Return what tells events of one topic apart when only the newest counts."""
    try:
        key = decode_value(event.ext).get(EXT_KEY)
    except (RemoteProtocolError, AttributeError):
        key = None
    return event.topic if key is None else f"{event.topic} {key}"


@lru_cache(maxsize=KINDS_MAX)
def raw_decoder(kind: Any = None) -> Callable[[bytes], Any]:
    """Return what decodes a payload to *kind*; it raises whatever the bytes lead it to."""
    return msgspec.msgpack.Decoder(Any if kind is None else kind).decode


@lru_cache(maxsize=KINDS_MAX)
def decoder(kind: Any = None) -> Callable[[bytes], Any]:
    """Return what decodes a payload to *kind*, prepared once. It raises RemoteProtocolError."""
    decode = raw_decoder(kind)

    def decoded(payload: bytes) -> Any:
        try:
            return decode(payload)
        except Exception as error:  # noqa: BLE001  # one boundary: whatever bytes do to a decoder is a reject
            raise RemoteProtocolError(f"payload is not {kind or 'MessagePack'}: {error}") from None

    return decoded


# Return a value as MessagePack; it is a constant because a function around it costs 70 ns.
encode_value: Final[Callable[[object], bytes]] = _encoder.encode


def decode_value(payload: bytes, kind: Any = None) -> Any:
    """Return the value in *payload*, of type *kind* if given. Raises RemoteProtocolError."""
    return decoder(kind)(payload)
