"""Tables: the layout of a journal's file, made, brought up to date and verified.

Never here: appending, deleting, threads.
"""

import secrets
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from mesh.clock import wall_ns
from mesh.errors import StorageError
from mesh.protocol.commits import Applied
from mesh.protocol.once import Row
from mesh.storage.records import chained, row_seal, seal

VERSION: Final = 2  # in the file's user_version

_TABLES: Final = {
    "log": '"offset" integer primary key, topic text not null, schema integer not null,'
    " ts_ns integer not null, crc integer not null, frame blob not null",
    "meta": "key text primary key, value text not null",
    "applied": 'node text primary key, log_id text not null, "offset" integer not null,'
    " crc integer not null",
    "consumer": 'node text primary key, log_id text not null, "offset" integer not null,'
    " crc integer not null",
    "dead_letter": "id integer primary key, node text not null, log_id text not null,"
    ' "offset" integer not null, topic text not null, why text not null,'
    ' ts_ns integer not null, frame blob not null, unique (node, log_id, "offset")',
    "once": "node text not null, idem blob not null, digest blob not null, reply blob,"
    " ts_ns integer not null, crc integer not null, primary key (node, idem)",
}
_WHAT_MAX: Final = 100  # characters; SQLite can find something wrong with every page
_UNCHAINED: Final = ["offset", "topic", "schema", "frame"]  # the log of version 0
# The file may well be good: the disk, the rights or another process are in the way.
_DISK_TROUBLE: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)


class Extent(NamedTuple):
    """Where a log begins and ends; crc: of its newest record."""

    log_id: str
    first: int
    last: int
    crc: int


class _Damage(Exception):
    """Something in the file is not what was written."""


@contextmanager
def translating(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into StorageError."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"journal {path}: {error}") from error


def damaged(path: Path, what: object) -> StorageError:
    """Return the error for a file that does not hold what was written."""
    line = " ".join(str(what).split())[:_WHAT_MAX]
    return StorageError(
        f"journal {path} is damaged: {line}; move it away and start again:"
        " the log begins anew with another log_id, and its consumers are told"
    )


def prepare(db: sqlite3.Connection, path: Path) -> Extent:
    """Make the tables if need be, verify every record; return where the log begins and ends.

    Raises StorageError that says what to do, for a file that cannot be trusted.
    """
    try:
        _settle(db, path)
        db.text_factory = bytes  # text that is no UTF-8 any more shall meet the CRC, not a decoder
        return _verified(db)
    except (_Damage, sqlite3.DatabaseError) as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK_TROUBLE:
            raise StorageError(f"journal {path} cannot be opened: {error}") from error
        raise damaged(path, error) from error
    except (ArithmeticError, KeyError, TypeError, ValueError, struct.error) as error:
        raise damaged(path, f"a value of another type ({error})") from error
    finally:
        db.text_factory = str


def _settle(db: sqlite3.Connection, path: Path) -> None:
    db.execute("pragma synchronous=full")
    db.execute("pragma wal_autocheckpoint=0")
    db.execute("pragma secure_delete=off")  # else a delete writes every page that it empties
    (version,) = db.execute("pragma user_version").fetchone()
    if db.execute("pragma journal_mode=wal").fetchone() != ("wal",):
        raise StorageError(f"journal {path}: its file system cannot hold a write-ahead log")
    if version == VERSION:
        return
    columns = [name for _, name, *_ in db.execute("pragma table_info(log)")]
    if version not in (0, 1) or (not version and columns not in ([], _UNCHAINED)):
        raise StorageError(f"journal {path} was written by another version of Genesis")
    with _transaction(db):
        if version:
            _create_table(db, "once")  # all that version 1 did not have
            db.execute(f"pragma user_version={VERSION}")
        elif columns:
            _migrate(db)
        else:
            _create(db, secrets.token_hex(8))


def _create(db: sqlite3.Connection, log_id: str) -> None:
    for name in _TABLES:
        _create_table(db, name)
    # The log begins behind offset "before", whose CRC the first record is chained to.
    meta = {"log_id": log_id, "before": "0", "before_crc": "0"}
    db.executemany("insert into meta values (?, ?)", meta.items())
    db.execute(f"pragma user_version={VERSION}")


def _create_table(db: sqlite3.Connection, name: str) -> None:
    # Without rowid a table is one tree: no index of its own that could disagree with it.
    kind = "strict" if name in ("log", "dead_letter") else "strict, without rowid"
    db.execute(f"create table {name} ({_TABLES[name]}) {kind}")


def _migrate(db: sqlite3.Connection) -> None:
    """Bring version 0 (no CRC, nothing ever deleted) to this one; the log_id stays."""
    old = ("log", "meta", "applied")
    for name in old:
        db.execute(f"alter table {name} rename to old_{name}")
    (log_id,) = db.execute("select value from old_meta where key = 'log_id'").fetchone()
    _create(db, log_id)
    crc, now_ns = 0, wall_ns()
    for offset, topic, schema, frame in db.execute('select * from old_log order by "offset"'):
        crc = chained(crc, offset, topic.encode(), schema, now_ns, frame)
        row = (offset, topic, schema, now_ns, crc, frame)
        db.execute("insert into log values (?, ?, ?, ?, ?, ?)", row)
    for entry in map(Applied._make, db.execute("select * from old_applied").fetchall()):
        db.execute("insert into applied values (?, ?, ?, ?)", (*entry, seal(entry)))
    for name in old:
        db.execute(f"drop table old_{name}")


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    yield  # on an error the caller closes the connection, which rolls back
    db.execute("commit")


def _verified(db: sqlite3.Connection) -> Extent:
    # The chain cannot miss a tail that a broken page hides; the shape of the tree does.
    for (finding,) in db.execute("pragma quick_check"):
        if finding != b"ok":
            raise _Damage(finding.decode(errors="replace"))
    meta = dict(db.execute("select key, value from meta").fetchall())
    log_id, before = meta[b"log_id"].decode("ascii"), int(meta[b"before"])
    last, crc = _walked(db, before, int(meta[b"before_crc"]))
    _check_sealed(db, "applied")
    _check_sealed(db, "consumer")
    _check_rows(db)
    return Extent(log_id, before + 1, last, crc)


def _walked(db: sqlite3.Connection, last: int, crc: int) -> tuple[int, int]:
    rows = db.execute(
        'select "offset", topic, schema, ts_ns, frame, crc from log order by "offset"'
    )
    for offset, topic, schema, ts_ns, frame, stored in rows:
        last += 1
        crc = chained(crc, offset, topic, schema, ts_ns, frame)
        if offset != last or crc != stored:
            raise _Damage(f"offset {last} is not what was written")
    return last, crc


def _check_sealed(db: sqlite3.Connection, table: str) -> None:
    rows = db.execute(f'select node, log_id, "offset", crc from {table}')  # noqa: S608  # a constant
    for node, log_id, offset, stored in rows:
        entry = Applied(node.decode(), log_id.decode(), offset)
        if seal(entry) != stored:
            raise _Damage(f"what is {table} of {entry.node}")


def _check_rows(db: sqlite3.Connection) -> None:
    for node, idem, digest, reply, ts_ns, stored in db.execute("select * from once"):
        if row_seal(Row(node.decode(), idem, digest, reply), ts_ns) != stored:
            raise _Damage(f"a request of {node.decode()}")
