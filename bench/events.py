"""Events through the whole stack, against bare pyzmq with the same payload, in the same run.

The floor sends the payload's bytes and drains them by add_reader, 64 a turn, undecoded.
Rounds alternate, so that noise of the machine meets all of them; figures are medians. The
durable rows are of bench.durable, so that one command prints every figure of the event plane.

Never here: assertions.
"""

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import uvloop
import zmq

from bench import durable
from bench.places import living, quantiles
from mesh.protocol import envelope
from mesh.protocol.control import EPHEMERAL
from mesh.runtime.component import Component, event

ROUNDS: Final = 10
PACED: Final = 400  # events a round for the latency
PACE_S: Final = 0.001
BURST: Final = 3_000  # at once for the rate: below every high-water mark, so that none is lost
KINDS: Final = ("floor", "mesh", "batch")


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
        self.began_s = self.ended_s = 0.0
        self.timing = False
        self.ages_us: list[float] = []
        self.complete = asyncio.Event()

    def take(self, number: int, sent_ns: int) -> None:
        """Take *number* events, the newest of them sent at *sent_ns*."""
        if not self.count:
            self.began_s = time.perf_counter()
        if self.timing:
            self.ages_us.append((time.time_ns() - sent_ns) / 1000)
        self.count += number
        if self.count >= self.wanted:
            self.ended_s = time.perf_counter()
            self.complete.set()

    async def wait(self, wanted: int, ask: Callable[[], None], *, timing: bool) -> float:
        """Call *ask* and return events per second once *wanted* are here. TimeoutError: 30 s."""
        self.count, self.wanted, self.timing = 0, wanted, timing
        self.complete.clear()
        ask()
        async with asyncio.timeout(30):
            await self.complete.wait()
        return wanted / (self.ended_s - self.began_s)


def measure() -> list[dict[str, Any]]:
    """Return rows of latency in µs and rate per s; ratio_to names what a row is compared with."""
    with tempfile.TemporaryDirectory() as home:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        publisher = context.Process(target=publish, args=(Path(home), there))
        publisher.start()
        try:
            rows = uvloop.run(subscribe(Path(home), here))
        finally:
            here.send(("end", 0))
            publisher.join()
    return rows + durable.measure()


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
        send: dict[str, Callable[[], object]] = {
            "floor": lambda: bare.send(_stamped(payload), zmq.NOBLOCK),
            "mesh": lambda: source.emit("x.mesh.quote", _now()),
        }
        # For the rate both send the same again and again.
        burst: dict[str, Callable[[], object]] = {
            "floor": lambda: bare.send(payload, zmq.NOBLOCK),
            "mesh": lambda: source.emit("x.mesh.quote", VALUE),
            "batch": lambda: source.emit("x.batch.quote", VALUE),
        }
        async with living(home, "source", source):
            while (asked := await loop.run_in_executor(None, control.recv))[0] != "end":
                kind, paced = asked
                for _ in range(PACED if paced else BURST):
                    (send if paced else burst)[kind]()
                    if paced:
                        await asyncio.sleep(PACE_S)


def _now() -> Quote:
    return msgspec.structs.replace(VALUE, ts_event=time.time_ns())


def _stamped(payload: bytes) -> bytes:
    return time.time_ns().to_bytes(8, "little") + payload[8:]


async def subscribe(home: Path, control: Connection) -> list[dict[str, Any]]:
    """Ask for rounds in turn and return the rows of the figures."""
    arrivals, loop = Arrivals(), asyncio.get_running_loop()
    with zmq.Context() as context, context.socket(zmq.SUB) as bare:
        bare.setsockopt(zmq.LINGER, 0)
        bare.setsockopt(zmq.RCVHWM, 4_096)
        bare.connect(f"ipc://{home}/bare")
        bare.subscribe(b"")
        _drain_bare(loop, bare, arrivals)
        async with living(home, "sink", Sink(arrivals)):
            await asyncio.sleep(2.0)  # connected; a benchmark may wait for luck, a test may not
            ages: dict[str, list[float]] = {}
            rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for _ in range(ROUNDS):
                for kind in KINDS[:2]:
                    arrivals.ages_us = ages.setdefault(kind, [])
                    await arrivals.wait(PACED, lambda k=kind: control.send((k, True)), timing=True)  # type: ignore[misc]  # bound now
                for kind in KINDS:
                    ask = lambda k=kind: control.send((k, False))  # noqa: E731  # bound now
                    rates[kind].append(await arrivals.wait(BURST, ask, timing=False))
        loop.remove_reader(int(bare.getsockopt(zmq.FD)))
    return _rows(ages, rates)


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
