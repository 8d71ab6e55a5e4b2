"""Small worlds with requests, for the tests of the simulator's parts."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mesh.protocol.rpcs import Method
from mesh.sim.caller import Caller
from mesh.sim.network import Network
from mesh.sim.peer import Call
from mesh.sim.planes import Planes, Shape
from mesh.sim.requestconfig import RequestConfig
from mesh.sim.requestlink import RequestLink
from mesh.sim.requestplane import RequestPlane
from mesh.sim.server import Server
from tests.unit.mesh.sim.worlds import calm, empty, process

CALM: Final = RequestConfig(
    rate=1e-9,  # nobody asks by itself
    handler_s=0.01,
    budget_s=2.0,
    window=10,
    window_bytes=1_000_000,
    running_max=10,
    queue_max=10,
    client_queue_max=10,
    hwm=1_000,
    retries_max=3,
    failures_max=3,
    cooldown_s=0.5,
    trickle_s=1e9,
    repeats=0.0,
    kinds=(),
    faults=0,
    limits={},
)


def unborn(publishers: int = 1, **changes: Any) -> Planes:
    """Return a world of requests alone that nobody started; s0 asks, p0 and its like serve."""
    config = msgspec.structs.replace(CALM, **changes)
    return Planes(empty(), Shape(calm(publishers=publishers, events=False), config))


@dataclass
class Pair:
    """One caller, its servers, and the world they are in."""

    model: Planes
    plane: RequestPlane
    caller: Caller
    server: Server

    def ask(self, method: Method, budget_s: float = 2.0) -> Call:
        """Ask once."""
        call = self.caller.new(method, budget_s)
        self.caller.begin(call)
        return call

    def wait(self, for_s: float = 1.0) -> None:
        """Let time pass."""
        self.model.events.world.until(self.model.events.world.now + for_s)

    def asked(self, method: Method) -> Call:
        """Return a call after a while."""
        call = self.ask(method)
        self.wait()
        return call

    def crash(self) -> None:
        """Kill the server; it is back after a while."""
        self.model.events.injector.die("p0", 0.1)


def pair(publishers: int = 1, **changes: Any) -> Pair:
    """Return a caller and a server that have greeted each other."""
    model = unborn(publishers, **changes)
    assert model.requests is not None
    model.start()
    made = Pair(model, model.requests, model.requests.callers["s0"], model.requests.servers["p0"])
    made.wait()
    return made


@dataclass
class End:
    """A calling end that keeps what it is told."""

    frames: list[bytes] = field(default_factory=list)
    tellings: list[bool] = field(default_factory=list)
    writings: int = 0

    def take(self, frame: bytes) -> None:
        self.frames.append(frame)

    def told(self, *, connected: bool) -> None:
        self.tellings.append(connected)

    def writable(self) -> None:
        self.writings += 1


@dataclass
class Cable:
    """A link between an End and a list."""

    net: Network
    link: RequestLink
    end: End
    served: list[tuple[bytes, bytes]]

    def wait(self, for_s: float = 1.0) -> None:
        """Let time pass."""
        self.net.world.until(self.net.world.now + for_s)

    def say(self, *frames: bytes) -> list[bool]:
        """Send up."""
        return [self.link.send_up(frame) for frame in frames]

    def heard(self) -> list[bytes]:
        """Return what the server has heard."""
        return [frame for _, frame in self.served]


def cable(hwm: int = 10) -> Cable:
    """Return a link that is connected."""
    world, served, end = empty(), list[tuple[bytes, bytes]](), End()
    net = Network(world, world.dice("net"), 0.001)
    link = RequestLink(
        net,
        process(world, "s0"),
        process(world, "p0"),
        lambda peer, frame: served.append((peer, frame)),
        hwm,
    )
    net.links["p0", "s0"] = link
    link.open(end)
    made = Cable(net, link, end, served)
    made.wait()
    return made
