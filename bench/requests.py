"""Requests through the whole stack, against a bare DEALER and ROUTER in the same run.

The floor sends the body's bytes and drains the echo by add_reader, 64 a turn; the mesh awaits
`Component.call` of a typed handler in another process. Rounds alternate, so that noise of the
machine meets both. The rows of overload are of bench.overload and those of the breaker's guard
of bench.breaker, so that one command prints every figure of the request plane.

Never here: assertions.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import uvloop
import zmq

from bench import breaker, overload
from bench.places import END, beside, living, quantiles
from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.runtime.component import Component, request

Trip: TypeAlias = Callable[[], Awaitable[None]]

PACE_S: Final = 0.001  # between two: then cores have slept, and caches are cold


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a round: so many round trips, one after the other."""

    rounds: int = 10
    trips: int = 300


QUICK: Final = Sizes(1, 50)


class Order(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is sent, there and back: of the shape and size of a real order."""

    client_order_id: str
    instrument: str
    side: str
    quantity: str
    price: str
    ts: int


VALUE: Final = Order("ema-1700000000000-42", "BTC-USDT.BINANCE", "buy", "0.5", "61837.63", 0)


class Server(Component):
    """Answers."""

    @request("x.echo")
    def echo(self, order: Order) -> Order:
        """Return what was sent."""
        return order


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return rows of round trips in µs; ratio_to names what a row is compared with."""
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory() as place, beside(serve, Path(place)):
        rows = uvloop.run(ask(Path(place), sizes))
    return [*rows, *overload.measure(quick=quick), *breaker.measure()]


def serve(home: Path, control: Connection) -> None:
    """Serve until the other process says end."""
    uvloop.run(_serve(home, control))


async def _serve(home: Path, control: Connection) -> None:
    loop = asyncio.get_running_loop()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as bare:
        bare.setsockopt(zmq.LINGER, 0)
        bare.bind(f"ipc://{home}/bare")
        recv, send, noblock = bare.recv_multipart, bare.send_multipart, int(zmq.NOBLOCK)

        def ready() -> None:
            try:
                for _ in range(64):
                    send(recv(noblock), noblock)
            except zmq.Again:
                return
            loop.call_soon(ready)

        loop.add_reader(int(bare.getsockopt(zmq.FD)), ready)
        loop.call_soon(ready)
        async with living(home, "server", Server()):
            while await loop.run_in_executor(None, control.recv) != END:
                pass
        loop.remove_reader(int(bare.getsockopt(zmq.FD)))


class Bare:
    """The floor: what is sent over a DEALER comes back, taken until EAGAIN as a drain must."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: Any) -> None:
        self._loop, self._sock = loop, sock
        self._recv, self._send, self._noblock = sock.recv, sock.send, int(zmq.NOBLOCK)
        self._body = envelope.encode_value(VALUE)
        self._back: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(int(sock.getsockopt(zmq.FD)), self._drain)

    async def trip(self) -> None:
        """Return when what was sent is back."""
        self._back = self._loop.create_future()
        self._send(self._body, self._noblock)
        self._drain()  # a send may eat the news of what comes
        await self._back

    def close(self) -> None:
        """Listen no more."""
        self._loop.remove_reader(int(self._sock.getsockopt(zmq.FD)))

    def _drain(self) -> None:
        try:
            for _ in range(64):
                self._back.set_result(self._recv(self._noblock))
        except zmq.Again:
            return
        self._loop.call_soon(self._drain)


async def ask(home: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Ask in rounds and return the rows of the figures."""
    loop, client = asyncio.get_running_loop(), Component()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"ipc://{home}/bare")
        bare = Bare(loop, sock)
        async with living(home, "client", client):
            await _connected(client)

            async def call() -> None:
                await client.call("x.echo", VALUE, Order)

            rows = [*await _compared(bare.trip, call, sizes, 0, "")]
            rows += await _compared(bare.trip, call, sizes, PACE_S, ", paced")
        bare.close()
    return rows


async def _compared(
    floor: Trip, mesh: Trip, sizes: Sizes, pace_s: float, how: str
) -> list[dict[str, Any]]:
    took: dict[str, list[float]] = {"floor": [], "round trip": []}
    for _ in range(sizes.rounds):
        for kind, trip in (("floor", floor), ("round trip", mesh)):
            took[kind] += await _trips(trip, sizes.trips, pace_s)
    rows = [{"what": what + how, **quantiles(found)} for what, found in took.items()]
    for row in rows:
        ratio = round(row["p50_us"] / rows[0]["p50_us"], 2)
        row["ratio_to"] = {"floor" + how: {"p50_us": ratio}}
    return rows


async def _connected(client: Component) -> None:
    """Return when the server answers."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.call("x.echo", VALUE, Order)
            except MeshError:
                await asyncio.sleep(0.05)
            else:
                return


async def _trips(trip: Trip, number: int, pace_s: float) -> list[float]:
    took = []
    for _ in range(number):
        began = time.perf_counter()
        await trip()
        took.append((time.perf_counter() - began) * 1e6)
        if pace_s:
            await asyncio.sleep(pace_s)
    return took
