"""Network: pipes from publishers to subscribers, and requests, with everything that fails.

A pipe behaves as libzmq's: FIFO, drop-newest at its high-water mark, filtered by the
subscriptions that have arrived; a new connection brings the subscriptions again, sorted.

Never here: what frames mean, except that a probe is answered.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from mesh.sim.process import Process
from mesh.sim.world import World

RECONNECT_S: Final = 0.1  # at most
RECENT: Final = 6
ACK: Final = "ack "  # and the consumer's name: the method of an Ack

Answer = Callable[[bytes | None, int], None]  # the reply, None without one; epoch of the callee


class Speaker(Protocol):
    """The publishing end of a pipe."""

    process: Process
    epoch: int

    def probed(self, pipe: "Pipe", topic: bytes) -> None: ...

    def serve(self, method: str, body: bytes) -> bytes: ...


class Listener(Protocol):
    """The hearing end of a pipe."""

    def receive(self, frame: bytes) -> None: ...


class Link(Protocol):
    """The way of requests between a server and a caller."""

    clog_until: float

    def gone(self, name: str) -> None: ...

    def back(self, name: str) -> None: ...

    def cut(self) -> None: ...

    def heal(self) -> None: ...


@dataclass(slots=True)
class Armed:
    """A fault that waits for its next n victims."""

    number: int
    kind: str
    n: int
    for_s: float = 0.0


@dataclass(slots=True)
class Pipe:
    """From one publisher to one subscriber on one plane."""

    net: "Network"
    speaker: Speaker
    hearer: Process
    plane: str
    hwm: int
    listener: Listener | None = None  # None: no socket
    connected: bool = False
    wanted: set[bytes] = field(default_factory=set)  # subscriptions of the socket
    filters: tuple[bytes, ...] = ()  # of them, those that have arrived
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT))
    armed: list[Armed] = field(default_factory=list)
    held: bytes | None = None
    heads: dict[bytes, dict[str, int] | None] = field(default_factory=dict)  # by probe; None: many
    cuts: int = 0
    mute: int = 0  # number + 1 of the fault that swallows what is said
    clog_until: float = 0.0
    connection: int = 0
    _last: float = 0.0  # arrival of the newest frame
    _last_up: float = 0.0  # arrival of the newest subscription
    _waking: bool = False

    def push(self, frame: bytes) -> None:
        """Send a frame that the filters let pass."""
        if self.mute:
            self.net.world.effective(self.mute - 1, "mute")
            return
        if self.armed and self._tampered(frame):
            return
        self._put(frame)
        if self.held is not None:
            held, self.held = self.held, None
            self._put(held)

    def echo(self, frame: bytes) -> None:
        """Let an old frame come once more."""
        self._put(frame)

    def open(self, listener: Listener) -> None:
        """Make the socket and connect it, some time."""
        self.listener = listener
        self.wanted.clear()
        self.net.world.at(self.net.soon(), self.connect)

    def close(self) -> None:
        """Close the socket."""
        self.listener = None
        self.wanted.clear()
        self.queue.clear()
        self.disconnect()

    def send_up(self, topic: bytes, *, wanted: bool) -> None:
        """Subscribe or unsubscribe the socket."""
        (self.wanted.add if wanted else self.wanted.discard)(topic)
        if self.connected:
            self._up(topic, wanted=wanted)

    def connect(self) -> None:
        """Connect if both ends are there, and send the subscriptions."""
        if self.connected or self.cuts or self.listener is None:
            return
        if not (self.speaker.process.alive and self.hearer.alive):
            return
        self.connected, self.filters = True, ()
        self.connection += 1
        for topic in sorted(self.wanted):
            self._up(topic, wanted=True)

    def disconnect(self) -> None:
        """Lose the connection and what is in flight; what has arrived stays."""
        if not self.connected:
            return
        self.connected, self.filters, self.held = False, (), None
        self.connection += 1
        now = self.net.world.now
        while self.queue and self.queue[-1][0] > now:
            self.queue.pop()
        self._last = self._last_up = now
        self.net.world.at(self.net.soon(), self.connect)

    def _up(self, topic: bytes, *, wanted: bool) -> None:
        arrival = max(self._last_up, self.net.arrival(), self.clog_until)
        self._last_up = arrival
        self.speaker.process.at(arrival, self._arrive, self.connection, topic, wanted)

    def _arrive(self, connection: int, topic: bytes, wanted: bool) -> None:
        if connection != self.connection:
            return
        if wanted:
            self.filters += (topic,)
            if topic[:1] == b"\xff":
                self.speaker.probed(self, topic)
        else:
            self.filters = tuple(known for known in self.filters if known != topic)

    def _put(self, frame: bytes) -> None:
        if not self.connected:
            return
        if len(self.queue) >= self.hwm:
            self.net.world.counters["dropped at the mark"] += 1
            return
        self.recent.append(frame)
        arrival = max(self._last, self.net.arrival(), self.clog_until)
        self._last = arrival
        self.queue.append((arrival, frame))
        self._wake()

    def _wake(self) -> None:
        if self.queue and not self._waking:
            self._waking = True
            # Not bound to a run of the hearer: its sockets die with it, the pipe does not.
            self.net.world.at(max(self.queue[0][0], self.net.world.now), self._drain)

    def _drain(self) -> None:
        self._waking = False
        now, hearer = self.net.world.now, self.hearer
        if self.listener is None or not hearer.alive:
            self.queue.clear()
            return
        while self.queue and self.queue[0][0] <= now:
            if hearer.blocked_until > now:
                self._waking = True
                self.net.world.at(hearer.blocked_until, self._drain)
                return
            frame = self.queue.popleft()[1]
            self.net.world.note(frame)
            self.listener.receive(frame)  # which may close the socket, and so clear the queue
        self._wake()

    def _open(self) -> bool:
        return self.listener is not None

    def _tampered(self, frame: bytes) -> bool:
        armed = _struck(self.armed, self.net.world)
        if armed.kind == "double":
            self._put(frame)
        elif armed.kind == "reorder" and self.held is None:
            self.held = frame
            return True
        return armed.kind == "lose"


@dataclass(slots=True)
class Route:
    """How requests of one node to another fare."""

    cuts: int = 0
    clog_until: float = 0.0
    armed: list[Armed] = field(default_factory=list)


@dataclass(slots=True)
class Network:
    """All pipes and routes; delay_s is the mean of one way."""

    world: World
    dice: Random
    delay_s: float
    pipes: dict[tuple[str, str, str], Pipe] = field(default_factory=dict)
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    planes: dict[tuple[str, str], list[Pipe]] = field(default_factory=dict)
    links: dict[tuple[str, str], "Link"] = field(default_factory=dict)  # of requests

    def lay(self, speaker: Speaker, hearer: Process, hwm: int) -> None:
        """Lay the pipes and the route between a publisher and a subscriber."""
        name = speaker.process.name
        self.routes[name, hearer.name] = Route()
        for plane in "ed":
            pipe = Pipe(self, speaker, hearer, plane, hwm)
            self.pipes[name, hearer.name, plane] = pipe
            self.planes.setdefault((name, plane), []).append(pipe)

    def arrival(self) -> float:
        """Return when something sent now arrives."""
        return self.world.now + self.delay_s * (0.5 + self.dice.random())

    def soon(self) -> float:
        """Return when a connection is tried next."""
        return self.world.now + 0.001 + RECONNECT_S * self.dice.random()

    def publish(self, speaker: str, plane: str, frame: bytes) -> None:
        """Send *frame* to all who subscribed to it."""
        for pipe in self.planes[speaker, plane]:
            if pipe.filters and frame.startswith(pipe.filters):
                pipe.push(frame)

    def gone(self, name: str) -> None:
        """Learn that a process has died: its connections are lost, its sockets with it."""
        for (speaker, hearer, _), pipe in self.pipes.items():
            if hearer == name:
                pipe.close()
            elif speaker == name:
                pipe.disconnect()
        for link in self.links.values():
            link.gone(name)

    def back(self, name: str) -> None:
        """Learn that a publisher is there again."""
        for (speaker, _, _), pipe in self.pipes.items():
            if speaker == name:
                self.world.at(self.soon(), pipe.connect)
        for link in self.links.values():
            link.back(name)

    def cut(self, speaker: str, hearer: str) -> None:
        """Cut two nodes off from each other."""
        self.routes[speaker, hearer].cuts += 1
        for plane in "ed":
            pipe = self.pipes[speaker, hearer, plane]
            pipe.cuts += 1
            pipe.disconnect()
        if (speaker, hearer) in self.links:
            self.links[speaker, hearer].cut()

    def heal(self, speaker: str, hearer: str) -> None:
        """Undo one cut()."""
        route = self.routes[speaker, hearer]
        route.cuts = max(0, route.cuts - 1)
        for plane in "ed":
            pipe = self.pipes[speaker, hearer, plane]
            pipe.cuts = max(0, pipe.cuts - 1)
            self.world.at(self.soon(), pipe.connect)
        if (speaker, hearer) in self.links:
            self.links[speaker, hearer].heal()

    def clog(self, speaker: str, hearer: str, until: float) -> None:
        """Let everything between two nodes wait until then."""
        self.routes[speaker, hearer].clog_until = until
        for plane in "ed":
            self.pipes[speaker, hearer, plane].clog_until = until
        if (speaker, hearer) in self.links:
            self.links[speaker, hearer].clog_until = until

    def request(
        self,
        caller: Process,
        speaker: Speaker,
        method: str,
        body: bytes,
        timeout_s: float,
        answer: Answer,
    ) -> None:
        """Ask; *answer* is called once, in the caller's run if it lasts."""
        route = self.routes[speaker.process.name, caller.name]
        # Acks are many and the next one tells: what aims at requests is not wasted on them.
        armed = [] if method.startswith(ACK) else route.armed
        call = _Call(self, route, caller, speaker, answer, caller.run, armed)
        caller.at(self.world.now + timeout_s, call.resolve, None, 0)
        for arrival in call.arrivals():
            self.world.at(arrival, call.asked, method, body)


@dataclass(slots=True)
class _Call:
    net: Network
    route: Route
    caller: Process
    speaker: Speaker
    answer: Answer
    run: int  # of the caller; a later one does not know this call
    armed: list[Armed]
    pending: bool = True

    def arrivals(self) -> list[float]:
        """Return when a message sent now arrives: never, once, late or twice."""
        if self.route.cuts:
            return []
        arrival = max(self.net.arrival(), self.route.clog_until)
        if not self.armed:
            return [arrival]
        armed = _struck(self.armed, self.net.world)
        if armed.kind == "rpc_lose":
            return []
        return [arrival + armed.for_s] if armed.kind == "rpc_slow" else [arrival, arrival]

    def asked(self, method: str, body: bytes) -> None:
        process = self.speaker.process
        if not process.alive:
            self.back(None, 0)  # nobody listens: the caller learns it soon
        else:
            process.at(self.net.world.now, self.served, method, body)

    def served(self, method: str, body: bytes) -> None:
        reply = self.speaker.serve(method, body)
        self.back(reply, self.speaker.epoch)

    def back(self, reply: bytes | None, epoch: int) -> None:
        for arrival in self.arrivals():
            self.caller.at(arrival, self.resolve, reply, epoch)

    def resolve(self, reply: bytes | None, epoch: int) -> None:
        if self.pending and self.caller.run == self.run:
            self.pending = False
            self.net.world.note(reply or b"-")
            self.answer(reply, epoch)


def _struck(armed: list[Armed], world: World) -> Armed:
    """Return the fault that takes effect now, and count it."""
    first = armed[0]
    first.n -= 1
    if first.n <= 0:
        armed.pop(0)
    world.effective(first.number, first.kind)
    return first
