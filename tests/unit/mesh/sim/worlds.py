"""Small worlds for the tests of the simulator's parts."""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mesh.protocol import topics
from mesh.sim.config import Config
from mesh.sim.eventplane import EventPlane, build
from mesh.sim.network import Network, Pipe
from mesh.sim.process import Process
from mesh.sim.world import World

CALM: Final = Config(
    publishers=1,
    subscribers=1,
    topics=2,
    hwm=64,
    delay_s=0.001,
    events_rate=5.0,
    durable_rate=5.0,
    events_until_s=22.0,
    durable_until_s=22.0,
    burst=1,
    page_rows=512,
    timeout_s=2.0,
    memory=(False,),
    slow_s=0.0,
    run_max=4,
    kinds=(),
    faults=0,
    limits={},
)


def calm(**changes: Any) -> Config:
    """Return a configuration in which nothing goes wrong."""
    return msgspec.structs.replace(CALM, **changes)


def empty() -> World:
    """Return a world in which nothing happens."""
    return World(1, build)


def unborn(config: Config = CALM) -> EventPlane:
    """Return an event plane that nobody started; s0 is to hear all that p0 says."""
    model = EventPlane(empty(), config)
    for subscriber in model.subscribers.values():
        subscriber.events = {"md.", "lv."}
        subscriber.streams = ("ord.", "aud.")
    return model


def plane(config: Config = CALM, *, until_s: float = 3.0) -> EventPlane:
    """Return the event plane *until_s* after its start."""
    model = unborn(config)
    model.start()
    model.world.until(until_s)
    return model


def process(world: World, name: str = "p0") -> Process:
    """Return a process that runs."""
    made = Process(world, name)
    made.begin()
    return made


@dataclass
class Mouth:
    """A publisher that says nothing by itself, and answers with what it was asked."""

    process: Process
    epoch: int = 1
    probes: list[bytes] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def probed(self, pipe: Pipe, topic: bytes) -> None:
        self.probes.append(topic)
        pipe.push(topic + b"\0")

    def serve(self, method: str, body: bytes) -> bytes:
        self.served.append(method)
        return body


@dataclass
class Ear:
    """A subscriber that keeps what it hears."""

    heard: list[bytes] = field(default_factory=list)

    def receive(self, frame: bytes) -> None:
        self.heard.append(frame)


@dataclass
class Line:
    """One publisher, one subscriber and what lies between them."""

    world: World
    net: Network
    mouth: Mouth
    ear: Ear
    pipe: Pipe
    hearer: Process

    def say(self, *frames: bytes) -> None:
        for frame in frames:
            self.net.publish("p0", "e", frame)

    def wait(self, for_s: float = 1.0) -> list[bytes]:
        """Return what is heard meanwhile."""
        before = len(self.ear.heard)
        self.world.until(self.world.now + for_s)
        return self.ear.heard[before:]


def line(hwm: int = 64) -> Line:
    """Return a line that is connected, with a subscription to "md."."""
    world = empty()
    net = Network(world, world.dice("net"), 0.001)
    mouth, hearer = Mouth(process(world)), process(world, "s0")
    net.lay(mouth, hearer, hwm)
    made = Line(world, net, mouth, Ear(), net.pipes["p0", "s0", "e"], hearer)
    made.pipe.open(made.ear)
    made.pipe.send_up(b"md.", wanted=True)
    made.wait()
    return made


PROBE: Final = topics.probe(7)
