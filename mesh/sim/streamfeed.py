"""StreamFeed: a simulated consumer of one publisher's journal.

Never here: links, decisions; the machines take them. Where effects are kept.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from mesh.protocol import envelope, topics
from mesh.protocol.catchup import HALTED, CatchUp, Notice, Range
from mesh.protocol.catchup import LIVE as CAUGHT_UP
from mesh.protocol.control import Ack, Fetch, FetchPage, Heartbeat, LogIndex
from mesh.protocol.envelope import Event
from mesh.protocol.sync import Live
from mesh.sim.feed import Alarm, Ends, Feed
from mesh.sim.judges import Reader
from mesh.sim.network import ACK
from mesh.sim.world import Violation

ACK_S: Final = 0.4
RAISED_S: Final = 0.05  # until a handler that failed is tried again
LOG: Final = topics.LOG + "\0"

Run: TypeAlias = Sequence[tuple[int, Event]]  # offsets and events applied together


class Store(Protocol):
    """Where a consumer keeps effects and offsets."""

    def start(self, log_id: str) -> tuple[str, int] | None:
        """Return the log and offset to begin behind, None for "from now on"."""

    def apply(self, log_id: str, events: list[Event], done: Callable[[], None]) -> None:
        """Store the effects of *events* together with the last offset, then call done."""

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
        self.singly = 0  # up to this offset records are applied one by one
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
            self.singly = 0  # it may have been of another log
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
        most = 1 if self.catchup.applied < self.singly else self.ends.run_max
        if not self.applying and (run := self.catchup.take_run(most, _joins)):
            self.applying = True
            slow_s = self.ends.handler_s()
            self.ends.process.at(now + slow_s, self._apply, self.catchup.log_id, run)
        self.due.set(self.catchup.next_deadline(now))

    def _apply(self, log_id: str, run: Run) -> None:
        if self.ends.raises(len(run)):
            self._failed(log_id, run)
            return
        events = [event for _, event in run]
        self.store.apply(log_id, events, lambda: self._applied(log_id, run))

    def _failed(self, log_id: str, run: Run) -> None:
        """Let several come again one by one, and one alone after a while."""
        if len(run) == 1:
            self.ends.process.at(self.ends.now() + RAISED_S, self._apply, log_id, run)
            return
        before = self.catchup.stage.name
        self.applying, self.singly = False, run[-1][0]
        self.catchup.give_back()
        self._after("raise", before)

    def _applied(self, log_id: str, run: Run) -> None:
        self.applying = False
        if log_id == self.reader.log_id:  # else the stream was reset while the handler ran
            for offset, event in run:
                self.reader.apply(log_id, offset, event.topic, event.payload)
        before = self.catchup.stage.name
        self.catchup.done(run[-1][0])
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
        if catchup.stage is HALTED or not catchup.log_id:
            return
        state = (catchup.log_id, catchup.confirm())
        self.reader.passed(state[1])
        if state != self.acked and self.store.confirm(*state):
            self.acked = state
            name = self.ends.process.name
            self.ends.call(ACK + name, envelope.encode_value(Ack(*state)), _ignore)

    def end(self) -> None:
        """Say what is wrong after a quiet time."""
        stage = self.catchup.stage
        if not self.reader.halted and (stage is not CAUGHT_UP or self.catchup.lag):
            raise Violation("behind", f"{self.name}: {stage.name}, lag {self.catchup.lag}")


def _joins(first: Event, event: Event) -> bool:
    return first.topic[:3] == event.topic[:3]  # as if each kind had a handler of its own


def _ignore(reply: bytes | None, epoch: int) -> None:
    """Whether an Ack arrives does not matter: the next one tells."""
