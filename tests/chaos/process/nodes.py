"""Small nodes for tests that kill, stop and starve real processes; `kind` says which one.

Never here: tests, fixtures, the starting of processes (homes).
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from mesh.errors import MeshError, NotFound
from mesh.protocol import envelope
from mesh.protocol.access import GUEST, Access, Grants
from mesh.protocol.control import DURABLE, EPHEMERAL, Bye, Heartbeat
from mesh.runtime import runner
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.doing import NO_REPLY
from mesh.runtime.keys import Keyring, load_access
from mesh.runtime.settings import Paths
from tests.chaos.process.reborn import keep_alive

TURN_S = 0.01  # between two bursts of a paced node

Order: TypeAlias = tuple[int, str, float]  # number, where the shop dies, how long after that
FREE: Final[Order] = (0, "nowhere", 0.0)  # one that goes well


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


class Witness(Tested):
    """Hears the goodbyes that a coordinator would, and keeps them."""

    says: ClassVar = {"x.done": DURABLE}

    @request("mesh.bye")
    async def bye(self, bye: Bye) -> None:
        await self.commit(("x.done", bye.node))


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
    """Sells and rents once per key and pays once; it dies where an order says, once per order.

    fault: the directory where it notes that it did, and that it had the time to save.
    """

    says: ClassVar = {"x.sold.": DURABLE, "x.rent.": DURABLE, "x.paid.": DURABLE}

    async def begin(self) -> None:
        self.died = Path(self.settings.fault)

    async def on_stop(self) -> None:
        (self.died / "saved").touch()

    def die(self, number: int) -> None:
        """End as SIGKILL does, unless an earlier run did so at this order."""
        with suppress(FileExistsError):
            (self.died / str(number)).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

    async def effect(self, topic: str, order: Order, reply: object = NO_REPLY) -> int:
        """Commit the number of an order and return its answer, or die before, in or after that."""
        number, where, after_s = order
        loop = asyncio.get_running_loop()
        if where == "before":
            self.die(number)
        elif where == "during":
            loop.call_later(after_s, self.die, number)
        await self.commit((topic, number), reply=reply)
        if where == "after":
            self.die(number)
        elif where == "never":
            await asyncio.Event().wait()
        elif where == "sent":  # the answer is with the socket, or with its thread, or gone out
            loop.call_soon(loop.call_later, after_s, self.die, number)
        return -number

    @request("shop.look", timeout_s=10.0)
    async def look(self, number: int) -> int:
        await asyncio.sleep(0.01)
        return -number

    @request("shop.sell", kind="keyed", timeout_s=10.0)
    async def sell(self, order: Order) -> int:
        return await self.effect("x.sold.a", order, reply=-order[0])

    @request("shop.rent", kind="keyed", timeout_s=10.0)
    async def rent(self, order: Order) -> int:
        return await self.effect("x.rent.a", order)

    async def resolve_request(self, method: str, arg: Any, caller: str) -> int:
        """Find out by the journal what an earlier run did."""
        for record in self.journal.read():
            event = envelope.decode_event(record.frame)
            if event.topic == "x.rent.a" and envelope.decode_value(event.payload) == arg[0]:
                return -int(arg[0])
        raise NotFound("it had no effect")

    @request("shop.pay", kind="once", timeout_s=10.0)
    async def pay(self, order: Order) -> int:
        return await self.effect("x.paid.a", order)


class Buyer(Tested):
    """Gives the orders in a file to their shops, one after the other at each; writes outcomes.

    What may be asked again, with the same key, it asks again until there is an answer.
    """

    async def begin(self) -> None:
        self.file = Path(self.settings.fault)
        self.told: dict[int, list[str]] = {}
        self.spawn(self.buy(), "buy")

    async def buy(self) -> None:
        """Work off the orders: [shop, method, [number, where, after_s]]."""
        lanes: dict[str, list[tuple[str, Order]]] = {}
        for shop, method, order in msgspec.json.decode(self.file.read_bytes()):
            lanes.setdefault(shop, []).append((method, tuple(order)))
        await asyncio.gather(*(self.visit(shop, orders) for shop, orders in lanes.items()))
        written = self.file.with_suffix(".part")
        written.write_bytes(msgspec.json.encode(self.told))
        written.rename(self.file.with_suffix(".done"))

    async def visit(self, shop: str, orders: list[tuple[str, Order]]) -> None:
        """Give a shop its orders; ten calls in between pay for a retry.

        The first of these may be lost: the shop may still die of the order before.
        """
        for method, order in orders:
            keyed = method != "shop.pay"
            for _ in range(10):
                await self.bought(shop, method, FREE, "free" * keyed or None)
            told = self.told[order[0]] = list[str]()
            while not told or (keyed and told[-1].startswith("unknown")):
                told.append(await self.bought(shop, method, order, f"{order[0]}" * keyed or None))

    async def bought(self, shop: str, method: str, order: Order, key: str | None) -> str:
        """Return what came of an order."""
        try:
            return str(await self.call(method, order, int, timeout_s=20.0, target=shop, key=key))
        except MeshError as error:
            return f"{error.executed} {error.code}"


class Crowd(Tested):
    """Looks and buys in several lanes until told to stop; then writes what went wrong.

    fault: the file it writes. What may be asked again, with the same key, is asked again.
    """

    async def begin(self) -> None:
        self.file, self.number = Path(self.settings.fault), 0
        self.bought: list[int] = []
        self.failed: list[str] = []
        for lane in range(8):
            self.spawn(self.visit(), f"lane {lane}")

    async def visit(self) -> None:
        """Look, then buy, for ever."""
        while True:
            self.number += 1
            number = self.number
            await self.answered("shop.look", number, -number, None)
            await self.answered("shop.sell", (number, "nowhere", 0.0), -number, f"{number}")
            self.bought.append(number)

    async def answered(self, method: str, arg: object, answer: int, key: str | None) -> None:
        """Return once there is an answer; what else there was is a failure."""
        while True:
            try:
                told: object = await self.call(method, arg, int, timeout_s=10.0, key=key)
            except MeshError as error:
                told = f"{error.executed} {error.code}"
            if told == answer:
                return
            self.failed.append(f"{method} {arg}: {told}")
            await asyncio.sleep(0.05)  # who fails at once is not asked at once

    async def on_stop(self) -> None:
        self.file.write_bytes(msgspec.json.encode([self.bought, self.failed]))


KINDS = {
    kind.__name__.lower(): kind
    for kind in (Applier, Buyer, Counter, Crowd, Hearer, Shop, Snail, Watcher, Witness)
}


def _access(paths: Paths, ring: Keyring | None = None) -> Access:
    """Return the real rules, by which guests may call the shop."""
    given = load_access(paths, ring)
    guest = given.roles[GUEST] | Grants(call=("shop.",))
    return Access({**given.roles, GUEST: guest}, given.assigned)


if __name__ == "__main__":
    runner.load_access = _access  # type: ignore[attr-defined]  # what it imports
    name = sys.argv[sys.argv.index("--node") + 1]
    live = partial(runner.run, name, lambda settings: KINDS[settings.kind](settings), Settings)
    raise SystemExit(keep_alive(live) if os.environ.get("REBORN") else live())
