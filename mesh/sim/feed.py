"""Feed: a simulated subscriber's link to one plane of one publisher.

It drives the same machines as the real edges, in the same order.

Never here: decisions; the machines take them. What events are good for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from mesh.protocol import envelope, topics
from mesh.protocol.control import Head, Heartbeat
from mesh.protocol.envelope import Event
from mesh.protocol.sequence import DELIVER, Gap, Verdict
from mesh.protocol.sync import (
    Close,
    Effect,
    LinkState,
    LinkSync,
    Live,
    Open,
    Probe,
    Subscribe,
    Unsubscribe,
)
from mesh.sim.judges import Ear
from mesh.sim.network import Answer, Pipe
from mesh.sim.process import Process

EARLIEST_S: Final = 0.0005  # between two looks at the clock
HEARTBEAT: Final = topics.HEARTBEAT + "\0"
_VERDICTS: Final = {verdict: f"frame {verdict.name}" for verdict in Verdict}
_LINKS: Final = {state: f"link {state.name}" for state in LinkState}


@dataclass(slots=True)
class Ends:
    """What a feed reaches of the world: its process, its pipe, the publisher's methods."""

    process: Process
    pipe: Pipe
    dice: Random
    handler_s: Callable[[], float]  # how long a handler works now
    raises: Callable[[int], bool]  # whether it fails with so many records
    run_max: int  # records that it gets at once
    call: Callable[[str, bytes, Answer], None]

    def now(self) -> float:
        """Return the monotonic time."""
        return self.process.world.now


@dataclass(slots=True)
class Alarm:
    """One timer that can be set anew; the earliest setting counts."""

    process: Process
    ring: Callable[[], None]
    at: float | None = None

    def set(self, when: float | None) -> None:
        """Ring at *when* at the latest."""
        if when is None or (self.at is not None and self.at <= when):
            return
        self.at = max(when, self.process.world.now + EARLIEST_S)
        self.process.at(self.at, self._ring, self.at)

    def _ring(self, at: float) -> None:
        if at == self.at:
            self.at = None
            self.ring()


class Feed:
    """A link to one plane of one publisher."""

    def __init__(self, ends: Ends, prefixes: set[str], nid: int) -> None:
        self.ends, self.nid = ends, nid
        self.link = LinkSync(lambda: ends.dice.getrandbits(64))
        self.name = f"{ends.process.name}<{ends.pipe.speaker.process.name}.{ends.pipe.plane}"
        self.ear = Ear(self.name)
        self.alarm = Alarm(ends.process, self._tick)
        self.want(prefixes | {HEARTBEAT})

    def want(self, prefixes: set[str]) -> None:
        """Hear *prefixes* too."""
        self._do(self.link.want(prefixes, self.ends.now()))

    def drop(self, prefix: str) -> None:
        """Hear *prefix* no longer."""
        self._do(self.link.drop(prefix))
        self.ear.narrowed(self.link.prefixes)

    def receive(self, frame: bytes) -> None:
        """Take a frame from the pipe."""
        event = envelope.decode_event(frame)
        if frame[0] == 0xFF:
            head: Head = envelope.decode_value(event.payload, Head)
            self._do(self.link.head(head, event.topic.encode("latin-1"), self.ends.now()))
            return
        if event.topic == topics.HEARTBEAT:
            self._beacon(event)
        if (slow_s := self.ends.handler_s()) > 0:
            self.ends.process.busy(slow_s)
        verdict, gap = self._judged(event)
        if gap is not None:
            self.on_gap(gap)
        self.ends.process.world.counters[_VERDICTS[verdict]] += 1
        if verdict is DELIVER:
            self.ear.delivered(event.epoch, event.topic, event.seq)
            self.on_event(event)
        self.alarm.set(self.link.next_deadline())

    def on_event(self, event: Event) -> None:
        """Take an event in its order."""

    def on_live(self, live: Live) -> None:
        """Take a complete HEAD."""

    def on_gap(self, gap: Gap) -> None:
        """Take what is lost."""
        self.ends.process.world.counters["gap"] += 1
        self.ear.gap(gap)

    def on_beacon(self, beat: Heartbeat) -> None:
        """Take a heartbeat of the run that is heard."""

    def _judged(self, event: Event) -> tuple[Verdict, Gap | None]:
        if self.link.tracker.is_next(event.epoch, event.topic, event.seq):  # the common case
            return DELIVER, None
        judged = self.link.frame(event.epoch, event.topic, event.seq)
        self.link.check()
        self.link.tracker.check()
        return judged

    def _beacon(self, event: Event) -> None:
        beat: Heartbeat = envelope.decode_value(event.payload, Heartbeat)
        for gap in self.link.beacon(event.epoch, beat.heads):
            self.ends.process.world.counters["gap by beacon"] += 1
            self.on_gap(gap)
        if event.epoch == self.link.tracker.epoch and self.link.tracker.synced:
            self.on_beacon(beat)

    def _tick(self) -> None:
        self._do(self.link.tick(self.ends.now()))

    def _do(self, effects: list[Effect]) -> None:
        pipe = self.ends.pipe
        for effect in effects:
            if isinstance(effect, Subscribe):
                pipe.send_up(effect.prefix.encode(), wanted=True)
            elif isinstance(effect, Unsubscribe):
                pipe.send_up(effect.prefix.encode(), wanted=False)
            elif isinstance(effect, Probe):
                if effect.replaces:
                    pipe.send_up(effect.replaces, wanted=False)
                pipe.send_up(effect.topic, wanted=True)
            elif isinstance(effect, Gap):
                self.on_gap(effect)
            else:
                self._turn(effect)
        self.link.check()
        self.ends.process.world.counters[_LINKS[self.link.state]] += 1
        self.alarm.set(self.link.next_deadline())

    def _turn(self, effect: Open | Close | Live) -> None:
        if isinstance(effect, Open):
            self.ends.pipe.open(self)
            self._do(self.link.opened(self.ends.now()))
        elif isinstance(effect, Close):
            self.ends.pipe.close()
        else:
            heads = self.ends.pipe.heads[self.link.probe]
            if heads is None:
                heads = {t: due - 1 for t, due in self.link.tracker.expected.items()}
            self.ear.head(effect.head.epoch, heads, self.link.prefixes)
            self.on_live(effect)
