"""The recorder's database as a SQLite file: one connection, one thread.

Never here: statements that PostgreSQL does not know, except pragmas.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from mesh.errors import StorageError
from nodes.recorder import store
from nodes.recorder.store import Offsets, Origin, Page, Row


class SqliteStore:
    """History in a file. All methods belong to one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or create the file."""
        self.close()
        with _translated():
            connection = sqlite3.connect(self._path, timeout=5.0, isolation_level=None)
            self._connection = connection
            connection.execute("pragma journal_mode = wal")
            # A power cut may lose the last transactions, offsets included: they are replayed.
            connection.execute("pragma synchronous = normal")

    def migrate(self, now_ns: int) -> int:
        """Bring the schema up to date, return its version. ConfigError if it is newer."""
        known = store.migrations(files("nodes.recorder") / "migrations")
        with self._transaction() as connection:
            connection.execute(store.SCHEMA_VERSION)
            version: int = connection.execute(store.VERSION).fetchone()[0]
            for version, statements in store.missing(known, version):  # noqa: B020 # grows
                for statement in statements:
                    connection.execute(statement)
                connection.execute(store.MIGRATED, (version, now_ns))
        return version

    def write(self, rows: Sequence[Row], offsets: Offsets) -> None:
        """Write rows and offsets in one transaction; twice is once."""
        with self._transaction() as connection:
            for statement, group in groupby(rows, key=itemgetter(0)):
                connection.executemany(statement, [values for _, values in group])
            connection.executemany(store.OFFSET, [(*at, offset) for at, offset in offsets.items()])

    def offsets(self) -> dict[Origin, int]:
        """Return up to where each journal is in the database."""
        with _translated():
            found = self._opened().execute(store.ALL_OFFSETS).fetchall()
        return {(node, log_id): offset for node, log_id, offset in found}

    def page(self, what: str, limit: int, cursor: str | None) -> Page:
        """Return rows newest first, and the cursor of the next page."""
        statement, values = store.page_query(what, limit, cursor)
        with _translated():
            return store.page_of(what, limit, self._opened().execute(statement, values).fetchall())

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError("recorder database: not open")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _translated():
            connection = self._opened()
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            finally:
                if connection.in_transaction:
                    connection.execute("rollback")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"recorder database: {error}") from error
