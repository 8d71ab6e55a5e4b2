"""Peers: the other nodes as this process reaches them: requests out, events in.

Never here: what events mean, the own node's publishers.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from mesh.errors import MeshError, NoService
from mesh.protocol import envelope, topics
from mesh.protocol.control import (
    DURABLE,
    LASTVALUE,
    Fetch,
    FetchPage,
    Head,
    Hello,
    Record,
    SnapshotPage,
)
from mesh.protocol.envelope import SNAPSHOT, Event
from mesh.protocol.sequence import Gap
from mesh.runtime.directory import Directory
from mesh.runtime.durable import DurableReader
from mesh.transport.pubsub import Ears, Subscriber
from mesh.transport.rpc import Requester
from mesh.transport.sockets import Sockets

ROUTES_MAX: Final = 10_000
SNAPSHOT_TIMEOUT_S: Final = 2.0

EventSink: TypeAlias = Callable[[Event, Record], None]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], object]


@dataclass(slots=True)
class DurableInterest:
    """What a node wants of every durable stream it hears."""

    prefixes: tuple[str, ...]
    start: Callable[[str, str], int | None]  # (node, log_id) to the offset to begin behind
    deliver: Callable[[Event, Record], Awaitable[None]]


@dataclass(slots=True)
class Feed:
    """One publisher on one plane."""

    record: Record
    subscriber: Subscriber
    durable: bool
    wanted: list[tuple[str, EventSink]] = field(default_factory=list)  # snapshots still owed
    asking: int = 0  # snapshots under way
    fresh: dict[str, int] = field(default_factory=dict)  # heard live meanwhile, by topic
    shown: dict[str, tuple[int, frozenset[EventSink]]] = field(default_factory=dict)
    reader: DurableReader | None = None


class Peers:
    """Find nodes by their records, subscribe to what is wanted, call by method.

    Call :meth:`scan` every quarter second; everything else follows from it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        directory: Directory,
        hello: Hello,
        spawn: Spawn,
    ) -> None:
        self._loop, self._sockets, self._directory = loop, sockets, directory
        self._hello, self._spawn = hello, spawn
        self.records: dict[str, Record] = {}
        self.feeds: dict[tuple[str, str], Feed] = {}
        self.gaps = 0
        self.on_gap: Callable[[str, Gap], None] = lambda node, gap: None
        self._requesters: dict[str, Requester] = {}
        self._interests: list[tuple[str, EventSink]] = []
        self._durable: DurableInterest | None = None
        self._readers: dict[str, DurableReader] = {}
        self._followed: dict[str, Record] = {}  # the last record seen of each, for its log_id
        self._routes: dict[str, tuple[EventSink, ...]] = {}

    def subscribe(self, prefix: str, sink: EventSink) -> None:
        """Hear *prefix* of every node: last values first, then live events. May repeat."""
        self._interests.append((prefix, sink))
        self._routes.clear()
        for feed in self.feeds.values():
            self._extend(feed, [(prefix, sink)], probe=True)
        self.scan()

    def unsubscribe(self, prefix: str, sink: EventSink) -> None:
        """Hear *prefix* no longer with *sink*."""
        self._interests = [i for i in self._interests if i != (prefix, sink)]
        self._routes.clear()
        held = {p for p, _ in self._interests}
        if prefix not in held and not (self._durable and prefix in self._durable.prefixes):
            for feed in self.feeds.values():
                feed.subscriber.unsubscribe(prefix)

    def follow(self, interest: DurableInterest) -> None:
        """Apply every durable event of these prefixes, from where the owner stands."""
        self._durable = interest

    async def call(
        self, method: str, body: bytes, timeout_s: float, target: str | None = None
    ) -> bytes:
        """Return the reply of the node that serves *method*, or of *target*.

        Raises NoService if nobody is known to serve it, else what Requester.call raises.
        """
        record = self._serving(method, target)
        requester = self._requesters.get(record.node)
        if requester is None:
            requester = Requester(self._loop, self._sockets, record.endpoints["r"], self._hello)
            self._requesters[record.node] = requester
        return await requester.call(method, body, timeout_s)

    def scan(self) -> None:
        """Read the records, hear new publishers, forget those that have gone."""
        self.records = {
            node: record
            for node, record in self._directory.records().items()
            if node != self._hello.node
        }
        for record in self.records.values():
            for plane in ("e", "d"):
                if plane in record.endpoints:
                    self._connect(record, plane)
        for key in [key for key in self.feeds if key[0] not in self.records]:
            self.feeds.pop(key).subscriber.close()
        for node in [node for node in self._requesters if node not in self.records]:
            self._requesters.pop(node).close()
        for feed in self.feeds.values():
            feed.subscriber.tick()

    def close(self) -> None:
        """Close every link."""
        for feed in self.feeds.values():
            feed.subscriber.close()
        for requester in self._requesters.values():
            requester.close()
        self.feeds.clear()
        self._requesters.clear()

    def _serving(self, method: str, target: str | None) -> Record:
        if target is None:
            for record in self.records.values():
                if method in record.services:
                    return record
            self.scan()
            found = next((r for r in self.records.values() if method in r.services), None)
        else:
            found = self.records.get(target)
            if found is None:
                self.scan()
                found = self.records.get(target)
        if found is None:
            raise NoService(f"nobody serves {method}" + (f" as {target}" if target else ""))
        return found

    def _connect(self, record: Record, plane: str) -> None:
        key = (record.node, plane)
        feed = self.feeds.get(key)
        if feed is not None:
            feed.record = record
            return
        durable = plane == "d"
        wanted = [(p, s) for p, s in self._interests if self._offers(record, p, durable=durable)]
        follows = (
            durable
            and self._durable is not None
            and any(self._offers(record, p, durable=True) for p in self._durable.prefixes)
        )
        if not wanted and not follows:
            return
        ears = Ears(
            on_event=lambda event: self._on_event(key, event),
            on_head=lambda head, began: self._on_head(key, head, began=began),
            on_gap=lambda gap: self._on_gap(record.node, gap),
        )
        subscriber = Subscriber(
            self._loop,
            self._sockets,
            record,
            ears,
            durable=durable,
            token=lambda: secrets.randbits(64),
        )
        feed = self.feeds[key] = Feed(record, subscriber, durable)
        if follows and self._durable is not None:
            feed.reader = self._readers.get(record.node) or self._follow(
                record.node, self._durable
            )
            subscriber.subscribe(set(self._durable.prefixes))
        self._extend(feed, wanted, probe=False)

    def _follow(self, node: str, interest: DurableInterest) -> DurableReader:
        """Begin to follow *node* for good: its reader outlives the feeds of its runs."""

        async def fetch(ask: Fetch, timeout_s: float) -> FetchPage:
            reply = await self.call("mesh.fetch", envelope.encode_value(ask), timeout_s, node)
            page: FetchPage = envelope.decode_value(reply, FetchPage)
            return page

        async def deliver(event: Event) -> None:
            feed = self.feeds.get((node, "d"))
            if feed is not None:
                self._followed[node] = feed.record
            await interest.deliver(event, self._followed[node])

        self._followed[node] = self.records[node]
        reader = self._readers[node] = DurableReader(
            prefixes=interest.prefixes,
            start=lambda log_id: interest.start(node, log_id),
            fetch=fetch,
            deliver=deliver,
        )
        self._spawn(reader.run(), f"follow {node}")
        return reader

    def _extend(self, feed: Feed, wanted: list[tuple[str, EventSink]], *, probe: bool) -> None:
        mine = [(p, s) for p, s in wanted if self._offers(feed.record, p, durable=feed.durable)]
        if not mine:
            return
        feed.wanted.extend(mine)
        feed.subscriber.subscribe({prefix for prefix, _ in mine})
        if probe:
            feed.subscriber.probe()

    @staticmethod
    def _offers(record: Record, prefix: str, *, durable: bool) -> bool:
        return any(
            (kind == DURABLE) is durable and topics.overlaps(said, prefix)
            for said, kind in record.says.items()
        )

    def _on_gap(self, node: str, gap: Gap) -> None:
        self.gaps += gap.last - gap.first + 1
        self.on_gap(node, gap)

    def _on_event(self, key: tuple[str, str], event: Event) -> None:
        feed = self.feeds.get(key)
        if feed is None:
            return
        if feed.reader is not None and event.topic.startswith(feed.reader.prefixes):
            feed.reader.on_event(event)
        if feed.asking:
            feed.fresh[event.topic] = event.seq
        seq, saw = feed.shown.get(event.topic, (0, frozenset()))
        if event.seq > seq:
            feed.shown.pop(event.topic, None)
            saw = frozenset()
        for sink in self._sinks(event.topic):
            if sink not in saw:  # who saw it, or a newer one, in a snapshot needs it no more
                sink(event, feed.record)

    def _on_head(self, key: tuple[str, str], head: Head, *, began: bool) -> None:
        feed = self.feeds.get(key)
        if feed is None:
            return
        if feed.reader is not None:
            feed.reader.on_head(head)
        if began:
            feed.fresh.clear()
            feed.shown.clear()
            feed.wanted = list(self._interests)
        owed = [(p, s) for p, s in feed.wanted if self._keeps(feed.record, p) and key[1] == "e"]
        feed.wanted = []
        if owed:
            self._spawn(self._snapshot(key, owed), f"snapshot of {key[0]}")

    @staticmethod
    def _keeps(record: Record, prefix: str) -> bool:
        return any(
            kind == LASTVALUE and topics.overlaps(said, prefix)
            for said, kind in record.says.items()
        )

    async def _snapshot(self, key: tuple[str, str], owed: list[tuple[str, EventSink]]) -> None:
        feed = self.feeds.get(key)
        if feed is None:
            return
        body = envelope.encode_value(sorted({prefix for prefix, _ in owed}))
        feed.asking += 1
        try:
            reply = await self.call("mesh.snapshot", body, SNAPSHOT_TIMEOUT_S, key[0])
            page: SnapshotPage = envelope.decode_value(reply, SnapshotPage)
            events = [envelope.decode_event(frame) for frame in page.frames]
        except MeshError:
            events = []
            if self.feeds.get(key) is feed:  # ask again with a new HEAD
                feed.wanted.extend(owed)
                feed.subscriber.probe()
        for event in events:
            self._take_snapshot(feed, event, owed)
        feed.asking -= 1
        if not feed.asking:
            feed.fresh.clear()

    @staticmethod
    def _take_snapshot(feed: Feed, event: Event, owed: list[tuple[str, EventSink]]) -> None:
        """Show a last value to those it is owed, unless they heard it or a newer one live."""
        old_run = event.epoch < feed.subscriber.sequences.epoch
        if old_run or event.seq <= feed.fresh.get(event.topic, 0):
            return
        sinks = dict.fromkeys(sink for p, sink in owed if topics.matches(p, event.topic))
        feed.shown[event.topic] = (event.seq, frozenset(sinks))
        event = msgspec.structs.replace(event, flags=event.flags | SNAPSHOT)
        for sink in sinks:
            sink(event, feed.record)

    def _sinks(self, topic: str) -> tuple[EventSink, ...]:
        found = self._routes.get(topic)
        if found is None:
            if len(self._routes) >= ROUTES_MAX:
                self._routes.clear()
            found = tuple(dict.fromkeys(s for p, s in self._interests if topics.matches(p, topic)))
            self._routes[topic] = found
        return found
