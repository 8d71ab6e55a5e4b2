"""The durable stream: a commit against one raw SQLite commit, the sustained rate, a late joiner.

The floor writes one row of the same size in WAL mode with synchronous=FULL, in turns with the
mesh in the same directory. Never here: assertions.
"""

import asyncio
import multiprocessing
import sqlite3
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final

import uvloop

from bench.places import living, quantiles
from mesh.protocol.control import DURABLE
from mesh.runtime.component import Component, EventMeta, event

SINGLE: Final = 600  # commits one after the other
SUSTAINED_S: Final = 4.0
CALLERS: Final = 256  # commits under way at a time
STREAM: Final = 100_000  # records a late joiner has to take
ROW: Final = b"x" * 160


class Source(Component):
    """Commits on demand."""

    says: ClassVar = {"x.log.": DURABLE}


class Joiner(Component):
    """Follows the stream from its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.complete = 0, asyncio.Event()

    def applied_offset(self, node: str, log_id: str) -> int:
        """Begin at the first record."""
        return 0

    @event("x.log.", durable=True)
    def on_record(self, value: str, meta: EventMeta) -> None:
        """Count it."""
        self.count += 1
        if meta.offset >= STREAM:
            self.complete.set()


def measure() -> list[dict[str, Any]]:
    """Return rows for one commit, the floor of it, the sustained rate and the late joiner."""
    with tempfile.TemporaryDirectory(dir=_disk()) as home:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        publisher = context.Process(target=publish, args=(Path(home), there))
        publisher.start()
        try:
            rows: list[dict[str, Any]] = here.recv()
            joined = [uvloop.run(join(Path(home), number)) for number in range(3)]
        finally:
            here.send("end")
            publisher.join()
    rows.append({"what": f"late joiner, {STREAM} events", "s": round(sorted(joined)[1], 3)})
    return rows


def publish(home: Path, control: Connection) -> None:
    """Measure commits, send the rows, then serve the stream until told to end."""
    uvloop.run(_publish(home, control))


async def _publish(home: Path, control: Connection) -> None:
    source = Source()
    async with living(home, "source", source):
        rows = [*await _single(home, source), await _sustained(source)]
        while source.journal.last < STREAM:
            await _many(source, STREAM - source.journal.last)
        control.send(rows)
        await asyncio.get_running_loop().run_in_executor(None, control.recv)


async def _single(home: Path, source: Source) -> list[dict[str, Any]]:
    raw = sqlite3.connect(home / "raw.sqlite3", isolation_level=None)
    raw.executescript("pragma journal_mode=wal; pragma synchronous=full; create table t (b blob)")
    ours, floor = [], []
    for _ in range(SINGLE):
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


async def _sustained(source: Source) -> dict[str, Any]:
    first, began = source.journal.last, time.perf_counter()
    until = began + SUSTAINED_S

    async def caller() -> None:
        while time.perf_counter() < until:
            await source.commit(("x.log.a", "payload of a durable event"))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    spent = time.perf_counter() - began
    return {"what": "durable sustained", "per_s": round((source.journal.last - first) / spent)}


async def _many(source: Source, number: int) -> None:
    batch = [("x.log.a", "payload of a durable event")] * min(number, 1_000)
    await source.commit(*batch)


async def join(home: Path, number: int) -> float:
    """Return how long a node that begins now takes to have the whole stream."""
    joiner = Joiner()
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
