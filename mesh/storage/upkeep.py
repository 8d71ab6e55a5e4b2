"""Upkeep: what a journal deletes, and when its write-ahead log is written back.

Never here: threads, appending, who needs what.
"""

import sqlite3
import sys
from pathlib import Path
from typing import Final, NamedTuple

from mesh.storage.records import Retention

STEP_ROWS: Final = 1_000  # a group waits behind one step at most
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
WAL_BYTES_MAX: Final = 16 * 1024 * 1024
_PAGE_BYTES: Final = 4_096
_ROW_BYTES: Final = 40  # around a topic and a frame; only an estimate


class Cut(NamedTuple):
    """What a step deleted: every record up to through; lost: consumers that needed them."""

    through: int
    lost: tuple[str, ...]


def delete_head(db: sqlite3.Connection, keep: Retention, floor: int, now_ns: int) -> Cut | None:
    """Delete what nobody needs from the head, at most STEP_ROWS, in one transaction.

    Deletable is what lies at or below *floor* and is either applied by every consumer and
    older than keep_s, or too much: then consumers that lag are lost. None: nothing is due.
    """
    doomed = _doomed(db, keep, floor, now_ns)
    if doomed is None:
        return None
    through, crc = doomed
    db.execute("begin immediate")
    db.execute('delete from log where "offset" <= ?', (through,))
    meta = (("before", str(through)), ("before_crc", str(crc)))
    db.executemany("update meta set value = ?2 where key = ?1", meta)
    lost = db.execute('delete from consumer where "offset" < ? returning node', (through,))
    cut = Cut(through, tuple(node for (node,) in lost.fetchall()))
    db.execute("commit")
    return cut


def _doomed(
    db: sqlite3.Connection, keep: Retention, floor: int, now_ns: int
) -> tuple[int, int] | None:
    """Return offset and CRC of the last record to delete, None if there is none."""
    query = 'select coalesce(min("offset"), ?) from consumer'
    (acked,) = db.execute(query, (sys.maxsize,)).fetchone()
    horizon_ns = now_ns - int(keep.keep_s * 1e9)
    excess = _used_bytes(db) - keep.max_bytes
    doomed: tuple[int, int] | None = None
    rows = db.execute(
        'select "offset", ts_ns, crc, length(topic) + length(frame) from log'
        ' where "offset" <= ? order by "offset" limit ?',
        (floor, STEP_ROWS),
    )
    for offset, ts_ns, crc, size in rows:
        if not ((offset <= acked and ts_ns < horizon_ns) or excess > 0):
            break
        doomed, excess = (offset, crc), excess - size - _ROW_BYTES
    rows.close()  # an open statement would keep its snapshot
    return doomed


def _used_bytes(db: sqlite3.Connection) -> int:
    (pages,), (free,) = (
        db.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count")
    )
    (size,) = db.execute("pragma page_size").fetchone()
    return int((pages - free) * size)


class WalGauge:
    """Decide when to checkpoint, and do it. SQLite's own way would do it inside a commit.

    A complete checkpoint lets the log begin again at its start, without growing: the next
    commits then sync no new file size. Only a log grown too large is cut.
    """

    def __init__(self, path: Path) -> None:
        self._wal = path.with_name(f"{path.name}-wal")
        self._unsaved_bytes = 1  # of a run before this one

    def wrote(self, size: int, statements: int) -> None:
        """Learn that a transaction of so many bytes was committed."""
        self._unsaved_bytes += size + statements * _PAGE_BYTES

    def checkpoint(self, db: sqlite3.Connection, *, idle: bool) -> None:
        """Write back what is due: all when idle, else once there is much of it."""
        if self._unsaved_bytes < (1 if idle else CHECKPOINT_BYTES):
            return
        large = self._wal.exists() and self._wal.stat().st_size > WAL_BYTES_MAX
        self._unsaved_bytes = 1  # should it fail or a reader be in the way: again when idle
        kind = "truncate" if large else "passive"
        ((busy, pages, written),) = db.execute(f"pragma wal_checkpoint({kind})").fetchall()
        if not busy and pages == written:
            self._unsaved_bytes = 0
