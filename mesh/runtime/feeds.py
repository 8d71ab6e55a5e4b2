"""Feed: what one publisher says on one plane, brought to those who asked for it.

Last values come first: from what is known already, else by a snapshot. On the durable plane
a reader follows the publisher's journal beside the sinks that only hear what is live.

Never here: finding publishers, the order of durable events.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import msgspec

from mesh.errors import MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.control import LASTVALUE, Head, Heartbeat, Record, SnapshotPage
from mesh.protocol.control import Snapshot as SnapshotAsk
from mesh.protocol.envelope import SNAPSHOT, TOMBSTONE, Event
from mesh.protocol.lastvalue import LastValues
from mesh.protocol.sequence import Gap
from mesh.runtime.durable import DurableReader, Spawn
from mesh.transport.lanes import Lane
from mesh.transport.pubsub import Ears, Subscriber
from mesh.transport.sockets import Socket

ROUTES_MAX: Final = 10_000
STRANGE_MAX: Final = 100
SNAPSHOT_TOPICS: Final = 500  # asked for at once: the request is one frame
SNAPSHOT_TIMEOUT_S: Final = 2.0
_LOG: Final = topics.LOG + "\0"

EventSink: TypeAlias = Callable[[Event, Record], None]
Interests: TypeAlias = list[tuple[str, EventSink]]
AskSnapshot: TypeAlias = Callable[[SnapshotAsk, float], Awaitable[SnapshotPage]]


@dataclass(slots=True)
class Listeners:
    """Who is told of what happens on the links of this process; see Ears."""

    on_gap: Callable[[str, Gap], None] = lambda node, gap: None
    on_drained: Callable[[int, int], None] = lambda taken, sent_ns: None
    on_trouble: Callable[[str, str], None] = lambda node, why: None


class Feed:
    """Hear one publisher on one plane for all sinks of this process.

    refused: schemas that mean something else there than here; their events are dropped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], Socket],
        record: Record,
        listeners: Listeners,
        *,
        reader: DurableReader | None,
        durable: bool,
        ask: AskSnapshot,
        spawn: Spawn,
    ) -> None:
        self.record, self.reader = record, reader
        self.last = LastValues()
        self.refused: frozenset[int] = frozenset()
        self._ask, self._spawn, self._listeners = ask, spawn, listeners
        self._interests: dict[str, list[EventSink]] = {}
        self._lanes: dict[EventSink, Lane] = {}  # of sinks that need only payloads
        self._routes: dict[str, tuple[bool, bool, tuple[EventSink, ...]]] = {}
        self._strange: set[str] = set()  # topics that the publisher said and may not
        self._denied: tuple[str, ...] = ()
        self._owed: set[str] = set()  # prefixes whose snapshot is to be asked for at the next HEAD
        self._again: set[str] = set()  # prefixes to ask for again at the next tick
        node = record.node
        self.subscriber = Subscriber(
            loop,
            connect,
            record.nid,
            Ears(
                self._on_event,
                self._on_live,
                self._gap,
                on_beacon=self._on_beacon,
                on_drained=listeners.on_drained,
                on_trouble=lambda why: listeners.on_trouble(node, why),
                lane=self._lane,
            ),
            durable=durable,
            token=partial(secrets.randbits, 64),
        )
        if reader is not None:
            self.subscriber.want({*reader.prefixes, _LOG})

    def add(self, wanted: Interests, lanes: Mapping[EventSink, Lane]) -> None:
        """Bring these prefixes to these sinks too: last values now, then what comes.

        lanes: for sinks that need only the payload of an event.
        """
        self._reroute()
        self._lanes.update(lanes)
        for prefix, sink in wanted:
            self._interests.setdefault(prefix, []).append(sink)
            for event in self.last.matching(prefix):
                sink(_flagged(event, SNAPSHOT), self.record)
        self._owed |= {prefix for prefix, _ in wanted if self._keeps(prefix)}
        if wanted:
            self.subscriber.want({prefix for prefix, _ in wanted})
        if self._owed:
            self.subscriber.again()

    def remove(self, prefix: str, sink: EventSink) -> None:
        """Bring *prefix* no longer to *sink*."""
        self._reroute()
        kept = [held for held in self._interests.pop(prefix, []) if held != sink]
        if kept:
            self._interests[prefix] = kept
        elif not (self.reader and prefix in self.reader.prefixes):
            self.subscriber.drop(prefix)
            if not any(topics.overlaps(prefix, held) for held in self._interests):
                self.last.forget(prefix)

    def renew(self, record: Record) -> None:
        """Take the publisher's newer record."""
        if record != self.record:
            self.record = record
            self._reroute()

    def tick(self) -> None:
        """Let time pass; ask for the snapshots that are still owed."""
        self.subscriber.tick()
        if self.last.asking:
            return
        self._again.update(topic + "\0" for topic in self.last.stale)
        wanted = set(sorted(self._again)[:SNAPSHOT_TOPICS])
        self._again -= wanted
        self._snapshot(wanted)

    def close(self) -> None:
        """Close the link."""
        self.subscriber.close()

    def _keeps(self, prefix: str) -> bool:
        return any(
            kind == LASTVALUE and topics.overlaps(said, prefix)
            for said, kind in self.record.says.items()
        )

    def _gap(self, gap: Gap) -> None:
        self.last.doubt(gap.topic, gap.last)
        if topics.longest(self.record.says, gap.topic) == LASTVALUE:
            self._again.add(gap.topic + "\0")
        self._listeners.on_gap(self.record.node, gap)

    def _on_event(self, event: Event) -> None:
        if event.schema in self.refused:
            self.subscriber.rejects.total += 1
            return
        route = self._routes.get(event.topic)
        owned, keeps, sinks = self._route(event.topic) if route is None else route
        if not owned:
            self.reject(event.topic)
            return
        if self.reader is not None:
            self.reader.on_event(event)
        if keeps and not self.last.live(event):
            return  # a snapshot was newer
        for sink in sinks:
            sink(event, self.record)

    def _on_live(self, head: Head, began: bool) -> None:
        if head.denied != self._denied:
            self._denied = head.denied
            self._listeners.on_trouble(self.record.node, f"denied there: {list(head.denied)}")
        if self.reader is not None:
            self.reader.on_live(head, began)
        if began:
            self.last.begin()
            self._owed = {prefix for prefix in self._interests if self._keeps(prefix)}
        wanted, self._owed = self._owed, set()
        self._snapshot(wanted)

    def _on_beacon(self, beacon: Heartbeat) -> None:
        if self.reader is not None:
            self.reader.on_beacon(beacon.streams)

    def _snapshot(self, prefixes: set[str]) -> None:
        if prefixes:
            self.last.ask()
            self._spawn(self._fill(tuple(sorted(prefixes))), f"snapshot of {self.record.node}")

    async def _fill(self, prefixes: tuple[str, ...]) -> None:
        """Page through a snapshot; what fails is asked for again at the next tick."""
        tracker, epochs = self.subscriber.sync.tracker, set[int]()
        ended, after = False, ""
        try:
            while not ended:
                page = await self._ask(SnapshotAsk(prefixes, after), SNAPSHOT_TIMEOUT_S)
                for frame in page.frames:
                    event = envelope.decode_event(frame)
                    epochs.add(event.epoch)
                    self._offer(event)
                ended, after = page.after == "", page.after
        except MeshError:
            self._again.update(prefixes)
        complete = ended and epochs <= {tracker.epoch}  # of one run, and that is the one we hear
        if ended and not complete:
            self._again.update(prefixes)
        for event in self.last.end(prefixes, complete=complete):
            self._bring(_flagged(event, SNAPSHOT | TOMBSTONE))

    def admits(self, event: Event) -> bool:
        """Say whether an event that came as a reply is its publisher's and means what it means
        here; count it if not."""
        if event.nid == self.record.nid and event.schema not in self.refused:
            return True
        self.subscriber.rejects.total += 1
        return False

    def _offer(self, event: Event) -> None:
        if not self.admits(event):
            return
        if not self._route(event.topic)[1]:
            self.reject(event.topic)
            return
        if event.epoch >= self.subscriber.sync.tracker.epoch and self.last.offer(event):
            self._bring(_flagged(event, SNAPSHOT))

    def _bring(self, event: Event) -> None:
        for sink in self._route(event.topic)[2]:
            sink(event, self.record)

    def _reroute(self) -> None:
        self._routes.clear()
        self.subscriber.reroute()

    def _lane(self, topic: str) -> Lane | None:
        """Return the lane of an EPHEMERAL topic with a single hearer, who has one."""
        owned, keeps, sinks = self._route(topic)
        if not owned or keeps or self.reader is not None or self.refused or len(sinks) != 1:
            return None
        return self._lanes.get(sinks[0])

    def _route(self, topic: str) -> tuple[bool, bool, tuple[EventSink, ...]]:
        """Return whether *topic* is its publisher's, whether it is a last value, and for whom."""
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        kind = topics.longest(self.record.says, topic)
        held = self._interests
        sinks = tuple(dict.fromkeys(s for p in topics.spellings(topic) for s in held.get(p, ())))
        route = kind is not None or topic == topics.LOG, kind == LASTVALUE, sinks
        self._routes[topic] = route
        return route

    def reject(self, topic: str) -> None:
        """Count an event on a topic that is not its publisher's; tell of the first."""
        rejects = self.subscriber.rejects
        rejects.total += 1
        if topic not in self._strange and len(self._strange) < STRANGE_MAX:
            self._strange.add(topic)
            self._listeners.on_trouble(self.record.node, f"{topic[:60]} is not its own: dropped")


def _flagged(event: Event, flags: int) -> Event:
    return msgspec.structs.replace(event, flags=event.flags | flags)
