"""Reader: the records of a journal, read through a connection that cannot write.

Any number may read while the one writer writes. Every statement is short: an open one
would keep the write-ahead log from being emptied.

Never here: writing, checkpoints.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mesh.errors import NotFound
from mesh.protocol.commits import Applied, DeadLetter, Stored
from mesh.protocol.once import Row
from mesh.storage.records import Page, chained
from mesh.storage.tables import damaged, translating

PAGE_ROWS: Final = 512
PAGE_BYTES: Final = 128 * 1024
_BUSY_S: Final = 1.0  # only while another process recovers or closes the file
_NEWEST: Final = (1 << 63) - 1
# Topics as bytes: a page never needs the text, and damaged ones shall meet the CRC first.
# The row at the lower end comes along, because the next one is chained to it.
_ROWS: Final = (
    'select "offset", cast(topic as blob), schema, ts_ns, frame, crc from log'
    ' where "offset" between ? and ? order by "offset" limit ?'
)
# Where the log begins there is no such row, and meta holds the CRC in its place; read in one
# statement, because the writer may move the beginning between two.
_HEAD_ROWS: Final = _ROWS.replace(
    "crc from", "crc, (select value from meta where key = 'before_crc') from"
)


class Reader:
    """Read the journal at *path*, also while its owner writes it.

    Every record is checked against its CRC. Raises StorageError where the file fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with translating(path):
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_S,
                check_same_thread=False,
            )
            self._db.execute("pragma query_only=1")
            # From its first read until closed it is known to SQLite as a reader of this file.
            self._db.execute("select key from meta").fetchall()

    def read(self, after: int = 0) -> Iterator[Stored]:
        """Yield every record still kept behind *after*, oldest first, in bounded memory."""
        while rows := self._rows(after, _NEWEST):
            for offset, topic, schema, _, frame, _ in rows:
                yield Stored(offset, topic.decode(), schema, frame)
            after = rows[-1][0]

    def page(self, after: int, to: int, prefixes: tuple[str, ...]) -> Page:
        """Return the frames behind *after*, up to *to*, whose topics start so; bounded.

        Raises NotFound if the record behind *after* is kept no more.
        """
        frames: list[bytes] = []
        size, through = 0, after
        wanted = tuple(prefix.encode() for prefix in prefixes)
        rows = self._rows(after, to)
        if rows and rows[0][0] != after + 1:
            raise NotFound(f"offset {after + 1} is gone: the log begins at {rows[0][0]}")
        for offset, topic, _, _, frame, _ in rows:
            if topic.startswith(wanted):
                if frames and size + len(frame) > PAGE_BYTES:
                    break
                frames.append(frame)
                size += len(frame)
            through = offset
        return Page(tuple(frames), through)

    def applied(self, node: str) -> Applied | None:
        """Return how far *node*'s journal was applied here, None if never."""
        query = 'select node, log_id, "offset" from applied where node = ?'
        found = [Applied._make(row) for row in self._all(query, (node,))]
        return found[0] if found else None

    def acked(self) -> dict[str, Applied]:
        """Return how far each consumer told us to have applied this log."""
        rows = self._all('select node, log_id, "offset" from consumer')
        return {row[0]: Applied._make(row) for row in rows}

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the dead letters kept, oldest first."""
        query = (
            'select node, log_id, "offset", topic, why, ts_ns, frame from dead_letter order by id'
        )
        return tuple(map(DeadLetter._make, self._all(query)))

    def rows(self) -> list[Row]:
        """Return the requests with a key, the oldest first."""
        query = "select node, idem, digest, reply from once order by ts_ns"
        return [Row(*row) for row in self._all(query)]

    def close(self) -> None:
        """Close the connection. Closing twice is fine."""
        self._db.close()

    def _rows(self, after: int, to: int) -> list[Any]:
        """Return up to PAGE_ROWS rows behind *after*, each checked against the one before."""
        asked = (after, to, PAGE_ROWS + 1)
        rows = self._all(_ROWS, asked)
        if rows and rows[0][0] == after:
            crc = rows.pop(0)[5]
        else:
            crc, rows = self._from_head(asked)
        for offset, topic, schema, ts_ns, frame, stored in rows:
            crc = chained(crc, offset, topic, schema, ts_ns, frame)
            if crc != stored:
                raise damaged(self.path, f"offset {offset} is not what was written")
        return rows[:PAGE_ROWS]

    def _from_head(self, asked: tuple[int, int, int]) -> tuple[int, list[Any]]:
        rows = self._all(_HEAD_ROWS, asked)
        return (int(rows[0][6]) if rows else 0), [row[:6] for row in rows]

    def _all(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        with translating(self.path):
            return self._db.execute(query, values).fetchall()
