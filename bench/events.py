"""Events through the whole stack, against bare pyzmq with the same payload, in the same run.

The floor sends the payload's bytes and drains them by add_reader, 64 a turn, undecoded.
Rounds alternate, so that noise of the machine meets all of them; figures are medians. The
durable rows are of bench.durable, so that one command prints every figure of the event plane.

Never here: assertions.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import uvloop
import zmq

from bench import durable
from bench.places import END, beside, living, quantiles
from mesh.protocol import envelope
from mesh.protocol.control import EPHEMERAL
from mesh.runtime.component import Component, event

PACE_S: Final = 0.001
KINDS: Final = ("floor", "mesh", "batch")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a round: events one after the other for the latency, bursts of so many for the rate.

    Half a high-water mark is the longest burst of which surely none is lost: libzmq learns in
    such steps what the other side has read.
    """

    rounds: int = 10
    paced: int = 400
    bursts: int = 5
    burst: int = 2_000


QUICK: Final = Sizes(1, 20, 1, 200)


class Quote(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is sent: of the shape and size of a real quote."""

    instrument: str
    bid: str
    bid_size: str
    ask: str
    ask_size: str
    update_id: int
    ts_event: int
    ts_recv: int


VALUE: Final = Quote(
    "BTC-USDT.BINANCE", "61837.63", "3.78826", "61837.64", "1.54698", 50093239212, 0, 0
)


class Source(Component):
    """Publishes on demand."""

    says: ClassVar = {"x.mesh.": EPHEMERAL, "x.batch.": EPHEMERAL}
    schemas: ClassVar = {Quote: 0x7000}


class Sink(Component):
    """Notes when each event came, and how many."""

    schemas: ClassVar = {Quote: 0x7000}

    def __init__(self, arrivals: "Arrivals") -> None:
        super().__init__()
        self.arrivals = arrivals

    @event("x.mesh.")
    def on_quote(self, quote: Quote) -> None:
        """Take one event."""
        self.arrivals.take(1, quote.ts_event)

    @event("x.batch.", batch=True)
    def on_quotes(self, quotes: list[Quote]) -> None:
        """Take all that one drain found."""
        self.arrivals.take(len(quotes), quotes[-1].ts_event)


class Arrivals:
    """Count what came; with timing, note the age of each."""

    def __init__(self) -> None:
        self.count, self.wanted = 0, 0
        self.timing = False
        self.ages_us: list[float] = []
        self.ended_s = 0.0
        self.complete = asyncio.Event()

    def take(self, number: int, sent_ns: int) -> None:
        """Take *number* events, the newest of them sent at *sent_ns*."""
        if self.timing:
            self.ages_us.append((time.time_ns() - sent_ns) / 1000)
        self.count += number
        if self.count >= self.wanted:
            self.ended_s = time.perf_counter()
            self.complete.set()

    async def expect(self, wanted: int, ask: Callable[[], None], *, timing: bool) -> None:
        """Call *ask* and wait until *wanted* are here. Raises TimeoutError after 30 s."""
        self.count, self.wanted, self.timing = 0, wanted, timing
        self.complete.clear()
        ask()
        async with asyncio.timeout(30):
            await self.complete.wait()


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return rows of latency in µs and rate per s; ratio_to names what a row is compared with."""
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as place, beside(publish, Path(place)) as publisher:
        rows = uvloop.run(subscribe(Path(place), publisher, sizes))
    return rows + durable.measure(quick=quick)


def publish(home: Path, control: Connection) -> None:
    """Publish what the other process asks for, until it says end."""
    uvloop.run(_publish(home, control))


async def _publish(home: Path, control: Connection) -> None:
    loop, source = asyncio.get_running_loop(), Source()
    payload = envelope.encode_value(VALUE)
    with zmq.Context() as context, context.socket(zmq.PUB) as bare:
        bare.setsockopt(zmq.LINGER, 0)
        bare.setsockopt(zmq.SNDHWM, 4_096)
        bare.bind(f"ipc://{home}/bare")
        single: dict[str, Callable[[], object]] = {
            "floor": lambda: bare.send(_stamped(payload), zmq.NOBLOCK),
            "mesh": lambda: source.emit("x.mesh.quote", _now()),
            "batch": lambda: source.emit("x.batch.quote", _now()),
        }
        # For the rate all send the same again and again.
        burst: dict[str, Callable[[], object]] = {
            "floor": lambda: bare.send(payload, zmq.NOBLOCK),
            "mesh": lambda: source.emit("x.mesh.quote", VALUE),
            "batch": lambda: source.emit("x.batch.quote", VALUE),
        }
        async with living(home, "source", source):
            while (asked := await loop.run_in_executor(None, control.recv)) != END:
                kind, number, pace_s = asked
                if pace_s:
                    for _ in range(number):
                        single[kind]()
                        await asyncio.sleep(pace_s)
                else:
                    send, began_s = burst[kind], time.perf_counter()
                    for _ in range(number):
                        send()
                    control.send(began_s)


def _now() -> Quote:
    return msgspec.structs.replace(VALUE, ts_event=time.time_ns())


def _stamped(payload: bytes) -> bytes:
    return time.time_ns().to_bytes(8, "little") + payload[8:]


async def subscribe(home: Path, control: Connection, sizes: Sizes) -> list[dict[str, Any]]:
    """Ask for rounds in turn and return the rows of the figures."""
    arrivals, loop = Arrivals(), asyncio.get_running_loop()
    with zmq.Context() as context, context.socket(zmq.SUB) as bare:
        bare.setsockopt(zmq.LINGER, 0)
        bare.setsockopt(zmq.RCVHWM, 4_096)
        bare.connect(f"ipc://{home}/bare")
        bare.subscribe(b"")
        _drain_bare(loop, bare, arrivals)
        async with living(home, "sink", Sink(arrivals)):
            await _connected(arrivals, control)
            ages: dict[str, list[float]] = {}
            rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(sizes.rounds):
                for kind in KINDS[:2]:
                    arrivals.ages_us = ages.setdefault(kind, [])
                    ask = partial(control.send, (kind, sizes.paced, PACE_S))
                    await arrivals.expect(sizes.paced, ask, timing=True)
                for _ in range(sizes.bursts):
                    for kind in KINDS:
                        rates[kind].append(await _rate(arrivals, control, kind, sizes.burst))
        loop.remove_reader(int(bare.getsockopt(zmq.FD)))
    return _rows(ages, rates)


async def _connected(arrivals: Arrivals, control: Connection) -> None:
    """Return when an event of each kind has come through."""
    for kind in KINDS:
        arrivals.count, arrivals.wanted, arrivals.timing = 0, 1, False
        arrivals.complete.clear()
        while not arrivals.complete.is_set():
            control.send((kind, 1, PACE_S))
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.2)  # for those that were asked for in vain, as it seemed


async def _rate(arrivals: Arrivals, control: Connection, kind: str, number: int) -> float:
    """Return events per second, from before the first is sent to when the last was handled."""
    await arrivals.expect(number, partial(control.send, (kind, number, 0)), timing=False)
    began_s: float = control.recv()  # one clock for all processes of a machine
    return number / (arrivals.ended_s - began_s)


def _drain_bare(loop: asyncio.AbstractEventLoop, sock: Any, arrivals: Arrivals) -> None:
    recv, noblock, take = sock.recv, int(zmq.NOBLOCK), arrivals.take

    def ready() -> None:
        try:
            for _ in range(64):
                frame = recv(noblock)
                take(1, int.from_bytes(frame[:8], "little"))
        except zmq.Again:
            return
        loop.call_soon(ready)

    loop.add_reader(int(sock.getsockopt(zmq.FD)), ready)
    loop.call_soon(ready)


def _rows(ages: dict[str, list[float]], rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        row: dict[str, Any] = {"what": kind}
        if kind in ages:
            row |= quantiles(ages[kind])
        row["per_s"] = round(statistics.median(rates[kind]))
        rows.append(row)
    floor = rows[0]
    for row in rows:
        row["ratio_to"] = {
            "floor": {
                name: round(row[name] / floor[name], 2)
                for name in ("p50_us", "per_s")
                if name in row
            }
        }
    return rows
