"""Network: simulated time, and the wires between sockets of simulated processes.

Frames of one wire keep their order; who dials what is not bound waits for it. Nothing is lost
but what is under way when a process is killed, or finds a full queue.

Never here: what kinds of sockets do with frames, zmq, real time.
"""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import Final, Protocol
from zlib import crc32

LATENCY_S: Final = 0.000_2  # of the fastest wire; the slowest has three times as much
REDIAL_S: Final = 0.02  # as RECONNECT_IVL in mesh.transport.sockets
BEGIN_S: Final = 1_000.0
BEGIN_NS: Final = 1_750_000_000_000_000_000  # wall time at BEGIN_S


class Time:
    """Simulated time, and what is to happen when."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self._numbers = count()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []

    def monotonic_s(self) -> float:
        """Return monotonic seconds."""
        return self.now

    def wall_ns(self) -> int:
        """Return wall time in ns UTC."""
        return BEGIN_NS + round((self.now - BEGIN_S) * 1e9)

    @property
    def due(self) -> float | None:
        """Return when something is to happen next."""
        return self._heap[0][0] if self._heap else None

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do *act* in *delay_s* seconds; what is due at one time keeps its order."""
        heapq.heappush(self._heap, (self.now + delay_s, next(self._numbers), act))

    def pass_to(self, now: float) -> None:
        """Let time pass; do what is due."""
        self.now = max(self.now, now)
        while self._heap and self._heap[0][0] <= self.now:
            heapq.heappop(self._heap)[2]()


class End(Protocol):
    """A socket at one end of a wire."""

    user: str

    def opened(self, wire: "Wire") -> None:
        """Learn of a new wire."""

    def take(self, wire: "Wire", frame: bytes) -> None:
        """Take a frame."""

    def lost(self, wire: "Wire") -> None:
        """Learn that the other end is gone."""


class Wire:
    """A connection of *dialler* to *server*. unread: frames on their way to each, or waiting."""

    def __init__(self, time: Time, dialler: End, server: End, ident: bytes, latency_s: float):
        self.ident, self._time, self._latency_s = ident, time, latency_s
        self._ends = dialler, server
        self.unread = {dialler: 0, server: 0}
        self._gone: set[End] = set()

    def other(self, end: End) -> End:
        """Return the end that *end* speaks to."""
        return self._ends[self._ends[0] is end]

    def send(self, sender: End, frame: bytes) -> None:
        """Bring *frame* to the other end, if it is there then."""
        receiver = self.other(sender)
        self.unread[receiver] += 1
        self._time.after(self._latency_s, partial(self._arrive, receiver, frame))

    def hang_up(self, end: End) -> None:
        """Let the other end learn, behind all that was sent, that *end* is gone."""
        if end not in self._gone:
            self._gone.add(end)
            receiver = self.other(end)
            self._time.after(self._latency_s, partial(self._lose, receiver))

    def _arrive(self, receiver: End, frame: bytes) -> None:
        if receiver not in self._gone:
            receiver.take(self, frame)

    def _lose(self, end: End) -> None:
        if end not in self._gone:
            self._gone.add(end)
            end.lost(self)


class Network:
    """Connect who dials an address with who is bound to it."""

    def __init__(self, seed: int) -> None:
        self.time = Time()
        self._seed = seed
        self._numbers = count(1)
        self._bound: dict[str, End] = {}
        self._waiting: dict[str, list[End]] = {}

    def bind(self, server: End, address: str) -> bool:
        """Let *server* be reached at *address*; return False if another one is."""
        if address in self._bound:
            return False
        self._bound[address] = server
        for dialler in self._waiting.pop(address, ()):
            self.time.after(REDIAL_S, partial(self._connect, dialler, address))
        return True

    def unbind(self, server: End) -> None:
        """Let *server* be reached no more."""
        for address in [a for a, bound in self._bound.items() if bound is server]:
            del self._bound[address]

    def dial(self, dialler: End, address: str) -> None:
        """Connect *dialler* to *address* as soon as somebody is bound there."""
        self.time.after(LATENCY_S, partial(self._connect, dialler, address))

    def _connect(self, dialler: End, address: str) -> None:
        server = self._bound.get(address)
        if server is None:
            self._waiting.setdefault(address, []).append(dialler)
            return
        number = next(self._numbers)
        name = f"{self._seed} {dialler.user} {address}"  # the same wire is always as fast
        latency_s = LATENCY_S * (1 + 2 * Random(crc32(name.encode())).random())  # noqa: S311  # a simulation
        wire = Wire(self.time, dialler, server, number.to_bytes(5, "big"), latency_s)
        server.opened(wire)
        dialler.opened(wire)
