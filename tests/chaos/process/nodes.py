"""Small nodes for tests that kill, stop and starve real processes; `kind` says which one.

Never here: tests, fixtures, the starting of processes (homes).
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import msgspec

from mesh.errors import MeshError
from mesh.protocol.access import GUEST, Access, Grants
from mesh.protocol.control import DURABLE, EPHEMERAL, Heartbeat
from mesh.runtime import runner
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.keys import Keyring, load_access
from mesh.runtime.settings import Paths

TURN_S = 0.01  # between two bursts of a paced node


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a test may set. per_s: events a second, 0 for none; fault: file that lets one fail."""

    kind: str
    per_s: float = 0.0
    topics: int = 1
    fault: str = ""


class Tested(Component):
    """Tells its parent when it is up."""

    async def on_start(self) -> None:
        await self.begin()
        print("up", flush=True)  # noqa: T201  # the parent waits for it

    async def begin(self) -> None:
        """Start what the node does."""


class Counter(Tested):
    """Commits 1, 2, 3, … on x.n., one after the other over all its runs; ticks on x.t."""

    says: ClassVar = {"x.n.": DURABLE, "x.t.": EPHEMERAL}

    async def begin(self) -> None:
        self.number = self.journal.last  # a number per offset: the journal is the memory
        self.ticks = 0
        self.spawn(self.count(), "count")

    async def count(self) -> None:
        """Commit what is due by the loop's clock, each number in a wish of its own."""
        loop, per_s = asyncio.get_running_loop(), self.settings.per_s
        begun, done = loop.time(), 0
        while True:
            await asyncio.sleep(TURN_S)
            due = int((loop.time() - begun) * per_s) - done
            done += due
            await asyncio.gather(*(self.commit(self.following()) for _ in range(due)))
            for _ in range(due):
                self.ticks += 1
                self.emit(f"x.t.{self.ticks % self.settings.topics}", self.ticks)

    def following(self) -> tuple[str, int]:
        """Return the next record."""
        self.number += 1
        return "x.n.all", self.number

    @request("counter.add")
    async def add(self, count: int) -> int:
        """Commit so many numbers in one transaction; return the last."""
        await self.commit(*(self.following() for _ in range(count)))
        return self.number


class Applier(Tested):
    """Applies x.n. and stores each effect with its offset in one transaction."""

    says: ClassVar = {"x.done": DURABLE}

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("x.n.", durable=True, batch=True)
    async def on_numbers(self, numbers: list[int], meta: EventMeta) -> None:
        await self.commit(*(("x.done", number) for number in numbers), applied=meta)


class Snail(Tested):
    """Hears ticks that must be fresh, in a loop that something else keeps busy."""

    async def begin(self) -> None:
        self.spawn(self.hog(), "hog")

    async def hog(self) -> None:
        """Take nearly all of the loop's time, as a computation in the wrong place does."""
        while True:
            time.sleep(0.2)  # noqa: ASYNC251  # that it blocks is the point
            await asyncio.sleep(0)

    @event("x.t.", max_age_s=0.1)
    def on_tick(self, number: int) -> None:
        """Be fresh, or not be."""


class Watcher(Tested):
    """Keeps, in its journal, each change of state that heartbeats tell of."""

    says: ClassVar = {"x.seen": DURABLE}

    async def begin(self) -> None:
        self.states: dict[str, str] = {}

    @event("!hb")
    async def on_heartbeat(self, beat: Heartbeat, meta: EventMeta) -> None:
        if self.states.get(meta.node) != beat.state:
            self.states[meta.node] = beat.state
            await self.commit(("x.seen", [meta.node, beat.state]))


class Hearer(Tested):
    """Keeps the first tick that it hears of each run of whoever says it, and every number."""

    says: ClassVar = {"x.done": DURABLE, "x.run": DURABLE}

    async def begin(self) -> None:
        self.run = 0

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("x.n.", durable=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        await self.commit(("x.done", number), applied=meta)

    @event("x.t.", conflate=True)
    async def on_tick(self, number: int, meta: EventMeta) -> None:
        if meta.epoch != self.run:
            self.run = meta.epoch
            await self.commit(("x.run", meta.epoch))


class Shop(Tested):
    """Sells once per key and pays once; at *fault* it dies between an effect and its answer."""

    says: ClassVar = {"x.sold.": DURABLE, "x.paid.": DURABLE}

    async def begin(self) -> None:
        self.file = Path(self.settings.fault)

    def die_if_told(self, where: str, number: int) -> None:
        """End as SIGKILL does, at one place of a handler, if the test has written it down."""
        if self.file.exists() and self.file.read_text() == f"{where} {number}":
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    @request("shop.sell", kind="keyed", timeout_s=10.0)
    async def sell(self, number: int) -> int:
        self.die_if_told("before", number)
        await self.commit(("x.sold.a", number), reply=-number)
        self.die_if_told("after", number)
        return -number

    @request("shop.pay", kind="once", timeout_s=10.0)
    async def pay(self, number: int) -> int:
        self.die_if_told("before", number)
        await self.commit(("x.paid.a", number))
        self.die_if_told("after", number)
        return -number


class Buyer(Tested):
    """Does as the files say that its parent writes: one order, one outcome."""

    async def begin(self) -> None:
        self.file = Path(self.settings.fault)
        self.spawn(self.buy(), "buy")

    async def buy(self) -> None:
        """Call for each order, and write what came of it."""
        while True:
            await asyncio.sleep(0.002)
            if not self.file.exists():
                continue
            method, number, key = self.file.read_text().split()
            self.file.unlink()
            kept = key if method == "shop.sell" else None
            try:
                for _ in range(2):  # calls that go well: the breaker shall not open
                    await self.call(method, 0, int, key=kept and "0")
                answer = await self.call(method, int(number), int, timeout_s=20.0, key=kept)
                outcome = f"{number} answer {answer}"
            except MeshError as error:
                outcome = f"{number} {error.code} {error.executed}"
            written = self.file.with_suffix(".part")
            written.write_text(outcome)
            written.rename(self.file.with_suffix(".done"))


KINDS = {
    kind.__name__.lower(): kind for kind in (Applier, Buyer, Counter, Hearer, Shop, Snail, Watcher)
}


def _access(paths: Paths, ring: Keyring | None = None) -> Access:
    """Return the real rules, by which guests may call the shop."""
    given = load_access(paths, ring)
    guest = given.roles[GUEST] | Grants(call=("shop.",))
    return Access({**given.roles, GUEST: guest}, given.assigned)


if __name__ == "__main__":
    runner.load_access = _access  # type: ignore[attr-defined]  # what it imports
    name = sys.argv[sys.argv.index("--node") + 1]
    raise SystemExit(runner.run(name, lambda settings: KINDS[settings.kind](settings), Settings))
