"""Disk: what outlives the processes of a simulated node: its last epoch and its journal.

A process that is killed while it writes leaves the transaction on the disk or not; the dice
decide.

Never here: files, SQL, threads.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from mesh.clock import wall_ns
from mesh.errors import LocalProtocolError, Unavailable
from mesh.protocol.commits import Applied, DeadLetter, Group, Stored
from mesh.protocol.once import Key
from mesh.protocol.once import Row as KeyRow
from mesh.storage.journal import DEAD_KEPT, LOST_KEPT, PAGE_BYTES, PAGE_ROWS, Done, Journal, Page

SYNC_S: Final = 0.002


@dataclass(slots=True)
class Log:
    """What is in the journal of one node."""

    log_id: str
    records: list[Stored] = field(default_factory=list)
    applied: dict[str, Applied] = field(default_factory=dict)
    acked: dict[str, Applied] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    rows: dict[Key, KeyRow] = field(default_factory=dict)

    def store(self, group: Group) -> None:
        """Make *group* part of it."""
        self.records += group.records
        for entry in group.applied:
            known = self.applied.get(entry.node)
            if known is None or known.log_id != entry.log_id or known.offset < entry.offset:
                self.applied[entry.node] = entry
        for entry in group.acks:
            if entry.log_id == self.log_id:
                self.acked[entry.node] = entry
        self.dead = [*self.dead, *group.dead][-DEAD_KEPT:]
        for row in group.rows:
            key = Key(row.node, row.idem)
            self.rows.pop(key, None)  # the newest come last
            self.rows[key] = row
        for key in group.forgotten:
            self.rows.pop(key, None)


@dataclass(slots=True)
class Disk:
    """The disk of one node. full: what is written is refused until there is space again.

    sync_s: how long a transaction takes.
    """

    log: Log
    epoch: int = 0
    full: bool = False
    sync_s: float = SYNC_S

    def next_epoch(self) -> int:
        """Return a number above that of every earlier run."""
        self.epoch = max(self.epoch + 1, wall_ns() // 1_000_000)
        return self.epoch


class MemoryJournal(Journal):
    """A journal whose file is a Log. later: calls something after seconds; dice: of the world."""

    def __init__(
        self, disk: Disk, path: Path, later: Callable[[float, Callable[[], None]], object],
        dice: Random,
    ) -> None:  # fmt: skip
        self.path, self.keep, self.floor = path, None, 0
        self.failure = None
        self.lost = deque(maxlen=LOST_KEPT)
        self.log_id, self.first, self.last = disk.log.log_id, 1, len(disk.log.records)
        self._disk, self._log, self._later, self._dice = disk, disk.log, later, dice
        self._in_flight = self._closed = False
        self._writing: Group | None = None
        self._done: Done | None = None

    def start(self, done: Done) -> None:
        """Tell *done* of each group from now on."""
        self._admit(Group())
        self._done = done

    def write(self, group: Group) -> None:
        """Store *group* a moment later; see Journal.write."""
        self._admit(group)
        if self._done is None:
            raise LocalProtocolError(f"the writer of {self.path} does not run")
        self._in_flight, self._writing = True, group
        self._later(self._disk.sync_s, self._written)

    def append(self, group: Group) -> None:
        """Store *group* before returning."""
        self._admit(group)
        self._store(group)

    def read(self, after: int = 0) -> Iterator[Stored]:
        """Yield every record behind *after*, oldest first."""
        yield from self._log.records[after:]

    def page(self, after: int, to: int, prefixes: tuple[str, ...]) -> Page:
        """Return some frames behind *after*, up to *to*, whose topics start so."""
        frames: list[bytes] = []
        size, through = 0, after
        for record in self._log.records[after : min(to, after + PAGE_ROWS)]:
            if record.topic.startswith(prefixes):
                if frames and size + len(record.frame) > PAGE_BYTES:
                    break
                frames.append(record.frame)
                size += len(record.frame)
            through = record.offset
        return Page(tuple(frames), through)

    def applied(self, node: str) -> Applied | None:
        """Return how far *node*'s journal was applied here, None if never."""
        return self._log.applied.get(node)

    def acked(self) -> dict[str, Applied]:
        """Return how far each consumer told us to have applied this log."""
        return dict(self._log.acked)

    def rows(self) -> list[KeyRow]:
        """Return the requests with a key, the oldest first."""
        return list(self._log.rows.values())

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, oldest first."""
        return tuple(self._log.dead)

    def kill(self) -> None:
        """End with the process: what is being written is on the disk, or it never happened."""
        self._closed = True
        if self._writing is not None and self._dice.random() < 0.5:  # a coin
            self._log.store(self._writing)
        self._writing = None

    def close(self) -> None:
        """Finish what is being written. Closing twice is fine."""
        self._closed = True
        self._written()

    def _written(self) -> None:
        group, self._writing, self._in_flight = self._writing, None, False
        if group is None or self._done is None:
            return
        if self._disk.full:
            self._done(group, Unavailable(f"journal {self.path}: the disk is full"))
            return
        self._store(group)
        self._done(group, None)

    def _store(self, group: Group) -> None:
        self._log.store(group)
        self.last += len(group.records)
