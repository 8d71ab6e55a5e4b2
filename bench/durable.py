"""The durable stream: a commit against one raw SQLite commit, the sustained rate, a late joiner.

The floor writes one row of the same size in WAL mode with synchronous=FULL, in turns with the
mesh in the same directory. Never here: assertions.
"""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final

import uvloop

from bench.places import beside, living, quantiles
from mesh.protocol.control import DURABLE
from mesh.runtime.component import Component, EventMeta, event

CALLERS: Final = 256  # commits under way at a time
ROW: Final = b"x" * 160


@dataclass(frozen=True, slots=True)
class Sizes:
    """single: commits one after the other. stream: records a late joiner has to take."""

    single: int = 600
    sustained_s: float = 4.0
    stream: int = 100_000
    joiners: int = 3


QUICK: Final = Sizes(20, 0.2, 2_000, 1)


class Source(Component):
    """Commits on demand."""

    says: ClassVar = {"x.log.": DURABLE}


class Joiner(Component):
    """Follows the stream from its beginning."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.count, self.wanted, self.complete = 0, wanted, asyncio.Event()

    def applied_offset(self, node: str, log_id: str) -> int:
        """Begin at the first record."""
        return 0

    @event("x.log.", durable=True)
    def on_record(self, value: str, meta: EventMeta) -> None:
        """Count it."""
        self.count += 1
        if meta.offset >= self.wanted:
            self.complete.set()


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return rows for one commit, the floor of it, the sustained rate and the late joiner."""
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory(dir=_disk()) as place:
        home = Path(place)
        with beside(publish, home) as publisher:
            publisher.send(sizes)
            rows: list[dict[str, Any]] = publisher.recv()
            joined = [uvloop.run(join(home, n, sizes.stream)) for n in range(sizes.joiners)]
    spent_s = round(statistics.median(joined), 3)
    return [*rows, {"what": "late joiner", "events": sizes.stream, "s": spent_s}]


def publish(home: Path, control: Connection) -> None:
    """Measure commits, send the rows, then serve the stream until told to end."""
    uvloop.run(_publish(home, control))


async def _publish(home: Path, control: Connection) -> None:
    source, sizes = Source(), control.recv()
    async with living(home, "source", source):
        rows = [
            *await _single(home, source, sizes.single),
            await _sustained(source, sizes.sustained_s),
        ]
        while source.journal.last < sizes.stream:
            await _many(source, sizes.stream - source.journal.last)
        control.send(rows)
        await asyncio.get_running_loop().run_in_executor(None, control.recv)


async def _single(home: Path, source: Source, number: int) -> list[dict[str, Any]]:
    raw = sqlite3.connect(home / "raw.sqlite3", isolation_level=None)
    raw.executescript("pragma journal_mode=wal; pragma synchronous=full; create table t (b blob)")
    ours, floor = [], []
    for _ in range(number):
        began = time.perf_counter()
        raw.execute("begin immediate")
        raw.execute("insert into t values (?)", (ROW,))
        raw.execute("commit")
        floor.append((time.perf_counter() - began) * 1e6)
        began = time.perf_counter()
        await source.commit(("x.log.a", "payload of a durable event"))
        ours.append((time.perf_counter() - began) * 1e6)
    raw.close()
    base, own = quantiles(floor), quantiles(ours)
    own["ratio_to"] = {"raw commit": {"p50_us": round(own["p50_us"] / base["p50_us"], 2)}}
    return [{"what": "raw SQLite commit", **base}, {"what": "durable publish", **own}]


async def _sustained(source: Source, length_s: float) -> dict[str, Any]:
    first, began = source.journal.last, time.perf_counter()
    until = began + length_s

    async def caller() -> None:
        while time.perf_counter() < until:
            await source.commit(("x.log.a", "payload of a durable event"))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    spent = time.perf_counter() - began
    return {"what": "durable sustained", "per_s": round((source.journal.last - first) / spent)}


async def _many(source: Source, number: int) -> None:
    batch = [("x.log.a", "payload of a durable event")] * min(number, 1_000)
    await source.commit(*batch)


async def join(home: Path, number: int, wanted: int) -> float:
    """Return how long a node that begins now takes to have the whole stream."""
    joiner = Joiner(wanted)
    began = time.perf_counter()
    async with living(home, f"joiner.{number}", joiner):
        async with asyncio.timeout(60):
            await joiner.complete.wait()
        return time.perf_counter() - began


def _disk() -> str | None:
    """Return a directory on a disk where the temporary one may lie in memory."""
    here = Path(__file__).resolve().parents[1] / "state"
    here.mkdir(exist_ok=True)
    return str(here)
