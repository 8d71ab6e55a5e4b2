"""Pairs of real sockets, and what the tests of links and turns wait with.

Never here: tests, fixtures.
"""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import zmq

from mesh.transport.link import Link

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
Sock: TypeAlias = "zmq.Socket[bytes]"

DEADLINE_S = 10
BIG = bytes(64 * 1024)  # few of them fill what the kernel keeps between two sockets


class Wires:
    """Pairs of sockets over ipc: the first bound, the second connected."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self._directory, self._count = directory, 0
        self._made: list[Sock] = []  # held, so that none is collected before it is closed

    def address(self) -> str:
        self._count += 1
        return f"ipc://{self._directory}/{self._count}"

    def sock(self, kind: int, **options: int) -> Sock:
        sock = self.context.socket(kind)
        self._made.append(sock)
        for name, value in {"LINGER": 0, "SNDHWM": 0, "RCVHWM": 0, **options}.items():
            sock.setsockopt(getattr(zmq, name), value)
        return sock

    def pair(self, bound: int, connected: int, **options: int) -> tuple[Sock, Sock]:
        address = self.address()
        first, second = self.sock(bound, **options), self.sock(connected, **options)
        first.bind(address)
        second.connect(address)
        return first, second

    def inproc(self) -> tuple[Sock, Sock]:
        """Return a PULL and its PUSH between which nothing is ever under way: sent is there."""
        self._count += 1
        pull, push = self.sock(zmq.PULL), self.sock(zmq.PUSH)
        pull.bind(f"inproc://{self._count}")
        push.connect(f"inproc://{self._count}")
        return pull, push

    def feed(self) -> tuple[Sock, Sock]:
        """Return publisher and subscriber who have found each other."""
        publisher, subscriber = self.pair(zmq.XPUB, zmq.SUB)
        subscriber.subscribe(b"")
        assert publisher.poll(DEADLINE_S * 1000)
        publisher.recv()
        return publisher, subscriber


class Got(list[bytes]):
    """A sink that remembers, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, frame: bytes) -> None:
        self.append(frame)
        self._news.set()

    def routed(self, peer: bytes, frame: zmq.Frame) -> None:
        self(frame.bytes)

    async def until(self, last: bytes) -> None:
        while not self or self[-1] != last:
            self._news.clear()
            await self._news.wait()


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def timer(delay_s: float) -> None:
    """Return when the loop's timer has fired; what is asserted must not have happened by then."""
    fired = loop().create_future()
    loop().call_later(delay_s, fired.set_result, None)
    await fired


def close(*links: Link) -> None:
    for link in links:
        link.close()


def arrived(sock: Sock) -> None:
    """Wait until a message waits. Asking eats the news of it, as a send may."""
    assert sock.poll(DEADLINE_S * 1000)
