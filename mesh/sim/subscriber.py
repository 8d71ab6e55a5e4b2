"""Subscriber: a simulated node that hears publishers and applies their journals.

Effect and offset are stored in one transaction of its own journal; a node without a journal
begins at the newest offset whenever it starts.

Never here: links, faults.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from mesh.protocol import envelope
from mesh.protocol.commits import Applied, GroupCommit, Wish
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.sim.config import LOAD_UNTIL_S, Config
from mesh.sim.disk import Disk
from mesh.sim.eventfeed import EventFeed
from mesh.sim.feed import Ends
from mesh.sim.judges import Reader, Truth
from mesh.sim.network import Answer, Network, Pipe
from mesh.sim.process import Process
from mesh.sim.publisher import CAP_BYTES, SCHEMA, Ledger, Ticket
from mesh.sim.streamfeed import StreamFeed

APPLY_AGAIN_S: Final = 0.1
EXTRAS: Final = ("md.1\0", "lv.1\0", "lv.", "md.1", "lv.0\0")


@dataclass(slots=True)
class Effects:
    """The consumer's side of one publisher's journal, kept in the consumer's own."""

    node: str  # whose journal is applied
    ledger: Ledger | None  # None: nothing is kept
    process: Process

    def start(self, log_id: str) -> tuple[str, int] | None:
        """Return where to begin."""
        if self.ledger is None:
            return None
        known = self.ledger.disk.applied.get(self.node)
        return ("", 0) if known is None else (known.log_id, known.offset)

    def apply(self, log_id: str, events: list[Event], done: Callable[[], None]) -> None:
        """Store the effects and the last offset together."""
        if self.ledger is None:
            done()
            return
        effects = tuple(self._effect(log_id, event.offset) for event in events)
        applied = (Applied(self.node, log_id, events[-1].offset),)
        wish: Wish[Ticket] = Wish(lambda _: done(), effects, applied, patient=True)
        if not self.ledger.add(wish):
            now = self.process.world.now
            self.process.at(now + APPLY_AGAIN_S, self.apply, log_id, events, done)

    def _effect(self, log_id: str, offset: int) -> Event:
        payload = envelope.encode_value((self.node, log_id, offset))
        return Event(f"fx.{self.node}", SCHEMA, 0, 0, 0, payload)

    def confirm(self, log_id: str, offset: int) -> bool:
        """Store that nothing is left up to *offset*."""
        if self.ledger is None:
            return False
        known = self.ledger.disk.applied.get(self.node)
        if known is None or known.log_id != log_id or known.offset < offset:
            done = (Applied(self.node, log_id, offset),)
            return self.ledger.add(Wish(_nobody, applied=done, patient=True))
        return True

    def stored(self, log_id: str) -> list[int]:
        """Return the offsets of *log_id* whose effects are on disk."""
        if self.ledger is None:
            return []
        topic = f"fx.{self.node}"
        effects = [
            envelope.decode_value(envelope.decode_event(record.frame).payload)
            for record in self.ledger.disk.records
            if record.topic == topic
        ]
        return [offset for _, log, offset in effects if log == log_id]


@dataclass(slots=True)
class Subscriber:
    """One hearing node. prefixes: of events and of streams."""

    process: Process
    net: Network
    disk: Disk | None
    truth: Truth
    config: Config
    load: Random
    dice: Random
    events: set[str]
    streams: tuple[str, ...]
    feeds: list[EventFeed] = field(default_factory=list)
    readers: list[StreamFeed] = field(default_factory=list)
    judges: dict[str, Reader] = field(default_factory=dict)  # they outlive our runs
    ledger: Ledger | None = None
    slow_until: float = 0.0
    raising: list[int] = field(default_factory=list)  # the faults by which handlers fail next
    also: list[Callable[[], None]] = field(default_factory=list)  # boots what lives here too

    def boot(self) -> None:
        """Begin a run: recover, then hear."""
        self.process.begin()
        if self.disk is not None:
            self.ledger = self._recover(self.disk)
        for boot in self.also:
            boot()
        self.feeds, self.readers = [], []
        if self.config.events:
            self._hear()

    def _hear(self) -> None:
        name = self.process.name
        for (speaker, hearer, plane), pipe in self.net.pipes.items():
            if hearer != name:
                continue
            ends = self._ends(pipe, speaker)
            nid = envelope.node_id("sim", speaker)
            if plane == "e":
                self.feeds.append(EventFeed(ends, set(self.events), nid))
            else:
                self.readers.append(self._stream(ends, speaker, nid))
        self.process.at(self.process.world.now + 1.0 + self.load.random(), self._choose)

    def _handler_s(self) -> float:
        slow = self.process.world.now < self.slow_until
        return max(self.config.slow_s, 0.003) * 10 if slow else self.config.slow_s

    def _ends(self, pipe: Pipe, speaker: str) -> Ends:
        call, run_max = self._caller(speaker), self.config.run_max
        return Ends(self.process, pipe, self.dice, self._handler_s, self._raises, run_max, call)

    def _raises(self, records: int) -> bool:
        """Say whether a handler fails: first with several records, if it ever gets several."""
        world = self.process.world
        if not self.raising or (
            records == 1 < self.config.run_max and self.raising[-1] not in world.took
        ):
            return False
        world.effective(self.raising.pop(), "raise")
        return True

    def _recover(self, disk: Disk) -> Ledger:
        disk.epoch += 1
        self.truth.recovered(disk.log_id, disk.last)
        nid = envelope.node_id("sim", self.process.name)
        commits: GroupCommit[Ticket] = GroupCommit(
            Outbound(nid, disk.epoch, CAP_BYTES),
            self.process.name,
            disk.log_id,
            disk.first,
            disk.last,
        )
        return Ledger(disk, self.truth, commits, _unheard)

    def _stream(self, ends: Ends, speaker: str, nid: int) -> StreamFeed:
        effects = Effects(speaker, self.ledger, self.process)
        judge = self.judges.get(speaker)
        if judge is None:
            name = f"{self.process.name}<{speaker}"
            judge = self.judges[speaker] = Reader(name, self.streams, self.truth)
        start = effects.start("")
        if start is not None:
            judge.resume(*start, effects.stored(start[0]))
        return StreamFeed(ends, self.streams, nid, store=effects, reader=judge)

    def _caller(self, speaker: str) -> Callable[[str, bytes, Answer], None]:
        target = self.net.pipes[speaker, self.process.name, "e"].speaker

        def call(method: str, body: bytes, answer: Answer) -> None:
            self.net.request(self.process, target, method, body, self.config.timeout_s, answer)

        return call

    def _choose(self) -> None:
        """Hear another prefix, or one less."""
        now = self.process.world.now
        if now > LOAD_UNTIL_S:
            return
        prefix = self.load.choice(EXTRAS)
        for feed in self.feeds:
            if prefix not in feed.link.prefixes:
                feed.want({prefix})
            elif prefix not in self.events:
                feed.drop(prefix)
        self.process.at(now + 0.3 + 3 * self.load.random(), self._choose)


def _nobody(offset: int | None) -> None:
    """Nobody waits for the outcome."""


def _unheard(frame: bytes) -> None:
    """Nobody hears what a consumer stores."""
