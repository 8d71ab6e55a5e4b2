"""Image: one checkpoint as bytes, every one of which is verified when it is read back.

Magic, format, schema, generation, epoch, hash of the component id, length, then MessagePack
{state, positions}, then a CRC-32 of all before it. Little-endian.

Never here: files, what the state means, pickle.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mesh.errors import Invalid
from mesh.protocol.commits import Applied
from mesh.storage.private import Unfit

__all__ = ["IMAGE_MAX_BYTES", "STATE_MAX_BYTES", "Checkpoint", "decode", "encode", "encode_body"]

STATE_MAX_BYTES: Final = 16 * 1024 * 1024
POSITIONS_MAX: Final = 4_096
BODY_MAX_BYTES: Final = STATE_MAX_BYTES + POSITIONS_MAX * 256  # names: 64 characters at most

_MAGIC: Final = b"GNCK"
_FORMAT: Final = 2
_START: Final = struct.Struct("<4sH")
_HEADER: Final = struct.Struct("<4sHIQQ8sI")
_CRC: Final = struct.Struct("<I")

IMAGE_MAX_BYTES: Final = _HEADER.size + BODY_MAX_BYTES + _CRC.size

# Format 1 had no schema, epoch or positions: magic, format, generation, length, CRC of the
# state. Its files are read as schema 1, so that no node loses its state with a new version.
_FIRST_FORMAT: Final = 1
_FIRST_HEADER: Final = struct.Struct("<4sHQII")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Saved state, and how far into which logs it reaches."""

    state: Any
    positions: tuple[Applied, ...] = ()
    schema: int = 1
    epoch: int = 0  # of the run that saved it
    generation: int = 0


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    state: Any
    positions: tuple[Applied, ...]


_decoder: Final = msgspec.msgpack.Decoder(_Body)


def encode_body(component_id: str, state: object, positions: tuple[Applied, ...]) -> bytes:
    """Return state and positions as MessagePack. Raises Invalid for what does not fit."""
    if len(positions) > POSITIONS_MAX:
        raise Invalid(f"{component_id}: {len(positions)} positions, {POSITIONS_MAX} are allowed")
    try:
        raw = msgspec.msgpack.encode(state)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Invalid(f"state of {component_id} has no MessagePack form: {error}") from error
    if len(raw) > STATE_MAX_BYTES:
        raise Invalid(f"state of {component_id}: {len(raw)} bytes, {STATE_MAX_BYTES} are allowed")
    body = msgspec.msgpack.encode({"state": msgspec.Raw(raw), "positions": positions})
    if len(body) > BODY_MAX_BYTES:
        raise Invalid(f"{component_id}: positions of {len(body) - len(raw)} bytes")
    return body


def encode(component_id: str, generation: int, epoch: int, schema: int, body: bytes) -> bytes:
    """Return the bytes of a file with the result of encode_body in it."""
    header = _HEADER.pack(
        _MAGIC, _FORMAT, schema, generation, epoch, _hash(component_id), len(body)
    )
    return b"".join((header, body, _CRC.pack(zlib.crc32(body, zlib.crc32(header)))))


def decode(component_id: str, generation: int, raw: bytes) -> Checkpoint:
    """Return the checkpoint in *raw*. Raises Unfit, in words, unless every byte fits."""
    if len(raw) < _START.size:
        raise Unfit("is cut off")
    magic, form = _START.unpack_from(raw)
    if magic != _MAGIC:
        raise Unfit("is no checkpoint")
    if form not in (_FIRST_FORMAT, _FORMAT):
        raise Unfit(f"has format {form}, {_FORMAT} is known")
    try:
        read = _decode_first if form == _FIRST_FORMAT else _decode
        return read(component_id, generation, raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Unfit(f"has content of another shape: {error}") from error


def _decode(component_id: str, generation: int, raw: bytes) -> Checkpoint:
    if len(raw) < _HEADER.size + _CRC.size:
        raise Unfit("is cut off")
    _, _, schema, named, epoch, owner, length = _HEADER.unpack_from(raw)
    end = len(raw) - _CRC.size
    if length != end - _HEADER.size:
        raise Unfit("is cut off or has a tail")
    if _CRC.unpack_from(raw, end)[0] != zlib.crc32(memoryview(raw)[:end]):
        raise Unfit("is corrupted: the checksum differs")
    if owner != _hash(component_id):
        raise Unfit("belongs to another component")
    if named != generation:
        raise Unfit(f"is generation {named} by its content")
    body = _decoder.decode(memoryview(raw)[_HEADER.size : end])
    return Checkpoint(body.state, body.positions, schema, epoch, generation)


def _decode_first(_: str, generation: int, raw: bytes) -> Checkpoint:
    if len(raw) < _FIRST_HEADER.size:
        raise Unfit("is cut off")
    _, _, named, length, crc = _FIRST_HEADER.unpack_from(raw)
    body = raw[_FIRST_HEADER.size :]
    if length != len(body):
        raise Unfit("is cut off or has a tail")
    if crc != zlib.crc32(body):
        raise Unfit("is corrupted: the checksum differs")
    if named != generation:
        raise Unfit(f"is generation {named} by its content")
    return Checkpoint(msgspec.msgpack.decode(body), generation=generation)


def _hash(component_id: str) -> bytes:
    return hashlib.blake2b(component_id.encode(), digest_size=8).digest()
