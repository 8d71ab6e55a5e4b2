"""EventPlane: publishers, subscribers, their network and disks, and the end of a run judged.

The pure machines of the event plane on simulated edges.

Never here: machines, judges, the effects of faults.
"""

from contextlib import AbstractContextManager
from typing import Any, Final

import msgspec

from mesh.protocol import envelope
from mesh.protocol.commits import Stored
from mesh.sim import config as shape
from mesh.sim.config import Config
from mesh.sim.disk import Disk
from mesh.sim.faults import Fault
from mesh.sim.injection import Injector
from mesh.sim.judges import Truth, heard
from mesh.sim.network import Network
from mesh.sim.process import Process
from mesh.sim.publisher import Publisher
from mesh.sim.subscriber import Subscriber
from mesh.sim.world import World

STREAMS: Final = (("ord.",), ("ord.", "aud."), ("aud.1\0", "ord.0"), ("ord.1",))
EVENTS: Final = ({"md.", "lv."}, {"lv."}, {"md.0\0", "lv."}, {"md.1", "lv.1"})


def build(world: World) -> "EventPlane":
    """Return the event plane of *world*."""
    if world.config is None:
        return EventPlane(world, shape.draw(world.dice("config")))
    return EventPlane(world, msgspec.convert(world.config, Config))


class EventPlane:
    """The model of one run."""

    heal_s = shape.HEAL_S
    horizon_s = shape.HORIZON_S

    def __init__(self, world: World, config: Config) -> None:
        self.world, self.config = world, config
        self.truth = Truth()
        self.net = Network(world, world.dice("net"), config.delay_s)
        names = [f"p{number}" for number in range(config.publishers)]
        self.publishers = {name: self._publisher(name) for name in names}
        names = [f"s{number}" for number in range(config.subscribers)]
        self.subscribers = {name: self._subscriber(name) for name in names}
        for publisher in self.publishers.values():
            for subscriber in self.subscribers.values():
                self.net.lay(publisher, subscriber.process, config.hwm)
        self.injector = Injector(world, self.net, self.publishers, self.subscribers)

    def settings(self) -> dict[str, Any]:
        """Return the configuration, as build() takes it."""
        settings: dict[str, Any] = msgspec.to_builtins(self.config)
        return settings

    def running(self) -> AbstractContextManager[None]:
        """Let the machines have the limits of this configuration."""
        return shape.limits(self.config)

    def schedule(self) -> tuple[Fault, ...]:
        """Return all that will go wrong."""
        return shape.schedule(self.config, self.world.dice("faults"))

    def start(self) -> None:
        """Start every node, at a time of its own."""
        dice = self.world.dice("start")
        boots = [node.boot for node in self.publishers.values()]
        boots += [node.boot for node in self.subscribers.values()]
        for boot in boots:
            self.world.at(dice.random() * 0.5, boot)

    def apply(self, number: int, fault: Fault) -> None:
        """Let *fault* happen."""
        self.injector.apply(number, fault)

    def heal(self) -> None:
        """End all that is still wrong."""
        self.injector.heal()

    def finish(self) -> None:
        """Judge what is left after the quiet time."""
        for subscriber in self.subscribers.values():
            for feed in subscriber.feeds:
                publisher = self.publishers[feed.ends.pipe.speaker.process.name]
                feed.ear.end(publisher.epoch, publisher.e.heads, feed.link.prefixes)
                values = {
                    topic: (publisher.epoch, stamped.seq)
                    for topic, stamped in publisher.e.last_values.items()
                    if heard(feed.link.prefixes, topic)
                }
                feed.screen.end(feed.holds(), values)
            for stream in subscriber.readers:
                self._judge_stream(subscriber, stream.ends.pipe.speaker.process.name)

    def _judge_stream(self, subscriber: Subscriber, name: str) -> None:
        publisher, judge = self.publishers[name], subscriber.judges[name]
        stream = next(s for s in subscriber.readers if s.reader is judge)
        stream.end()
        judge.end(publisher.disk.log_id)
        if not judge.halted:
            stream.ear.end(publisher.epoch, publisher.d.heads, stream.link.prefixes)
            if subscriber.disk is not None:
                judge.stored(stream.store.stored(judge.log_id))

    def _process(self, name: str) -> Process:
        dice = self.world.dice(f"clock {name}")
        process = Process(self.world, name)
        process.wall_offset_ns = int(dice.uniform(-3, 3) * 1e9)
        process.wall_rate = 1 + dice.uniform(-1e-4, 1e-4)
        return process

    def _disk(self, process: Process) -> Disk:
        dice = self.world.dice(f"disk {process.name}")
        return Disk(process, dice, self._kept, self.config.page_rows)

    def _publisher(self, name: str) -> Publisher:
        process = self._process(name)
        load = self.world.dice(f"load {name}")
        disk = self._disk(process)
        return Publisher(process, self.net, disk, self.truth, self.config, load)

    def _subscriber(self, name: str) -> Subscriber:
        process = self._process(name)
        load = self.world.dice(f"load {name}")
        memory = self.config.memory[int(name[1:])]
        return Subscriber(
            process,
            self.net,
            None if memory else self._disk(process),
            self.truth,
            self.config,
            load,
            self.world.dice(f"dice {name}"),
            load.choice(EVENTS),
            load.choice(STREAMS),
        )

    def _kept(self, log_id: str, records: tuple[Stored, ...]) -> None:
        for record in records:
            payload = envelope.decode_event(record.frame).payload
            self.truth.kept(log_id, [(record.topic, payload)])
        self.world.note(f"{log_id} {len(records)}".encode())
