"""Ten times the load that a server can take: what it still does, and how fast it says no.

32 sessions offer calls at a fixed rate to a handler that holds a slot for a while; the server's
own limits decide what runs, waits and is refused. First as much as it takes (capacity), then ten
times that (overload), with an urgent call now and then in both. Calls are of class once, so
nobody tries again. The floor of goodput is what was answered in time before.

Never here: assertions.
"""

import asyncio
import random
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.places import END, beside, living, quantiles
from mesh.errors import Overloaded
from mesh.protocol import envelope
from mesh.protocol.control import Hello
from mesh.protocol.envelope import WIRE
from mesh.protocol.outcomes import Replied
from mesh.protocol.rpcs import Ask
from mesh.runtime.component import Component, request
from mesh.runtime.directory import Directory
from mesh.runtime.health import rss_bytes
from mesh.transport.requester import Requester
from mesh.transport.sockets import Sockets

SESSIONS: Final = 32
HOLD_S: Final = 0.8  # a slot, on average: ten times what the slots allow is no flood
FULL_PER_S: Final = 500  # more than the slots allow
BUDGET_S: Final = 5.0  # of a call, so that what waits for a slot is done in time
URGENT_S: Final = 0.02  # between two urgent calls
TICK_S: Final = 0.005  # calls are offered in such steps
TIMES: Final = 10
MIB: Final = 2**20
SAMPLES_MAX: Final = 250_000  # their room is taken at once: it is not to look like a leak
BODY: Final = envelope.encode_value(None)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long each load is offered before it is measured, and how long it is then."""

    lead_s: float = 5.0
    capacity_s: float = 6.0
    overload_s: float = 60.0


QUICK: Final = Sizes(2.0, 1.0, 1.0)


class Server(Component):
    """Holds a slot for each call."""

    @request("x.hold", kind="once")
    async def hold(self, _: None) -> None:
        """Take a while."""
        await asyncio.sleep(HOLD_S * random.uniform(0.5, 1.5))  # else all answers come at once

    @request("x.cancel", kind="safe", urgent=True)
    async def cancel(self, _: None) -> None:
        """Do what must be possible at any time."""


@dataclass(slots=True)
class Told:
    """What became of the calls of one load while it was measured."""

    measuring: bool = False
    answered: int = 0
    refused: int = 0
    refused_us: "array[float]" = field(default_factory=lambda: array("d", bytes(8 * SAMPLES_MAX)))
    urgent_us: list[float] = field(default_factory=list)
    offered: int = 0
    bytes_grown: int = 0


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return rows of capacity and overload; ratio_to names what a row is compared with."""
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as place, beside(serve, Path(place)) as server:
        return uvloop.run(load(Path(place), server, sizes))


def serve(home: Path, control: Connection) -> None:
    """Serve until the other process says end; answer anything else with our memory."""
    uvloop.run(_serve(home, control))


async def _serve(home: Path, control: Connection) -> None:
    loop = asyncio.get_running_loop()
    async with living(home, "server", Server()):
        while await loop.run_in_executor(None, control.recv) != END:
            control.send(rss_bytes())


async def load(home: Path, server: Connection, sizes: Sizes) -> list[dict[str, Any]]:
    """Offer both loads and return the rows."""
    with sessions(home) as callers:
        await asyncio.gather(*(caller.call(Ask("x.cancel", BODY, BUDGET_S)) for caller in callers))
        offered = partial(_offered, callers, server, sizes.lead_s)
        capacity = (await offered(FULL_PER_S, sizes.capacity_s)).answered / sizes.capacity_s
        calm = await offered(capacity / 10, sizes.capacity_s)
        under = await offered(TIMES * capacity, sizes.overload_s)
    goodput = under.answered / sizes.overload_s
    urgent, loaded = quantiles(calm.urgent_us), quantiles(under.urgent_us)
    return [
        {"what": "capacity", "per_s": round(capacity)},
        {
            "what": "overload",
            "offered_per_s": round(under.offered / sizes.overload_s),
            "per_s": round(goodput),
            "ratio_to": {"capacity": {"per_s": round(goodput / capacity, 2)}},
        },
        {
            "what": "refusal",
            "number": under.refused,
            **quantiles(list(under.refused_us[: under.refused])),
        },
        {"what": "urgent, calm", **urgent},
        {
            "what": "urgent, overload",
            **loaded,
            "ratio_to": {
                "urgent, calm": {"p99_us": round(loaded["p99_us"] / urgent["p99_us"], 2)}
            },
        },
        {
            "what": "memory",
            "grown_mib": round(under.bytes_grown / 2**20, 1),
            "s": sizes.overload_s,
        },
    ]


@contextmanager
def sessions(home: Path) -> Iterator[list[Requester]]:
    """Open the sessions, each as a node of its own."""
    loop, sockets = asyncio.get_running_loop(), Sockets()
    address = Directory(home / "run", "bench").endpoint("server", "r")
    callers = [
        Requester(
            loop, partial(sockets.line, address), "server", Hello("bench", f"c{n}", WIRE, WIRE), 1
        )
        for n in range(SESSIONS)
    ]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.close()
        sockets.close()


async def _offered(
    callers: list[Requester], server: Connection, lead_s: float, per_s: float, seconds: float
) -> Told:
    """Offer so many calls, and return what became of those that ended in so many seconds."""
    told = Told()
    async with asyncio.TaskGroup() as tasks:
        load = tasks.create_task(_load(callers, told, per_s))
        urgent = tasks.create_task(_urgent(callers[0], told))
        await asyncio.sleep(lead_s)
        before, told.offered, told.measuring = _memory(server), 0, True
        await asyncio.sleep(seconds)
        told.measuring = False
        told.bytes_grown = _memory(server) - before
        load.cancel()
        urgent.cancel()
    return told


async def _load(callers: list[Requester], told: Told, per_s: float) -> None:
    dice, began, begun = random.Random(1), time.perf_counter(), 0
    async with asyncio.TaskGroup() as calls:
        while True:
            while begun < (time.perf_counter() - began) * per_s:
                begun += 1
                told.offered += 1
                calls.create_task(_call(dice.choice(callers), told))
            await asyncio.sleep(TICK_S)


async def _call(caller: Requester, told: Told) -> None:
    began = time.perf_counter()
    outcome = await caller.call(Ask("x.hold", BODY, BUDGET_S))
    if not told.measuring:
        return
    if isinstance(outcome, Replied):
        told.answered += 1
    elif outcome.failure.code == Overloaded.code:
        told.refused_us[told.refused % SAMPLES_MAX] = (time.perf_counter() - began) * 1e6
        told.refused += 1


async def _urgent(caller: Requester, told: Told) -> None:
    while True:
        began = time.perf_counter()
        outcome = await caller.call(Ask("x.cancel", BODY, prio=1))
        if told.measuring and isinstance(outcome, Replied):
            told.urgent_us.append((time.perf_counter() - began) * 1e6)
        await asyncio.sleep(URGENT_S)


def _memory(server: Connection) -> int:
    """Return the bytes resident in both processes."""
    server.send("memory")
    theirs: int = server.recv()
    return theirs + rss_bytes()
