"""A journal of numbers and those who follow it, for tests of durable streams.

A Keeper stores each effect with its offset in one transaction, a Follower only remembers.
Never here: tests.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

from mesh.protocol.catchup import Notice
from mesh.protocol.control import DURABLE, EPHEMERAL
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.planes import JOURNALS
from mesh.storage.journal import Journal

PATIENCE_S = 10


class Owner(Component):
    """Owns a journal of numbers, and ticks beside it."""

    says: ClassVar = {"d.n.": DURABLE, "d.t.": EPHEMERAL}
    rebuilds: ClassVar = False

    async def store(self, numbers: range, topic: str = "d.n.a") -> None:
        """Commit *numbers*, some hundred in a transaction."""
        for start in range(0, len(numbers), 500):
            await self.commit(*((topic, number) for number in numbers[start : start + 500]))

    @request("owner.write", writes=True)
    async def write(self, number: int) -> int:
        return await self.commit(("d.n.a", number))

    @request("owner.last", at_once=True)
    def tell(self, _: None) -> int:
        return self.journal.last

    @request("owner.state", timeout_s=0.5)
    def tell_state(self, _: None) -> str:
        return "as decided, on disk or not"


class Follower(Component):
    """Follows from the first offset; stores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.replayed = 0
        self.notices: list[Notice] = []
        self.ticks = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached: dict[int, Callable[[], None]] = {}

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    def on_log_notice(self, node: str, notice: Notice) -> None:
        self.notices.append(notice)

    @event("d.n.", durable=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        await self.gate.wait()
        await self.apply(number, meta)
        self.numbers.append(number)
        self.replayed += meta.replay
        if number in self.reached:
            self.reached.pop(number)()

    async def apply(self, number: int, meta: EventMeta) -> None:
        """Do what is to be done with a number."""

    @event("d.t.")
    def on_tick(self, number: int) -> None:
        self.ticks += 1


class Keeper(Follower):
    """Stores each effect with its offset."""

    says: ClassVar = {"k.done": DURABLE}

    async def apply(self, number: int, meta: EventMeta) -> None:
        await self.commit(("k.done", number), applied=meta)


def reader_of(bus: Bus, node: str = "owner") -> Any:
    return bus.peers.readers[node]


def journal_of(mesh: Any, node: str) -> Path:
    path: Path = mesh.paths.state / JOURNALS / f"{node}.sqlite3"
    return path


def digest(numbers: list[int]) -> int:
    """Return what tells whether two consumers have applied the same in the same order."""
    return crc32(" ".join(map(str, numbers)).encode())


@contextmanager
def stuck(journal: Journal) -> Iterator[Callable[[], None]]:
    """Let the writer of *journal* stay in its next statement until the yielded is called."""
    go_on = threading.Event()
    journal._db.set_progress_handler(lambda: not go_on.wait(PATIENCE_S), 1)
    try:
        yield go_on.set
    finally:
        go_on.set()
