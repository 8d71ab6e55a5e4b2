"""Publisher: a simulated node that speaks on both planes, through the machines of real nodes.

Plane e: EPHEMERAL events and last values; plane d: what its journal has stored. Heartbeats on
both carry heads, so that a lost last event shows.

Never here: who listens, faults, judgement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mesh.errors import Overloaded
from mesh.protocol import envelope, topics
from mesh.protocol.commits import Applied, Group, GroupCommit, Wish
from mesh.protocol.control import (
    SCHEMAS,
    Ack,
    Fetch,
    Heartbeat,
    Snapshot,
    SnapshotPage,
)
from mesh.protocol.envelope import TOMBSTONE, Event
from mesh.protocol.outbound import Outbound
from mesh.sim.config import HORIZON_S, Config
from mesh.sim.disk import Disk
from mesh.sim.judges import Truth
from mesh.sim.network import ACK, Network, Pipe
from mesh.sim.process import Process

CAP_BYTES: Final = 16 * 1024
BEAT_S: Final = 0.5
DISK_RETRY_S: Final = 0.25
RETAIN_S: Final = 2.0
KEEP: Final = 10  # offsets that retention spares though they are acknowledged
SCHEMA: Final = 0x1001

Ticket = Callable[[int | None], None]  # the offset, None if refused


@dataclass(slots=True)
class Ledger:
    """A journal as a node drives it: one group under way, published when it is stored."""

    disk: Disk
    truth: Truth
    commits: GroupCommit[Ticket]
    send: Callable[[bytes], None]
    _retrying: bool = False

    def add(self, wish: Wish[Ticket]) -> bool:
        """Queue *wish*; False if there are too many."""
        try:
            self.commits.add(wish)
        except Overloaded:
            self.disk.process.world.counters["overloaded"] += 1
            return False
        self.pump()
        return True

    def pump(self) -> None:
        """Hand the next group to the disk."""
        if self._retrying:
            return
        group = self.commits.group()
        self.commits.check()
        if group is not None:
            self.disk.write(group, lambda stored: self._written(group, stored=stored))

    def _written(self, group: Group, *, stored: bool) -> None:
        if not stored:
            self._refused()
            return
        outcome = self.commits.committed()
        self.commits.check()
        for frame in outcome.frames:
            self.send(frame)
        for ticket, offset in outcome.tickets:
            if group.records:
                self.truth.acknowledged(self.disk.log_id, offset)
            ticket(offset)
        if self.disk.first != self.commits.first:
            self.commits.retained(self.disk.first)
        self.pump()

    def _refused(self) -> None:
        process = self.disk.process
        process.world.counters["refused"] += 1
        self._retrying = True
        process.at(process.world.now + DISK_RETRY_S, self._again)
        for ticket in self.commits.refused():
            ticket(None)
        self.commits.check()

    def _again(self) -> None:
        self._retrying = False
        self.pump()


@dataclass(slots=True)
class Publisher:
    """One publishing node."""

    process: Process
    net: Network
    disk: Disk
    truth: Truth
    config: Config
    load: Random
    epoch: int = 0
    e: Outbound = field(default_factory=lambda: Outbound(0, 0, CAP_BYTES))
    d: Outbound = field(default_factory=lambda: Outbound(0, 0, CAP_BYTES))
    ledger: Ledger | None = None
    beats: int = 0
    said: int = 0
    also: list[Callable[[], None]] = field(default_factory=list)  # boots what lives here too

    @property
    def nid(self) -> int:
        """Return its number on the wire."""
        return envelope.node_id("sim", self.process.name)

    def boot(self) -> None:
        """Begin a run: recover, then speak."""
        process, disk = self.process, self.disk
        process.begin()
        # The rule of epochs: they rise, whatever the wall clock does.
        self.epoch = disk.epoch = max(disk.epoch + 1, process.wall_ns() // 10**6)
        self.truth.recovered(disk.log_id, disk.last)
        self.e = Outbound(self.nid, self.epoch, CAP_BYTES)
        self.d = Outbound(self.nid, self.epoch, CAP_BYTES)
        commits: GroupCommit[Ticket] = GroupCommit(
            self.d, process.name, disk.log_id, disk.first, disk.last
        )
        self.ledger = Ledger(disk, self.truth, commits, lambda frame: self._send("d", frame))
        self.net.back(process.name)
        for boot in self.also:
            boot()
        if not self.config.events:
            return
        now = process.world.now
        process.at(now + BEAT_S * self.load.random(), self._beat)
        process.at(now + RETAIN_S, self._retain)
        process.at(now + self.load.random() * 0.1, self._speak)
        process.at(now + self.load.random() * 0.1, self._store)

    def probed(self, pipe: Pipe, topic: bytes) -> None:
        """Answer a probe that has arrived on *pipe*."""
        outbound = self.e if pipe.plane == "e" else self.d
        # A connection that came back brings the same probe: which answer arrives is open.
        pipe.heads[topic] = None if topic in pipe.heads else dict(outbound.heads)
        for frame in outbound.answer(topic, lambda _prefix: True):
            self._send(pipe.plane, frame)

    def serve(self, method: str, body: bytes) -> bytes:
        """Answer a request."""
        if method == "snapshot":
            snapshot: Snapshot = envelope.decode_value(body, Snapshot)
            frames, after = self.e.snapshot(snapshot.prefixes, snapshot.after)
            return envelope.encode_value(SnapshotPage(frames, after))
        if method == "fetch":
            fetch: Fetch = envelope.decode_value(body, Fetch)
            page = self.disk.page(fetch.log_id, fetch.after, fetch.to, fetch.prefixes)
            return envelope.encode_value(page)
        who, ack = method.removeprefix(ACK), envelope.decode_value(body, Ack)
        if ack.log_id == self.disk.log_id and self.ledger is not None:
            acks = (Applied(who, ack.log_id, ack.offset),)
            self.ledger.add(Wish(_nobody, acks=acks, patient=True))
        return b""

    def _speak(self) -> None:
        """Publish some events, of a topic each; now and then a burst of them."""
        dice, world = self.load, self.process.world
        if world.now > self.config.events_until_s:
            return
        burst = self.config.burst if dice.random() < 0.1 else 1
        for _ in range(burst):
            kind, number = ("md", "lv")[dice.random() < 0.4], dice.randrange(self.config.topics)
            # Topics come by and by, and most are rare: late first events are worth judging.
            number = min(number, dice.randrange(1 + int(world.now)))
            self._event(f"{kind}.{number}", ended=kind == "lv" and dice.random() < 0.2)
        self.process.at(world.now + dice.expovariate(self.config.events_rate), self._speak)

    def _event(self, topic: str, *, ended: bool) -> None:
        self.said += 1
        flags, payload = TOMBSTONE if ended else 0, envelope.encode_value(self.said)
        event = Event(topic, SCHEMA, 0, 0, 0, payload, flags, ts_sent=self.process.wall_ns())
        self._send("e", self.e.frame(event, keep=topic.startswith("lv.")))

    def _store(self) -> None:
        dice, world = self.load, self.process.world
        if (
            world.now > self.config.durable_until_s
            or self.ledger is None
            or self.disk.log_id in self.truth.cuts
        ):
            return
        wishes = self.config.burst if dice.random() < 0.05 else 1
        for _ in range(wishes):
            events = tuple(self._record() for _ in range(dice.choice((1, 1, 1, 3))))
            self.ledger.add(Wish(_nobody, events))
        self.process.at(world.now + dice.expovariate(self.config.durable_rate), self._store)

    def _record(self) -> Event:
        self.said += 1
        kind, number = self.load.choice(("ord", "aud")), self.load.randrange(self.config.topics)
        payload = envelope.encode_value((self.process.name, self.epoch, self.said))
        return Event(f"{kind}.{number}", SCHEMA, 0, 0, 0, payload, ts_sent=self.process.wall_ns())

    def _beat(self) -> None:
        if self.process.world.now > HORIZON_S - BEAT_S:
            return  # the last must arrive, to be judged
        self.beats += 1
        for plane, outbound in (("e", self.e), ("d", self.d)):
            beat = Heartbeat(
                *(self.beats, "ready", "NORMAL", 1, 1, 0, 0, 0, 0, 0.0, 0.0, 0, 0),
                heads=outbound.beacon(),
                streams=outbound.streams,
            )
            payload = envelope.encode_value(beat)
            event = Event(topics.HEARTBEAT, SCHEMAS[Heartbeat], 0, 0, 0, payload)
            self._send(plane, outbound.frame(event))
        jitter = 0.9 + 0.2 * self.load.random()
        self.process.at(self.process.world.now + BEAT_S * jitter, self._beat)

    def _retain(self) -> None:
        """Delete what every consumer that ever acknowledged has applied."""
        acked = [ack.offset for ack in self.disk.acks.values()]
        if acked and self.ledger is not None:
            self.retain(min(acked) - KEEP)
        self.process.at(self.process.world.now + RETAIN_S, self._retain)

    def retain(self, first: int) -> None:
        """Delete what lies before *first*."""
        self.disk.retain(first)
        self.truth.retained(self.disk.log_id, self.disk.first)
        if self.ledger is not None:
            self.ledger.commits.retained(self.disk.first)

    def _send(self, plane: str, frame: bytes) -> None:
        self.net.publish(self.process.name, plane, frame)


def _nobody(offset: int | None) -> None:
    """Nobody waits for the outcome."""
