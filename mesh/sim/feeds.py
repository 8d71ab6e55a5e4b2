"""Feeds: a simulated subscriber's links, driven as the real edges drive the same machines.

EventFeed hears EPHEMERAL events and last values of one publisher, StreamFeed its journal.

Never here: decisions; the machines take them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from mesh.protocol import envelope, topics
from mesh.protocol.catchup import HALTED, CatchUp, Notice, Range
from mesh.protocol.catchup import LIVE as CAUGHT_UP
from mesh.protocol.control import (
    Ack,
    Fetch,
    FetchPage,
    Head,
    Heartbeat,
    LogIndex,
    Snapshot,
    SnapshotPage,
)
from mesh.protocol.envelope import Event
from mesh.protocol.lastvalue import LastValues
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
from mesh.sim.judges import Ear, Reader, Screen, heard
from mesh.sim.network import Answer, Pipe
from mesh.sim.process import Process
from mesh.sim.world import Violation

ACK_S: Final = 0.4
AGAIN_S: Final = 0.25
EARLIEST: Final = 0.0005  # between two looks at the clock
VALUES: Final = "lv."
HEARTBEAT: Final = topics.HEARTBEAT + "\0"
LOG: Final = topics.LOG + "\0"
_VERDICTS: Final = {verdict: f"frame {verdict.name}" for verdict in Verdict}
_LINKS: Final = {state: f"link {state.name}" for state in LinkState}


@dataclass(slots=True)
class Ends:
    """What a feed reaches of the world: its process, its pipe, the publisher's methods."""

    process: Process
    pipe: Pipe
    dice: Random
    handler_s: Callable[[], float]  # how long a handler works now
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
        self.at = max(when, self.process.world.now + EARLIEST)
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
        verdict, gap = self.link.frame(event.epoch, event.topic, event.seq)
        if gap is not None:
            self.on_gap(gap)
        self.ends.process.world.counters[_VERDICTS[verdict]] += 1
        if verdict is DELIVER:
            self.ear.delivered(event.epoch, event.topic, event.seq)
            self.on_event(event)
        self.link.check()
        self.link.tracker.check()
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


class EventFeed(Feed):
    """Hear the events and last values of one publisher."""

    def __init__(self, ends: Ends, prefixes: set[str], nid: int) -> None:
        self.values = LastValues()
        self.screen = Screen(ends.process.name)
        self.owed: set[str] = set()  # prefixes whose snapshot waits for the next HEAD
        self.again: set[str] = set()  # prefixes to ask for soon
        self.asking = False
        self.soon = Alarm(ends.process, self._ask)
        super().__init__(ends, prefixes, nid)

    def want(self, prefixes: set[str]) -> None:
        """Hear *prefixes* too, their last values first."""
        self.owed |= {p for p in prefixes if topics.overlaps(p, VALUES)}
        super().want(prefixes)

    def drop(self, prefix: str) -> None:
        """Hear *prefix* no longer."""
        super().drop(prefix)
        self.values.forget(prefix, self.link.prefixes)
        self.screen.forget(self.link.prefixes)
        self.values.check()

    def on_event(self, event: Event) -> None:
        """Show a live value."""
        if not event.topic.startswith(VALUES) or not heard(self.link.prefixes, event.topic):
            return
        if self.values.live(event):
            self.screen.show(event.topic, event.epoch, event.seq)
        self.values.check()

    def on_live(self, live: Live) -> None:
        """Ask for the values that this HEAD is the base of."""
        if live.began:
            self.values.begin()
            self.owed |= {p for p in self.link.prefixes if topics.overlaps(p, VALUES)}
        self.again |= self.owed
        self.owed = set()
        self._ask()

    def on_gap(self, gap: Gap) -> None:
        """Doubt the value of the topic."""
        super().on_gap(gap)
        if gap.topic.startswith(VALUES):
            self.values.doubt(gap.topic, gap.last)
            self.again.add(gap.topic + "\0")
            self.soon.set(self.ends.now() + AGAIN_S)

    def holds(self) -> dict[str, tuple[int, int]]:
        """Return the values known, by epoch and sequence."""
        return {t: (e.epoch, e.seq) for t, e in sorted(self.values.values.items())}

    def _ask(self) -> None:
        if self.asking or not self.again or not self.link.tracker.synced:
            return
        prefixes, self.again = tuple(sorted(self.again)), set()
        self.asking = True
        self.values.ask()
        self._page(prefixes, "", self.link.tracker.epoch)

    def _page(self, prefixes: tuple[str, ...], after: str, run: int) -> None:
        body = envelope.encode_value(Snapshot(prefixes, after))
        self.ends.call(
            "snapshot", body, lambda reply, epoch: self._filled(prefixes, run, reply, epoch)
        )

    def _filled(
        self, prefixes: tuple[str, ...], run: int, reply: bytes | None, epoch: int
    ) -> None:
        # A snapshot counts only if one run gave all of it, and it is the run that is heard.
        if reply is None or not run == epoch == self.link.tracker.epoch:
            self._ended(prefixes, complete=False)
            return
        page: SnapshotPage = envelope.decode_value(reply, SnapshotPage)
        for frame in page.frames:
            event = envelope.decode_event(frame)
            if heard(self.link.prefixes, event.topic) and self.values.offer(event):
                self.screen.show(event.topic, event.epoch, event.seq)
        self.values.check()
        if page.after:
            self._page(prefixes, page.after, run)
        else:
            self._ended(prefixes, complete=True)

    def _ended(self, prefixes: tuple[str, ...], *, complete: bool) -> None:
        world = self.ends.process.world
        world.counters["snapshot" if complete else "snapshot torn"] += 1
        self.asking = False
        self.values.end(prefixes, complete=complete)
        self.values.check()
        if not complete:
            self.again |= {p for p in prefixes if p in self.link.prefixes or p.endswith("\0")}
        if self.again:
            self.soon.set(self.ends.now() + AGAIN_S)


class Store(Protocol):
    """Where a consumer keeps effects and offsets."""

    def start(self, log_id: str) -> tuple[str, int] | None:
        """Return the log and offset to begin behind, None for "from now on"."""

    def apply(self, log_id: str, event: Event, done: Callable[[], None]) -> None:
        """Store the effect of *event* together with its offset, then call done."""

    def confirm(self, log_id: str, offset: int) -> bool:
        """Store that nothing is left up to *offset*; return whether it is kept."""

    def stored(self, log_id: str) -> list[int]:
        """Return the offsets of *log_id* whose effects are on disk."""


class StreamFeed(Feed):
    """Follow the journal of one publisher."""

    def __init__(
        self, ends: Ends, prefixes: tuple[str, ...], nid: int, *, store: Store, reader: Reader
    ) -> None:
        self.catchup: CatchUp[Event] = CatchUp(prefixes)
        self.store, self.reader = store, reader
        self.applying = False
        self.acked = ("", -1)
        self.due = Alarm(ends.process, self._pump)
        ends.process.at(ends.now() + ACK_S, self._acknowledge)
        super().__init__(ends, {*prefixes, LOG}, nid)

    def on_event(self, event: Event) -> None:
        """Take an index or a live record."""
        before = self.catchup.stage
        if event.topic == topics.LOG:
            index: LogIndex = envelope.decode_value(event.payload, LogIndex)
            self.catchup.index(index.log_id, index.first, index.topics)
            self._after("index", before.name)
        elif event.offset:
            self.catchup.live(event.offset, event)
            self._after("live", before.name)

    def on_live(self, live: Live) -> None:
        """Learn where the journal stands."""
        stream, catchup = live.head.streams[0], self.catchup
        if not catchup.log_id:
            start = self.store.start(stream.log_id)
            catchup.begin(*(start or (stream.log_id, stream.last)))
            if not catchup.applied:
                self.reader.resume(stream.log_id, 0)
            elif start is None:
                self.reader.resume(stream.log_id, stream.last)
        before = catchup.stage.name
        self._notices(catchup.head(stream, began=live.began))
        self._after("head", before)

    def on_beacon(self, beat: Heartbeat) -> None:
        """Learn what must have come."""
        before = self.catchup.stage.name
        self.catchup.beacon(beat.streams[0])
        self._after("beacon", before)

    def _notices(self, notices: list[Notice]) -> None:
        for notice in notices:
            self.ends.process.world.counters[type(notice).__name__] += 1
            self.reader.notice(notice)

    def _after(self, cause: str, before: str) -> None:
        world, catchup = self.ends.process.world, self.catchup
        world.counters[f"catchup {before}>{catchup.stage.name} by {cause}"] += 1
        catchup.check()
        self._pump()

    def _pump(self) -> None:
        now = self.ends.now()
        for asked in self.catchup.asks(now):
            self._fetch(asked)
        if not self.applying and (taken := self.catchup.take()) is not None:
            self.applying = True
            offset, event = taken
            slow_s = self.ends.handler_s()
            self.ends.process.at(now + slow_s, self._apply, self.catchup.log_id, offset, event)
        self.due.set(self.catchup.next_deadline(now))

    def _apply(self, log_id: str, offset: int, event: Event) -> None:
        self.store.apply(log_id, event, lambda: self._applied(log_id, offset, event))

    def _applied(self, log_id: str, offset: int, event: Event) -> None:
        self.applying = False
        if log_id == self.reader.log_id:  # else the stream was reset while the handler ran
            self.reader.apply(log_id, offset, event.topic, event.payload)
        before = self.catchup.stage.name
        self.catchup.done(offset)
        self._after("done", before)

    def _fetch(self, asked: Range) -> None:
        ask = Fetch(asked.log_id, asked.after, asked.to, self.catchup.prefixes)
        self.ends.call(
            "fetch", envelope.encode_value(ask), lambda reply, _: self._fetched(asked, reply)
        )

    def _fetched(self, asked: Range, reply: bytes | None) -> None:
        page: FetchPage | None = None
        if reply is not None:
            page = envelope.decode_value(reply, FetchPage)
        before = self.catchup.stage.name
        if page is None or page.log_id != asked.log_id:
            self.catchup.failed(asked, self.ends.now(), self.ends.dice.random())
            self._after("failure", before)
            return
        events = [envelope.decode_event(frame) for frame in page.frames]
        items = [(event.offset, event) for event in events]
        self._notices(self.catchup.page(asked, page.through, items, page.first))
        self._after("page", before)

    def _acknowledge(self) -> None:
        catchup, now = self.catchup, self.ends.now()
        self.ends.process.at(now + ACK_S, self._acknowledge)
        if catchup.stage is HALTED or not catchup.log_id or self.applying:
            return
        state = (catchup.log_id, catchup.confirm())
        self.reader.passed(state[1])
        if state != self.acked and self.store.confirm(*state):
            self.acked = state
            name = self.ends.process.name
            self.ends.call(f"ack {name}", envelope.encode_value(Ack(*state)), _ignore)

    def end(self) -> None:
        """Say what is wrong after a quiet time."""
        stage = self.catchup.stage
        if not self.reader.halted and (stage is not CAUGHT_UP or self.catchup.lag):
            raise Violation("behind", f"{self.name}: {stage.name}, lag {self.catchup.lag}")


def _ignore(reply: bytes | None, epoch: int) -> None:
    """Whether an Ack arrives does not matter: the next one tells."""
