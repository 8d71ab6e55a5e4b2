"""Journal: the durable stream of one node, in one SQLite file with one connection.

What is appended is on disk (WAL, synchronous=FULL) before append returns; the offset of
the event that caused it is stored in the same transaction.

Never here: what records mean, sending, retries: a failed write ends the node.
"""

import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from mesh.errors import StorageError

PAGE_ROWS: Final = 512
PAGE_BYTES: Final = 128 * 1024

_SCHEMA: Final = """
create table if not exists log (
  "offset" integer primary key, topic text not null, schema integer not null, frame blob not null
) strict;
create table if not exists meta (key text primary key, value text not null) strict;
create table if not exists applied (
  node text primary key, log_id text not null, "offset" integer not null
) strict;
"""


class Applied(NamedTuple):
    """How far a consumer stored the effects of another node's journal."""

    node: str
    log_id: str
    offset: int


class Stored(NamedTuple):
    """One record as it lies in the journal."""

    offset: int
    topic: str
    schema: int
    frame: bytes


class Page(NamedTuple):
    """Some matching frames; every offset up to through was looked at."""

    frames: tuple[bytes, ...]
    through: int


class Journal:
    """Append and read the durable events of one node. Raises StorageError on any failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._translating():
            self._db = sqlite3.connect(path, isolation_level=None, cached_statements=32)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=full")
            self._db.executescript(_SCHEMA)
            self._db.execute(
                "insert or ignore into meta values ('log_id', ?)", (secrets.token_hex(8),)
            )
            (self.log_id,) = self._db.execute("select value from meta").fetchone()
            (last,) = self._db.execute('select coalesce(max("offset"), 0) from log').fetchone()
        self.last: int = last

    def append(
        self,
        records: Sequence[tuple[str, int, Callable[[int], bytes]]],
        applied: Applied | None = None,
    ) -> list[Stored]:
        """Store records and *applied* in one transaction; return them with their offsets.

        A record is (topic, schema, frame by offset). On return they survive a power cut.
        """
        stored = [
            Stored(offset, topic, schema, frame(offset))
            for offset, (topic, schema, frame) in enumerate(records, self.last + 1)
        ]
        with self._translating():
            self._db.execute("begin immediate")
            self._db.executemany("insert into log values (?, ?, ?, ?)", stored)
            if applied is not None:
                self._db.execute(
                    "insert into applied values (?, ?, ?) on conflict (node) do update"
                    ' set log_id = excluded.log_id, "offset" = excluded."offset"',
                    applied,
                )
            self._db.execute("commit")
        if stored:
            self.last = stored[-1].offset
        return stored

    def applied(self, node: str) -> Applied | None:
        """Return how far *node*'s journal was applied here, None if never."""
        with self._translating():
            row = self._db.execute("select * from applied where node = ?", (node,)).fetchone()
        return None if row is None else Applied(*row)

    def read(self, after: int = 0) -> Iterator[Stored]:
        """Yield every record behind *after*, oldest first."""
        with self._translating():
            cursor = self._db.execute(
                'select * from log where "offset" > ? order by "offset"', (after,)
            )
            for row in cursor:
                yield Stored(*row)

    def page(self, after: int, prefixes: tuple[str, ...]) -> Page:
        """Return a bounded number of frames behind *after* whose topics match."""
        frames: list[bytes] = []
        size, through = 0, after
        with self._translating():
            rows = self._db.execute(
                'select * from log where "offset" > ? order by "offset" limit ?',
                (after, PAGE_ROWS),
            ).fetchall()
        for offset, topic, _, frame in rows:
            if topic.startswith(prefixes):
                if frames and size + len(frame) > PAGE_BYTES:
                    break
                frames.append(frame)
                size += len(frame)
            through = offset
        return Page(tuple(frames), through)

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._db.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"journal {self.path}: {error}") from error
