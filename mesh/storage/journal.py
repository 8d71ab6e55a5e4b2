"""Journal: the durable stream of one node, in one SQLite file that one thread writes.

The loop decides what is stored and hands over one group at a time; the writer thread makes
it one transaction (WAL, synchronous=FULL) and reports. In between it deletes what nobody
needs and checkpoints. Reads go through a second connection, which cannot write: SQLite
before 3.51.3 can corrupt a write-ahead log that two connections write or checkpoint.

Never here: what records mean, who is told, retries: a failed write ends the node.
"""

import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final, TypeAlias

from mesh.clock import wall_ns
from mesh.errors import LocalProtocolError, MeshError, StorageError, Unavailable
from mesh.protocol.commits import Applied, DeadLetter, Group, Stored
from mesh.protocol.once import Row as KeyRow
from mesh.storage.files import sync_directory
from mesh.storage.reader import PAGE_BYTES, PAGE_ROWS, Reader
from mesh.storage.records import Page, Retention, chained, row_seal, seal
from mesh.storage.tables import prepare
from mesh.storage.upkeep import STEP_ROWS, WalGauge, delete_head

__all__ = [
    "PAGE_BYTES",
    "PAGE_ROWS",
    "Applied",
    "DeadLetter",
    "Done",
    "Group",
    "Journal",
    "Page",
    "Retention",
    "Stored",
]

IDLE_S: Final = 1.0
CLOSE_S: Final = 5.0
DEAD_KEPT: Final = 1_000  # letters; the oldest go first
LOST_KEPT: Final = 64
_BUSY_S: Final = 0.1  # nobody else writes; a checkpoint waits so long for a reader
_HELD_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

# Every statement lets go of the interpreter lock, and taking it back from a busy loop costs up
# to a switch interval: so a group is few statements, not one per record.
_CHUNKS: Final = (64, 16, 4, 1)
_ROW: Final = "(?, ?, ?, ?, ?, ?)"
_INSERT: Final = {
    size: f"insert into log values {', '.join([_ROW] * size)}"  # noqa: S608  # constants alone
    for size in _CHUNKS
}
# Never back within a log: what was decided earlier may be written later.
_SET_APPLIED: Final = (
    "insert into applied values (?, ?, ?, ?) on conflict (node) do update"
    ' set log_id = excluded.log_id, "offset" = excluded."offset", crc = excluded.crc'
    ' where excluded.log_id <> applied.log_id or excluded."offset" > applied."offset"'
)
_SET_ACK: Final = "replace into consumer values (?, ?, ?, ?)"
_ADD_DEAD: Final = (
    'replace into dead_letter (node, log_id, "offset", topic, why, ts_ns, frame)'
    " values (?, ?, ?, ?, ?, ?, ?)"
)
_SET_ROW: Final = "replace into once values (?, ?, ?, ?, ?, ?)"
_FORGET_ROW: Final = "delete from once where node = ? and idem = ?"
_TRIM_DEAD: Final = "delete from dead_letter where id <= (select max(id) from dead_letter) - ?"

Done: TypeAlias = Callable[[Group, BaseException | None], None]
Row: TypeAlias = tuple[object, ...]
Statement: TypeAlias = tuple[str, list[object] | Row]


class Journal:
    """Store and read the durable events of one node.

    Raises StorageError, in words that say what to do, for a file that cannot be trusted or
    that another journal has open. first: oldest offset kept; last: newest committed.
    floor: the owner itself needs every offset above it; nothing above it is ever deleted.
    lost: consumers whose next offset was deleted, oldest first; whoever reads pops them.
    failure: set once a write failed for good; from then on everything is refused with it.
    """

    def __init__(self, path: Path, *, keep: Retention | None = None) -> None:
        self.path, self.keep, self.floor = path, keep, 0
        self.lost: deque[str] = deque(maxlen=LOST_KEPT)
        self.failure: StorageError | None = None
        self._work: SimpleQueue[Group | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._in_flight = self._closed = False
        self._rows_since_retention = 0
        self._gauge = WalGauge(path)
        with ExitStack() as opened:
            opened.callback(os.close, _held(path))
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=_BUSY_S, check_same_thread=False
            )
            opened.callback(self._db.close)
            self.log_id, self.first, self.last, self._crc = prepare(self._db, path)
            self._reader = Reader(path)
            opened.callback(self._reader.close)
            self._opened = opened.pop_all()

    def __repr__(self) -> str:
        state = "FAILED" if self.failure else "CLOSED" if self._closed else "OPEN"
        return f"<Journal {self.path.name} {state} {self.log_id} {self.first}..{self.last}>"

    def start(self, done: Done) -> None:
        """Start the writer thread. *done* is called in it after each group; must not raise."""
        self._admit(Group())
        if self._thread is not None:
            raise LocalProtocolError(f"the writer of {self.path} is already running")
        name = f"journal {self.path.stem}"
        self._thread = Thread(target=self._run, args=(done,), name=name, daemon=False)
        self._thread.start()

    def write(self, group: Group) -> None:
        """Hand *group* to the writer thread; never blocks.

        Raises LocalProtocolError while another is in flight and for offsets that do not
        follow, StorageError once the journal failed. *done* tells what became of it:
        Unavailable means the disk is full and nothing of the group exists.
        """
        self._admit(group)
        if self._thread is None or not self._thread.is_alive():
            raise LocalProtocolError(f"the writer of {self.path} does not run")
        self._in_flight = True
        self._work.put(group)

    def append(self, group: Group) -> None:
        """Store *group* before returning; for tools and before :meth:`start`. Errors as write."""
        self._admit(group)
        if self._thread is not None:
            raise LocalProtocolError(f"{self.path} has a writer thread: hand it the group")
        self._store(group)
        self._upkeep(idle=False)

    def read(self, after: int = 0) -> Iterator[Stored]:
        """Yield every record still kept behind *after*, oldest first, in bounded memory."""
        return self._reader.read(after)

    def page(self, after: int, to: int, prefixes: tuple[str, ...]) -> Page:
        """Return a bounded number of frames behind *after*, up to *to*, whose topics match.

        Raises NotFound if the record behind *after* is kept no more.
        """
        return self._reader.page(after, to, prefixes)

    def applied(self, node: str) -> Applied | None:
        """Return how far *node*'s journal was applied here, None if never."""
        return self._reader.applied(node)

    def acked(self) -> dict[str, Applied]:
        """Return how far each consumer told us to have applied this log."""
        return self._reader.acked()

    def rows(self) -> list[KeyRow]:
        """Return the requests with a key, the oldest first."""
        return self._reader.rows()

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, oldest first, at most DEAD_KEPT."""
        return self._reader.dead_letters()

    def close(self) -> None:
        """Finish the group in flight, stop the thread, write all back, close. Twice is fine.

        Raises StorageError if the disk does not finish within CLOSE_S; then nothing is closed.
        """
        self._closed = True
        if self._thread is not None and self._thread.is_alive():
            self._work.put(None)
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                raise StorageError(f"journal {self.path}: still writing after {CLOSE_S} s")
        if self.failure is not None:
            # Closed while a reader is open SQLite does not checkpoint: no sync is tried again.
            self._db.close()
        self._opened.close()

    def _admit(self, group: Group) -> None:
        if self.failure is not None:
            raise StorageError(self.failure.message)
        if self._closed:
            raise LocalProtocolError(f"journal {self.path} is closed")
        if self._in_flight:
            raise LocalProtocolError(f"a group of {self.path} is already in flight")
        for offset, record in enumerate(group.records, self.last + 1):
            if record.offset != offset:
                raise LocalProtocolError(f"offset {record.offset} where {offset} is due")

    def _run(self, done: Done) -> None:
        while True:
            try:
                group = self._work.get(timeout=IDLE_S)
            except Empty:
                self._upkeep(idle=True)
                continue
            if group is None:
                return
            error = self._tried(group)
            self._in_flight = False
            done(group, error)
            self._upkeep(idle=False)

    def _tried(self, group: Group) -> BaseException | None:
        try:
            self._store(group)
        except Exception as error:  # noqa: BLE001  # whatever it is: the loop must learn of it
            return error
        return None

    def _store(self, group: Group) -> None:
        """Make *group* one transaction. Raises Unavailable or StorageError."""
        with self._judging():
            crc, rows = self._rows(group.records)
            statements = [*_inserts(rows), *self._entries(group)]
            if len(statements) == 1:
                self._db.execute(*statements[0])  # its own transaction
            elif statements:
                self._db.execute("begin immediate")
                for statement in statements:
                    self._db.execute(*statement)
                self._db.execute("commit")
        self._crc = crc
        self.last += len(rows)
        self._rows_since_retention += len(rows)
        self._gauge.wrote(sum(len(record.frame) for record in group.records), len(statements))

    def _rows(self, records: tuple[Stored, ...]) -> tuple[int, list[Row]]:
        crc, now_ns = self._crc, wall_ns()
        rows: list[Row] = []
        for offset, topic, schema, frame in records:
            crc = chained(crc, offset, topic.encode(), schema, now_ns, frame)
            rows.append((offset, topic, schema, now_ns, crc, frame))
        return crc, rows

    def _entries(self, group: Group) -> Iterator[Statement]:
        for entry in group.applied:
            yield _SET_APPLIED, (*entry, seal(entry))
        for entry in group.acks:
            # An ack of another log, or from behind what is kept, holds nothing.
            if entry.log_id == self.log_id and entry.offset >= self.first - 1:
                yield _SET_ACK, (*entry, seal(entry))
        for letter in group.dead:
            yield _ADD_DEAD, letter
        if group.dead:
            yield _TRIM_DEAD, (DEAD_KEPT,)
        now_ns = wall_ns() if group.rows else 0
        for row in group.rows:
            stamped = (row.node, row.idem, row.digest, row.reply, now_ns)
            yield _SET_ROW, (*stamped, row_seal(row, now_ns))
        for key in group.forgotten:
            yield _FORGET_ROW, key

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Tell a full disk, which passes, from everything else, which is final."""
        try:
            yield
        except sqlite3.Error as error:
            full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            if full and self._rolled_back():
                raise Unavailable(f"journal {self.path}: the disk is full") from error
            self.failure = StorageError(f"journal {self.path}: {error}")
            raise self.failure from error
        except Exception as error:  # a bug: what of the transaction exists is anyone's guess
            self.failure = StorageError(f"journal {self.path}: {error!r}")
            raise

    def _rolled_back(self) -> bool:
        try:  # SQLite may have done it itself, but does not promise to
            if self._db.in_transaction:
                self._db.execute("rollback")
        except sqlite3.Error:
            return False
        return not self._db.in_transaction

    def _upkeep(self, *, idle: bool) -> None:
        """Delete and checkpoint if due; under load as fast as records come."""
        if self.failure is not None:
            return
        try:
            with self._judging():
                self._gauge.checkpoint(self._db, idle=idle)
                if idle or self._rows_since_retention >= STEP_ROWS // 2:
                    self._retain()
        except MeshError:
            return  # full: again later; failed: whoever writes next is told

    def _retain(self) -> None:
        self._rows_since_retention = 0
        if self.keep is None:
            return
        cut = delete_head(self._db, self.keep, self.floor, wall_ns())
        if cut is not None:
            self.first = cut.through + 1
            self.lost.extend(cut.lost)
            self._gauge.wrote(0, 4)


def _held(path: Path) -> int:
    """Return a descriptor that keeps any other journal from opening *path*; made if need be.

    To be closed after every connection: closing it drops the locks SQLite has on the file.
    """
    try:
        descriptor = os.open(path, _HELD_FLAGS, 0o600)
        sync_directory(path.parent)  # the name must survive a power cut, not only the content
    except OSError as error:
        raise StorageError(f"journal {path} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StorageError(f"journal {path} is already open for writing") from error
    return descriptor


def _inserts(rows: list[Row]) -> Iterator[Statement]:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield _INSERT[size], [value for row in rows[start : start + size] for value in row]
            start += size
