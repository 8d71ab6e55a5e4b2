"""Disk: a journal's file in a world where disks fill, stall, fail and are put back from copies.

One group is one transaction. A crash keeps what was synced; the group under way is kept or
lost as a whole.

Never here: numbering, publishing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mesh.protocol import topics
from mesh.protocol.commits import Applied, Group, Stored
from mesh.protocol.control import FetchPage
from mesh.sim.process import Process

SYNC_S: Final = 0.002
SLOW_SYNC_S: Final = 2.0

Done = Callable[[bool], None]  # False: the disk is full, nothing is stored


@dataclass(slots=True)
class Disk:
    """What one node's file holds. kept: told of every group that is stored."""

    process: Process
    dice: Random
    kept: Callable[[str, tuple[Stored, ...]], None]
    page_rows: int
    log_id: str = ""
    logs: int = 0
    first: int = 1
    records: list[Stored] = field(default_factory=list)  # all ever stored, offset 1 first
    applied: dict[str, Applied] = field(default_factory=dict)
    acks: dict[str, Applied] = field(default_factory=dict)
    epoch: int = 0
    slow_until: float = 0.0
    full_until: float = 0.0
    full_by: int = 0
    slow_by: int = 0
    failing: int = 0  # number + 1 of the fault that makes the next write fail
    failed: Callable[[], object] | None = None
    _under_way: Group | None = None

    def __post_init__(self) -> None:
        self.delete()

    @property
    def last(self) -> int:
        """Return the newest offset stored."""
        return len(self.records)

    def write(self, group: Group, done: Done) -> None:
        """Store *group*; done is called in this run of the process, unless it dies of it."""
        world = self.process.world
        took_s = SYNC_S * (0.5 + self.dice.random())
        if world.now < self.slow_until:
            world.effective(self.slow_by, "fsync")
            took_s += SLOW_SYNC_S
        self._under_way = group
        self.process.at(world.now + took_s, self._synced, group, done)

    def crash(self) -> None:
        """Lose what is not synced, or not."""
        group, self._under_way = self._under_way, None
        if group is not None and self.dice.random() < 0.5:
            self._keep(group)

    def delete(self) -> None:
        """Begin a new log, as if the file had been deleted."""
        self.logs += 1
        self.log_id = f"{self.process.name}.{self.logs}"
        self.first = 1
        self.records.clear()
        self.applied.clear()
        self.acks.clear()

    def restore(self, last: int) -> None:
        """Be an old copy that ends at *last*."""
        del self.records[last:]

    def retain(self, first: int) -> None:
        """Delete what lies before *first*."""
        self.first = max(self.first, min(first, self.last + 1))

    def page(self, log_id: str, after: int, to: int, prefixes: tuple[str, ...]) -> FetchPage:
        """Return the answer to a Fetch: a bounded page from what is stored."""
        if log_id != self.log_id:
            return FetchPage(self.log_id, (), 0, self.first, self.last)
        start = max(after, self.first - 1)
        through = max(start, min(to, start + self.page_rows, self.last))
        frames = tuple(
            record.frame
            for record in self.records[start:through]
            if any(topics.matches(prefix, record.topic) for prefix in prefixes)
        )
        return FetchPage(self.log_id, frames, through, self.first, self.last)

    def _synced(self, group: Group, done: Done) -> None:
        world = self.process.world
        self._under_way = None
        if self.failing:
            world.effective(self.failing - 1, "write_error")
            self.failing = 0
            if self.dice.random() < 0.5:  # what a failed fsync left is not known
                self._keep(group)
            if self.failed is not None:
                self.failed()
            return
        if world.now < self.full_until and group.records:
            world.effective(self.full_by, "full")
            done(False)
            return
        self._keep(group)
        done(True)

    def _keep(self, group: Group) -> None:
        assert not group.records or group.records[0].offset == self.last + 1
        self.records.extend(group.records)
        for done in group.applied:
            self.applied[done.node] = done
        for ack in group.acks:
            self.acks[ack.node] = ack
        self.kept(self.log_id, group.records)
