"""One script on real sockets and files, and on LoopbackMesh: the same comes out.

Never here: what may differ, such as how often an event comes that comes at least once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from mesh.errors import Denied, MeshError, NotFound
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.sim.loopback import LoopbackMesh
from tests.integration.conftest import LocalMesh, until

Outcome = list[Any]
LIMIT_S = 15.0


class Price(msgspec.Struct, frozen=True, array_like=True):
    name: str
    at: Decimal


SCHEMAS: dict[type, int] = {Price: 0x7F01}


class Desk(Component):
    """Hears and answers in every way there is. heard: what came, in the order of its stream."""

    says: ClassVar = {"x.sum": DURABLE, "x.echo": EPHEMERAL}
    schemas = SCHEMAS

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, list[Any]] = {}
        self.sum = 0

    def note(self, what: str, *facts: Any) -> None:
        self.heard.setdefault(what, []).append(facts)

    def applied_offset(self, node: str, log_id: str) -> int:
        return 0

    async def on_start(self) -> None:
        self.sum = sums(self)
        self.hear("x.plain")
        self.subscribe("x.raw", lambda payload, schema, meta: self.note("raw", payload, schema))

    async def on_event(self, event_type: str, data: Any, source: str) -> None:
        self.note("plain", event_type, data, source)

    async def process_request(self, request_type: str, data: Any, source: str) -> Any:
        if request_type == "double":
            return [data * 2, source]
        return await super().process_request(request_type, data, source)

    @event("x.price.")
    def on_price(self, price: Price, meta: EventMeta) -> None:
        self.note("price", meta.topic, price, meta.node, meta.tombstone)

    @event("x.last.")
    async def on_last(self, value: int, meta: EventMeta) -> None:
        self.note("last", meta.topic, value, meta.tombstone)

    @event("x.number", durable=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        self.note("number", number, meta.offset)
        if number < 0:
            raise ValueError("never negative")
        self.sum += 1
        await self.commit(("x.sum", self.sum), applied=meta)

    @request("desk.price")
    async def price(self, price: Price, caller: str) -> list[Any]:
        return [price.name, price.at, caller]

    @request("desk.fail")
    async def fail(self, how: str) -> None:
        if how == "bug":
            raise ValueError("a bug")
        raise {"denied": Denied, "absent": NotFound}[how](how)

    @request("desk.hang", timeout_s=0.2)
    async def hang(self, _: None) -> None:
        await asyncio.Event().wait()

    @request("desk.count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            if number == 40:
                raise Denied("enough")
            yield number

    @request("desk.add", kind="keyed", writes=True)
    async def add(self, number: int) -> int:
        total = self.sum + number
        await self.commit(("x.sum", total), reply=total)
        self.sum = total
        return total


class Driver(Component):
    """Runs a script once it is told to; outcome: what came of each step."""

    says: ClassVar = {
        "x.price.": EPHEMERAL,
        "x.plain": EPHEMERAL,
        "x.raw": EPHEMERAL,
        "x.last.": LASTVALUE,
        "x.number": DURABLE,
    }
    schemas = SCHEMAS

    def __init__(self, script: "Callable[[Driver, Desk], Awaitable[None]]", desk: Desk) -> None:
        super().__init__()
        self._script, self._desk = script, desk
        self.outcome: Outcome = []
        self.done = False

    async def on_start(self) -> None:
        self.spawn(self._run(), "script")

    async def _run(self) -> None:
        await self._script(self, self._desk)
        self.done = True

    async def tell(self, step: Awaitable[Any]) -> None:
        """Do a step; note its value or its error."""
        try:
            self.outcome.append(await step)
        except MeshError as error:
            self.outcome.append((type(error).__name__, error.executed, str(error)))

    def attempt(self, step: Callable[[], object]) -> None:
        """Do a step that must not work; note its error."""
        try:
            step()
        except (MeshError, TypeError) as error:
            self.outcome.append((type(error).__name__, str(error)))
        else:
            raise AssertionError("it worked")

    async def parts(self, to: int) -> list[int]:
        """Take a reply in parts; how many came before it failed counts, too."""
        taken: list[int] = []
        self.outcome.append(taken)
        async for number in self.stream("desk.count", to, int):
            taken.append(number)  # noqa: PERF401  # what was taken before an error stays
        return taken


def sums(desk: Desk) -> int:
    """Return how many sums are on the desk's disk."""
    return sum(stored.topic == "x.sum" for stored in desk.journal.read())


def distinct(heard: list[Any]) -> list[Any]:
    """Return what was heard at least once, in order."""
    return list(dict.fromkeys(heard))


async def calls(me: Driver, desk: Desk) -> None:
    price = Price("a", Decimal("1.50"))
    await me.tell(me.call("desk.price", price, list[Any]))
    await me.tell(me.call("desk.price", 5, list[Any]))
    await me.tell(me.call("desk.price", price, int))
    for how in ("bug", "denied", "absent"):
        await me.tell(me.call("desk.fail", how, type(None)))
    await me.tell(me.call("nobody.serves", None, int))
    await me.tell(me.call("desk.price", price, list[Any], target="test.nobody"))
    await me.tell(me.call("desk.hang", None, type(None), timeout_s=1.0))
    await me.tell(me.parts(100))
    await me.tell(me.parts(10))
    await me.tell(me.call("desk.add", 3, int))
    await me.tell(me.call("desk.add", 3, int, key="k"))
    await me.tell(me.call("desk.add", 3, int, key="k"))
    await me.tell(me.call("desk.add", 4, int, key="k"))


async def seed_calls(me: Driver, desk: Desk) -> None:
    """Walk through the calls of the project's first document."""
    await me.tell(me.request("test.desk", "double", 21))
    await me.tell(me.request("test.desk", "desk.price", ["a", "1.5"]))
    await me.tell(me.request("test.desk", "unknown", None))
    await me.tell(me.request("test.nobody", "double", 1))
    while not desk.heard.get("plain"):  # nothing says when a prefix is heard everywhere
        await me.emit_event("x.plain", {"a": [1, None, "b"]})
        await asyncio.sleep(0.02)
    me.outcome.append(desk.heard["plain"][0])
    await until(desk.event_queue.empty)
    me.outcome.append((me.id, desk.id, desk.event_queue.maxsize))


async def events(me: Driver, desk: Desk) -> None:
    price = Price("a", Decimal("1.50"))
    me.emit("x.last.a", 1)
    while not desk.heard.get("price"):
        me.emit("x.price.a", price)
        await asyncio.sleep(0.02)
    me.outcome.append(desk.heard["price"][0])
    me.emit("x.last.a", 2)
    await until(lambda: ("x.last.a", 2, False) in desk.heard.get("last", ()), LIMIT_S)
    me.retire("x.last.a", 2)
    await until(lambda: ("x.last.a", 2, True) in desk.heard["last"], LIMIT_S)
    while not desk.heard.get("raw"):
        me.emit("x.raw", price)
        await asyncio.sleep(0.02)
    me.outcome.append(desk.heard["raw"][0])
    me.attempt(lambda: me.emit("y.undeclared", 1))
    me.attempt(lambda: me.emit("x.number", 1))
    me.attempt(lambda: me.emit("x.price.A\0", 1))
    me.attempt(lambda: me.emit("x.price.a", object()))
    me.attempt(lambda: me.emit("x.price.a", "a" * 20_000))
    me.attempt(lambda: me.retire("x.price.a", 1))


async def durable(me: Driver, desk: Desk) -> None:
    for number in (1, 2, -1, 3):
        await me.tell(me.commit(("x.number", number)))
    await me.tell(me.commit(("x.price.a", 1)))
    await me.tell(me.commit(("x.number", "a" * 5_000)))
    await until(lambda: sums(desk) == 3, LIMIT_S)
    me.outcome.append(distinct(desk.heard["number"]))
    me.outcome.append([(letter.topic, letter.why) for letter in desk.journal.dead_letters()])
    me.outcome.append([stored.topic for stored in desk.journal.read()])


async def after_crash(me: Driver, desk: Desk) -> None:
    await me.tell(me.commit(("x.number", 4)))
    await until(lambda: sums(desk) == 4, LIMIT_S)
    me.outcome.append(distinct(desk.heard["number"]))


async def on_sockets(home: Path, scripts: list[Any]) -> Outcome:
    outcome: Outcome = []
    async with asyncio.TaskGroup() as tasks:
        mesh = LocalMesh(home, tasks)
        for script in scripts:
            desk = Desk()
            await mesh.start("test.desk", desk)
            driver = Driver(script, desk)
            await mesh.start("test.driver", driver)
            await until(lambda: driver.done, LIMIT_S)  # noqa: B023  # of this turn
            outcome.append(driver.outcome)
            for node in ("test.desk", "test.driver"):
                mesh.crash(node)
    return outcome


def in_memory(seed: int, scripts: list[Any]) -> Outcome:
    outcome: Outcome = []
    with LoopbackMesh(seed) as mesh:
        for script in scripts:
            desk = Desk()
            mesh.start("test.desk", desk)
            driver = Driver(script, desk)
            mesh.start("test.driver", driver)
            for _ in range(int(LIMIT_S * 10)):
                if driver.done:
                    break
                mesh.advance(0.1)
            outcome.append(driver.outcome)
            for node in ("test.desk", "test.driver"):
                mesh.kill(node)
    return outcome


@pytest.mark.parametrize(
    "scripts",
    [[calls], [seed_calls], [events], [durable, after_crash]],
    ids=lambda scripts: scripts[0].__name__,
)
def test_the_same_comes_out(tmp_path: Path, scripts: list[Any]) -> None:
    real = asyncio.run(
        on_sockets(tmp_path, scripts)
    )  # not at the same time: one clock is simulated
    assert in_memory(0, scripts) == real
    assert in_memory(1, scripts) == real
