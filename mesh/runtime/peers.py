"""Peers: the other nodes as this process reaches them: requests out, events in.

Never here: what events mean, the own node's publishers.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, TypeAlias, TypeVar, cast

import msgspec

from mesh.errors import NoService, Unavailable
from mesh.protocol import envelope, topics
from mesh.protocol.access import Access
from mesh.protocol.catchup import Notice
from mesh.protocol.control import (
    DURABLE,
    FetchPage,
    Hello,
    Record,
    SnapshotPage,
)
from mesh.protocol.envelope import Event
from mesh.protocol.evolution import compatible
from mesh.protocol.sequence import Gap
from mesh.runtime.calling import Calling, Wanted
from mesh.runtime.directory import Directory, host_id
from mesh.runtime.durable import Confirm, DurableReader, Hooks, Spawn
from mesh.runtime.feeds import EventSink, Feed, Listeners
from mesh.runtime.keys import Keyring
from mesh.transport.lanes import Lane
from mesh.transport.requester import Requester
from mesh.transport.sockets import Socket, Sockets

T = TypeVar("T")

Place: TypeAlias = tuple[str, bytes | None]  # address, the key that must answer there

SAYABLE_MAX: Final = 10_000
GAPS_MAX: Final = 1 << 62  # what a false sequence claims must still fit into a heartbeat
SERVED_MAX: Final = 1_024  # methods of which we know who serves them


@dataclass(slots=True)
class DurableInterest:
    """What a node wants of every durable stream it hears; see durable.Hooks."""

    prefixes: tuple[str, ...]
    start: Callable[[str, str], tuple[str, int] | None]  # (node, log_id) to where to begin
    joins: Callable[[Event, Event], bool]
    deliver: Callable[
        [str, Sequence[Event], str, Confirm], Awaitable[None]
    ]  # node, events, log_id
    poisoned: Callable[[str, Event, str, Exception], Awaitable[bool]]
    trouble: Callable[[str, str, Event, Exception], None]
    notice: Callable[[str, Notice], None]
    settle: Callable[[str, str, int], Awaitable[None]]  # node, log_id, offset


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
        epoch: int,
        access: Access,
        spawn: Spawn,
    ) -> None:
        self._loop, self._sockets, self._directory = loop, sockets, directory
        self._hello, self._epoch, self._spawn = hello, epoch, spawn
        self.access = access
        self._may_say = lru_cache(SAYABLE_MAX)(self._entitles)
        self._judged: dict[str, tuple[Record, Record]] = {}  # as written, as entitled
        self.records: dict[str, Record] = {}
        self.feeds: dict[tuple[str, str], Feed] = {}
        self.readers: dict[str, DurableReader] = {}
        self.listeners = Listeners()
        self.schemas: dict[int, tuple[int, ...]] = {}  # what ours look like
        self.keys: Keyring | None = None
        self.gaps = 0
        self._host = host_id()
        self._requesters: dict[str, tuple[Place, Requester]] = {}
        self._closed = False
        self._served: dict[tuple[str, str | None], list[Record]] = {}  # until the next look
        self.calling = Calling(self._serving, self._requester)
        self._interests: list[tuple[str, EventSink]] = []
        self._lanes: dict[EventSink, Lane] = {}
        self._durable: DurableInterest | None = None

    def subscribe(self, prefix: str, sink: EventSink, lane: Lane | None = None) -> None:
        """Hear *prefix* of every node: last values first, then live events. May repeat.

        lane: what takes a plain event's payload and ts_sent in place of *sink*.
        """
        self._interests.append((prefix, sink))
        if lane is not None:
            self._lanes[sink] = lane
        for (_, plane), feed in self.feeds.items():
            if _offers(feed.record, prefix, durable=plane == "d"):
                feed.add([(prefix, sink)], self._lanes)
        self.scan()

    def unsubscribe(self, prefix: str, sink: EventSink) -> None:
        """Hear *prefix* no longer with *sink*."""
        self._interests = [i for i in self._interests if i != (prefix, sink)]
        if sink not in {held for _, held in self._interests}:
            self._lanes.pop(sink, None)
        for feed in self.feeds.values():
            feed.remove(prefix, sink)

    def follow(self, interest: DurableInterest) -> None:
        """Apply every durable event of these prefixes, from where the owner stands."""
        self._durable = interest

    async def call(
        self, method: str, body: bytes, timeout_s: float, target: str | None = None
    ) -> bytes:
        """Return the reply of a node that serves *method*, or of *target*; see Calling.call."""
        return await self.calling.call(Wanted(method, body, timeout_s, target))

    def scan(self) -> None:
        """Read the records, hear new publishers, forget those that have gone."""
        self._served.clear()
        self.records = {
            node: self._entitled(record)
            for node, record in self._directory.records().items()
            if node != self._hello.node
        }
        for record in self.records.values():
            for plane in ("e", "d"):
                if plane in record.endpoints:
                    self._connect(record, plane)
        for key in [key for key in self.feeds if key[0] not in self.records]:
            self.feeds.pop(key).close()
        for node in [node for node in self._requesters if node not in self.records]:
            self._requesters.pop(node)[1].close()
        for feed in self.feeds.values():
            feed.tick()

    def close(self) -> None:
        """Close every link."""
        self._closed = True
        self._served.clear()
        for feed in self.feeds.values():
            feed.close()
        for _, requester in self._requesters.values():
            requester.close()
        self.feeds.clear()
        self._requesters.clear()

    def counters(self) -> dict[str, float]:
        """Return what the links counted so far, for the heartbeat."""
        links = [feed.subscriber for feed in self.feeds.values()]
        return {
            "gaps": self.gaps,
            "stale": sum(link.sync.tracker.stale for link in links),
            "duplicates": sum(link.sync.tracker.duplicates for link in links),
            "rejects": sum(link.rejects.total for link in links),
            "lag_events": sum(reader.lag for reader in self.readers.values()),
        }

    def _requester(self, record: Record) -> Requester:
        """Return who asks the run of *record*; another where that is elsewhere now."""
        if self._closed:
            raise Unavailable("the node ends")
        place = self._place(record, "r")
        known = self._requesters.get(record.node)
        if known is not None:
            if known[0] == place:
                return known[1]
            known[1].close()
        dial = partial(self._sockets.line, place[0], server_key=place[1])
        requester = Requester(
            self._loop, dial, record.node, self._hello, self._epoch, self.calling.ready
        )
        self._requesters[record.node] = place, requester
        return requester

    def _serving(self, method: str, target: str | None) -> list[Record]:
        """Return the records of all that serve *method*, or the one of *target*."""
        found = self._served.get((method, target))
        if found is None:
            found = self._found(method, target)
            if not found:
                self.scan()
                found = self._found(method, target)
            if found and len(self._served) < SERVED_MAX:
                self._served[method, target] = found
        return found

    def _found(self, method: str, target: str | None) -> list[Record]:
        if target is not None:
            return [self.records[target]] if target in self.records else []
        return [record for record in self.records.values() if method in record.services]

    def _connect(self, record: Record, plane: str) -> None:
        key, durable = (record.node, plane), plane == "d"
        feed = self.feeds.get(key)
        if feed is not None:
            if feed.record is not record:
                moved = self._place(feed.record, plane) != self._place(record, plane)
                feed.renew(record)
                if moved:
                    feed.subscriber.moved()
                feed.refused = self._refused(record)
            return
        wanted = [(p, s) for p, s in self._interests if _offers(record, p, durable=durable)]
        reader = self._reader(record) if durable else None
        if not wanted and reader is None:
            return
        feed = self.feeds[key] = Feed(
            self._loop,
            lambda: self._socket(record.node, plane),
            record,
            Listeners(self._on_gap, self.listeners.on_drained, self.listeners.on_trouble),
            reader=reader,
            durable=durable,
            ask=partial(self._ask, record.node, "mesh.snapshot", SnapshotPage),
            spawn=self._spawn,
        )
        feed.refused = self._refused(record)
        feed.add(wanted, self._lanes)

    def _socket(self, node: str, plane: str) -> Socket:
        """Return a socket connected to where *node* is now."""
        feed = self.feeds.get((node, plane))
        record = feed.record if feed is not None else self.records[node]
        address, key = self._place(record, plane)
        sock = self._sockets.subscriber(durable=plane == "d", server_key=key)
        self._sockets.connect(sock, address)
        return sock

    def _place(self, record: Record, plane: str) -> Place:
        """Return where to reach a plane of *record*, and by which key it must answer there.

        ipc on the same host, else TCP under CURVE. While a key is rotated two are good, and the
        record says which of them; it cannot make another good.
        """
        if record.host_id in ("", self._host) or plane not in record.tcp:
            return record.endpoints[plane], None
        keys = self.keys.server_keys(record.node) if self.keys is not None else ()
        stated = record.key.encode()
        return record.tcp[plane], stated if stated in keys else next(iter(keys), None)

    def _entitled(self, record: Record) -> Record:
        """Return *record* with what its node may say by its role; told once what it may not."""
        known = self._judged.get(record.node)
        if known is not None and known[0] is record:
            return known[1]
        says = {
            topic: kind
            for topic, kind in record.says.items()
            if self.access.may_say(record.node, topic)
        }
        if len(says) != len(record.says):
            strange = sorted(set(record.says) - set(says))
            self.listeners.on_trouble(record.node, f"may not say {strange}: not heard")
        entitled = msgspec.structs.replace(record, says=says)
        self._judged[record.node] = record, entitled
        return entitled

    def _entitles(self, node: str, topic: str) -> bool:
        return self.access.may_say(node, topic)

    def _refused(self, record: Record) -> frozenset[int]:
        """Return the schemas that mean something else there than here, and say so."""
        refused = frozenset(
            schema
            for schema, theirs in record.schemas.items()
            if schema in self.schemas and not compatible(self.schemas[schema], theirs)
        )
        if refused:
            names = ", ".join(f"{schema:#x}" for schema in sorted(refused))
            self.listeners.on_trouble(record.node, f"schemas {names} differ there: refused")
        return refused

    def _reader(self, record: Record) -> DurableReader | None:
        """Return who follows the journal of *record*, for good: it outlives the node's runs."""
        node, interest = record.node, self._durable
        if interest is None or not any(
            _offers(record, p, durable=True) for p in interest.prefixes
        ):
            return None
        if node in self.readers:
            return self.readers[node]
        hooks = Hooks(
            start=partial(interest.start, node),
            fetch=partial(self._ask, node, "mesh.fetch", FetchPage),
            admits=partial(self._admits, node),
            ack=partial(self._ask, node, "mesh.ack", type(None)),
            settle=partial(interest.settle, node),
            joins=interest.joins,
            deliver=partial(interest.deliver, node),
            poisoned=partial(interest.poisoned, node),
            trouble=partial(interest.trouble, node),
            notice=partial(interest.notice, node),
            dice=random.random,
            spawn=self._spawn,
        )
        reader = self.readers[node] = DurableReader(self._loop, node, interest.prefixes, hooks)
        self._spawn(reader.run(), f"follow {node}")
        return reader

    def _admits(self, node: str, event: Event) -> bool:
        """Judge a fetched event by what the role may say: its journal is older than its record."""
        feed = self.feeds.get((node, "d"))
        if feed is None:
            raise NoService(f"{node} is gone")
        if self._may_say(node, event.topic):
            return feed.admits(event)
        feed.reject(event.topic)
        return False

    async def _ask(
        self, node: str, method: str, kind: type[T], wish: object, timeout_s: float
    ) -> T:
        reply = await self.call(method, envelope.encode_value(wish), timeout_s, node)
        return cast(T, envelope.decode_value(reply, kind))

    def _on_gap(self, node: str, gap: Gap) -> None:
        self.gaps = min(self.gaps + gap.last - gap.first + 1, GAPS_MAX)
        self.listeners.on_gap(node, gap)


def _offers(record: Record, prefix: str, *, durable: bool) -> bool:
    return any(
        (kind == DURABLE) is durable and topics.overlaps(said, prefix)
        for said, kind in record.says.items()
    )
