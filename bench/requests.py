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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop
import zmq

from bench.places import END, beside, living, quantiles
from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.runtime.component import Component, request


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a round: so many round trips, one after the other."""

    rounds: int = 10
    trips: int = 1_000


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
        return uvloop.run(ask(Path(place), sizes))


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
    """The floor: one round trip after the other over a DEALER, by callbacks alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: Any) -> None:
        self._loop, self._sock = loop, sock
        self._recv, self._send, self._noblock = sock.recv, sock.send, int(zmq.NOBLOCK)
        self._body = envelope.encode_value(VALUE)
        self._left, self._began = 0, 0.0
        self.took_us: list[float] = []
        self._done: asyncio.Future[None] = loop.create_future()
        loop.add_reader(int(sock.getsockopt(zmq.FD)), self._ready)

    async def trips(self, number: int) -> list[float]:
        """Return the µs of so many round trips."""
        self._left, self.took_us, self._done = number, [], self._loop.create_future()
        self._go()
        self._ready()
        await self._done
        return self.took_us

    def _go(self) -> None:
        self._began = time.perf_counter()
        self._send(self._body, self._noblock)

    def _ready(self) -> None:
        try:
            for _ in range(64):
                self._recv(self._noblock)
                self.took_us.append((time.perf_counter() - self._began) * 1e6)
                self._left -= 1
                if not self._left:
                    self._done.set_result(None)
                    return
                self._go()
        except zmq.Again:
            return
        self._loop.call_soon(self._ready)


async def ask(home: Path, sizes: Sizes) -> list[dict[str, Any]]:
    """Ask in rounds and return the rows of the figures."""
    loop, client = asyncio.get_running_loop(), Component()
    took: dict[str, list[float]] = {"floor": [], "mesh": []}
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(f"ipc://{home}/bare")
        bare = Bare(loop, sock)
        async with living(home, "client", client):
            await _connected(client)
            await bare.trips(10)
            for _ in range(sizes.rounds):
                took["floor"] += await bare.trips(sizes.trips)
                took["mesh"] += await _trips(client, sizes.trips)
        loop.remove_reader(int(sock.getsockopt(zmq.FD)))
    rows = [{"what": what, **quantiles(found)} for what, found in took.items()]
    floor = rows[0]
    for row in rows:
        row["ratio_to"] = {"floor": {"p50_us": round(row["p50_us"] / floor["p50_us"], 2)}}
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


async def _trips(client: Component, number: int) -> list[float]:
    took = []
    for _ in range(number):
        began = time.perf_counter()
        await client.call("x.echo", VALUE, Order)
        took.append((time.perf_counter() - began) * 1e6)
    return took
