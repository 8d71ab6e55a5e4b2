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
from collections import Counter
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
HOLD_S: Final = 0.4  # a slot, for each call
FULL_PER_S: Final = 800  # more than the slots allow
URGENT_S: Final = 0.02  # between two urgent calls
TICK_S: Final = 0.005  # calls are offered in such steps
TIMES: Final = 10
BODY: Final = envelope.encode_value(None)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long each load lasts; what is learned of memory begins after the warm-up."""

    capacity_s: float = 6.0
    overload_s: float = 60.0
    warm_s: float = 10.0


QUICK: Final = Sizes(1.0, 1.5, 0.5)


class Server(Component):
    """Holds a slot for each call."""

    @request("x.hold", kind="once")
    async def hold(self, _: None) -> None:
        """Take a while."""
        await asyncio.sleep(HOLD_S)

    @request("x.cancel", kind="safe", urgent=True)
    async def cancel(self, _: None) -> None:
        """Do what must be possible at any time."""


@dataclass(slots=True)
class Told:
    """What became of the calls of one load."""

    ended: Counter[str] = field(default_factory=Counter)
    refused_us: list[float] = field(default_factory=list)
    urgent_us: list[float] = field(default_factory=list)
    offered: int = 0


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
        # The first second opens the sessions and fills every slot and every queue.
        await _offered(callers, FULL_PER_S, 1.0)
        before = await _offered(callers, FULL_PER_S, sizes.capacity_s)
        capacity = before.ended["ok"] / sizes.capacity_s
        calm = await _offered(callers, capacity / 10, sizes.capacity_s)
        await _offered(callers, TIMES * capacity, sizes.warm_s)
        grown = -_memory(server)
        under = await _offered(callers, TIMES * capacity, sizes.overload_s)
        grown += _memory(server)
    goodput = under.ended["ok"] / sizes.overload_s
    urgent, loaded = quantiles(calm.urgent_us), quantiles(under.urgent_us)
    return [
        {"what": "capacity", "per_s": round(capacity)},
        {
            "what": "overload",
            "offered_per_s": round(under.offered / sizes.overload_s),
            "per_s": round(goodput),
            "ratio_to": {"capacity": {"per_s": round(goodput / capacity, 2)}},
        },
        {"what": "refusal", "number": len(under.refused_us), **quantiles(under.refused_us)},
        {"what": "urgent, calm", **urgent},
        {
            "what": "urgent, overload",
            **loaded,
            "ratio_to": {
                "urgent, calm": {"p99_us": round(loaded["p99_us"] / urgent["p99_us"], 2)}
            },
        },
        {"what": "memory", "grown_mib": round(grown / 2**20, 1), "s": sizes.overload_s},
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


async def _offered(callers: list[Requester], per_s: float, seconds: float) -> Told:
    """Offer so many calls for so long, and return what became of them when all have ended."""
    told, dice = Told(), random.Random(1)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as calls:
        urgent = calls.create_task(_urgent(callers[0], told, seconds))
        while (now := time.perf_counter() - began) < seconds:
            while told.offered < now * per_s:
                told.offered += 1
                calls.create_task(_call(dice.choice(callers), told))
            await asyncio.sleep(TICK_S)
        await urgent
    return told


async def _call(caller: Requester, told: Told) -> None:
    began = time.perf_counter()
    outcome = await caller.call(Ask("x.hold", BODY))
    if isinstance(outcome, Replied):
        told.ended["ok"] += 1
        return
    told.ended[outcome.failure.code] += 1
    if outcome.failure.code == Overloaded.code:
        told.refused_us.append((time.perf_counter() - began) * 1e6)


async def _urgent(caller: Requester, told: Told, seconds: float) -> None:
    ends = time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends:
        outcome = await caller.call(Ask("x.cancel", BODY, prio=1))
        if isinstance(outcome, Replied):
            told.urgent_us.append((time.perf_counter() - began) * 1e6)
        await asyncio.sleep(URGENT_S)


def _memory(server: Connection) -> int:
    """Return the bytes resident in both processes."""
    server.send("memory")
    theirs: int = server.recv()
    return theirs + rss_bytes()
