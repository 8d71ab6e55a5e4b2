"""The recorder's database on a PostgreSQL server: one connection, opened again after failures.

Never here: statements that SQLite does not know, except timeouts of the session.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from mesh.errors import ConfigError, StorageError
from nodes.recorder import store
from nodes.recorder.store import Offsets, Origin, Page, Row

CONNECT_S: Final = 5
TCP_DEAD_MS: Final = 30_000  # a host that vanished is noticed after this
# A server that hangs must not hold a transaction open for ever.
SESSION: Final = "-c statement_timeout=30000 -c lock_timeout=10000"


class PostgresStore:
    """History on a server. All methods belong to one thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def open(self) -> None:
        """Connect anew. Raises ConfigError for a URL that cannot be one, without showing it."""
        self.close()
        try:
            conninfo_to_dict(self._url)
        except psycopg.ProgrammingError:
            raise ConfigError(
                "DATABASE_URL is not like postgresql://user:password@host/name; empty means SQLite"
            ) from None
        with _translated():
            self._connection = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=CONNECT_S,
                application_name="genesis-recorder",
                options=SESSION,
                tcp_user_timeout=TCP_DEAD_MS,
            )

    def migrate(self, now_ns: int) -> int:
        """Bring the schema up to date, return its version. ConfigError if it is newer."""
        known = store.migrations(files("nodes.recorder") / "migrations")
        with self._transaction() as cursor:
            cursor.execute(store.SCHEMA_VERSION)
            found = cursor.execute(store.VERSION).fetchone()
            version: int = found[0] if found else 0
            for version, statements in store.missing(known, version):  # noqa: B020 # grows
                for statement in statements:
                    cursor.execute(_spelled(statement))
                cursor.execute(_spelled(store.MIGRATED), (version, now_ns))
        return version

    def write(self, rows: Sequence[Row], offsets: Offsets) -> None:
        """Write rows and offsets in one transaction; twice is once."""
        with self._transaction() as cursor:
            for statement, group in groupby(rows, key=itemgetter(0)):
                cursor.executemany(_spelled(statement), [values for _, values in group])
            marks = [(*at, offset) for at, offset in offsets.items()]
            cursor.executemany(_spelled(store.OFFSET), marks)

    def offsets(self) -> dict[Origin, int]:
        """Return up to where each journal is in the database."""
        with _translated():
            found = self._opened().execute(store.ALL_OFFSETS).fetchall()
        return {(node, log_id): offset for node, log_id, offset in found}

    def page(self, what: str, limit: int, cursor: str | None) -> Page:
        """Return rows newest first, and the cursor of the next page."""
        statement, values = store.page_query(what, limit, cursor)
        with _translated():
            found = self._opened().execute(_spelled(statement), values).fetchall()
        return store.page_of(what, limit, found)

    def close(self) -> None:
        """Disconnect; twice is fine."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            raise StorageError("recorder database: not connected")
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        with _translated():
            connection = self._opened()
            with connection.transaction(), connection.cursor() as cursor:
                yield cursor


def _spelled(statement: str) -> bytes:
    """Return *statement* with the placeholders of this driver; bytes, as they are no literals."""
    return statement.replace("?", "%s").encode()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StorageError(f"recorder database: {first}") from error
