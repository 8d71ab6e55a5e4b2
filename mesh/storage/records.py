"""Records: what a journal holds, and the checks that make a flipped byte show.

Never here: SQL, files, what records mean.
"""

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple
from zlib import crc32

from mesh.protocol.commits import Applied
from mesh.protocol.once import Row

_LOG_ROW: Final = struct.Struct("<qqqI")
_KEY_ROW: Final = struct.Struct("<qqq")


class Page(NamedTuple):
    """Some matching frames; every offset up to through was looked at."""

    frames: tuple[bytes, ...]
    through: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept for consumers: bytes of the file in use, seconds once all have it."""

    max_bytes: int
    keep_s: float


def chained(crc: int, offset: int, topic: bytes, schema: int, ts_ns: int, frame: bytes) -> int:
    """Return the CRC-32 of a record that follows one with *crc*."""
    head = _LOG_ROW.pack(offset, schema, ts_ns, len(topic))
    return crc32(frame, crc32(topic, crc32(head, crc)))


def seal(entry: Applied) -> int:
    """Return the CRC-32 of an entry that stands alone."""
    return crc32("\0".join((entry.node, entry.log_id, str(entry.offset))).encode())


def row_seal(row: Row, ts_ns: int) -> int:
    """Return the CRC-32 of a request with a key as it is stored at *ts_ns*."""
    node, reply = row.node.encode(), row.reply
    head = _KEY_ROW.pack(ts_ns, len(node), -1 if reply is None else len(reply))
    return crc32(reply or b"", crc32(row.digest, crc32(row.idem, crc32(node, crc32(head)))))
