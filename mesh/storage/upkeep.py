"""Upkeep: what a journal deletes, and when its write-ahead log is written back.

Never here: threads, appending, who needs what.
"""

import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

from mesh.storage.records import Retention

STEP_ROWS: Final = 1_000  # a group waits behind one step at most
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
WAL_BYTES_MAX: Final = 16 * 1024 * 1024
_PAGE_BYTES: Final = 4_096
_BATCH_ROWS: Final = 64  # how many rows make up a page is known once they are deleted


class Cut(NamedTuple):
    """What a step deleted: every record up to through; lost: consumers that needed them."""

    through: int
    lost: tuple[str, ...]


def delete_head(db: sqlite3.Connection, keep: Retention, floor: int, now_ns: int) -> Cut | None:
    """Delete what nobody needs from the head, at most STEP_ROWS, in one transaction.

    Deletable is what lies at or below *floor* and is either applied by every consumer and
    older than keep_s, or too much: then consumers that lag are lost. None: nothing is due.
    """
    (before,) = db.execute("select cast(value as integer) from meta where key='before'").fetchone()
    (last,) = db.execute('select coalesce(max("offset"), 0) from log').fetchone()
    end = min(floor, last, before + STEP_ROWS)
    through = _unneeded(db, before, end, now_ns - int(keep.keep_s * 1e9))
    if through == before and not (before < end and _used_bytes(db) > keep.max_bytes):
        return None
    db.execute("begin immediate")
    if through > before:
        _delete(db, through)
    while through < end and _used_bytes(db) > keep.max_bytes:
        through = min(end, through + _BATCH_ROWS)
        _delete(db, through)
    lost = db.execute('delete from consumer where "offset" < ? returning node', (through,))
    cut = Cut(through, tuple(node for (node,) in lost.fetchall()))
    db.execute("commit")
    return cut


def _unneeded(db: sqlite3.Connection, before: int, end: int, horizon_ns: int) -> int:
    """Return up to where everything was applied by all consumers and stored before then."""
    (acked,) = db.execute('select min("offset") from consumer').fetchone()
    end = end if acked is None else min(end, acked)
    query = (
        'select "offset" from log where "offset" between ? and ? and ts_ns >= ?'
        ' order by "offset" limit 1'
    )
    young = db.execute(query, (before + 1, end, horizon_ns)).fetchall()
    return max(before, young[0][0] - 1 if young else end)


def _delete(db: sqlite3.Connection, through: int) -> None:
    db.execute(
        "update meta set value = case key when 'before' then \"offset\" else crc end"
        " from log where key in ('before', 'before_crc') and \"offset\" = ?",
        (through,),
    )
    db.execute('delete from log where "offset" <= ?', (through,))


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
