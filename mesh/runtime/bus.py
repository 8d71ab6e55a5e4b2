"""Bus: one node's publishers, responder, journal and peers, behind the calls of a component.

Never here: signals, heartbeats, the order of start and stop (runner).
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import LocalProtocolError, MeshError, RemoteProtocolError
from mesh.protocol import envelope, topics
from mesh.protocol.control import (
    DURABLE,
    LASTVALUE,
    SCHEMAS,
    Fetch,
    FetchPage,
    Heartbeat,
    Hello,
    ModeChange,
    NodeState,
    Record,
    SnapshotPage,
    View,
    Welcome,
)
from mesh.protocol.envelope import DURABLE_FLAG, Event
from mesh.protocol.mode import SAFE, parse_mode
from mesh.runtime.component import Component, RawSink
from mesh.runtime.directory import Directory
from mesh.runtime.handlers import Bound, EventMeta, bind, meta_of
from mesh.runtime.health import Health, rss_bytes
from mesh.runtime.logs import Logs
from mesh.runtime.peers import DurableInterest, Peers
from mesh.runtime.serving import Serving
from mesh.runtime.settings import Paths
from mesh.storage.journal import Applied, Journal
from mesh.transport.pubsub import DURABLE_CAP_BYTES, Publisher
from mesh.transport.rpc import Responder
from mesh.transport.sockets import Sockets

SYSTEM_SAYS: Final = {topics.HEARTBEAT: 0}


@dataclass(frozen=True, slots=True)
class Run:
    """Who this process is."""

    node: str
    epoch: int
    cluster: str
    paths: Paths
    log: Logs


class Bus:
    """Everything a component reaches of the mesh, for one run of one node."""

    def __init__(
        self,
        component: Component,
        run: Run,
        sockets: Sockets,
        directory: Directory,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.node, self.epoch, self.paths, self.log = run.node, run.epoch, run.paths, run.log
        self.mode, self.mode_epoch, self.term = SAFE, 0, 0
        self.view: dict[str, NodeState] = {}
        self.state = "starting"  # ready
        self.health = Health(monotonic_s())
        self._beats = 0
        self._component, self._tasks, self._directory = component, tasks, directory
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._nid = envelope.node_id(run.cluster, run.node)
        self._schemas = {**SCHEMAS, **component.schemas}
        self._says: dict[str, int] = {**SYSTEM_SAYS, **component.says}
        self._raw_sinks: dict[tuple[str, RawSink], Callable[[Event, Record], None]] = {}
        every_node: dict[str, Callable[..., Any]] = {
            "mesh.snapshot": self._snapshot,
            "mesh.fetch": self._fetch,
            "mesh.request": self._untyped,
        }
        self._serving = Serving(
            component, every_node, log=self.log, health=self.health, spawn=self.spawn
        )
        self._planes = self._open(sockets, directory, run.cluster)
        hello = Hello(run.cluster, run.node, run.epoch)
        self.peers = Peers(self._loop, sockets, directory, hello, self.spawn)

    @property
    def journal(self) -> Journal:
        """Return the journal. Raises LocalProtocolError for a node without DURABLE topics."""
        if self._journal is None:
            raise LocalProtocolError(f"{self.node} declares no DURABLE topic, so has no journal")
        return self._journal

    def start(self) -> None:
        """Publish our record and hear what the component's marks ask for."""
        self._directory.publish(self.record)
        self.peers.on_gap = lambda node, gap: self.log.info(
            "gap", publisher=node, topic=gap.topic, first=gap.first, last=gap.last
        )
        self._bind_events()
        self.subscribe(topics.MODE + "\0", self._on_mode)
        self.subscribe(topics.VIEW + "\0", self._on_view)
        self.peers.scan()

    def emit(self, topic: str, value: object, *, ts_recv: int) -> None:
        """Publish an EPHEMERAL or LASTVALUE event. Raises LocalProtocolError if not declared."""
        kind = topics.longest(self._says, topic)
        if kind is None or kind == DURABLE:
            raise LocalProtocolError(f"{self.node} did not declare {topic}, or it is DURABLE")
        self.health.events_out += 1
        self._planes["e"].publish(
            topic,
            self._schemas.get(type(value), 0),
            envelope.encode_value(value),
            ts_recv=ts_recv,
            ts_sent=wall_ns(),
            keep=kind == LASTVALUE,
        )

    async def commit(
        self, records: tuple[tuple[str, object], ...], applied: EventMeta | None
    ) -> int:
        """Append DURABLE events in one transaction, then publish them."""
        publisher, now = self._planes["d"], wall_ns()
        heads: dict[str, int] = {}
        rows = []
        for topic, value in records:
            if topics.longest(self._says, topic) != DURABLE:
                raise LocalProtocolError(f"{self.node} did not declare {topic} as DURABLE")
            seq = heads[topic] = heads[topic] + 1 if topic in heads else publisher.next_seq(topic)
            schema = self._schemas.get(type(value), 0)
            frame = partial(
                self._durable_frame, topic, schema, envelope.encode_value(value), seq, now
            )
            rows.append((topic, schema, frame))
        done = None if applied is None else Applied(applied.node, applied.log_id, applied.offset)
        stored = self.journal.append(rows, done)
        self.health.events_out += len(stored)
        for row in stored:
            publisher.send(row.topic, row.frame, publisher.next_seq(row.topic), row.offset)
        return self.journal.last

    def drain(self) -> None:
        """Refuse new requests from now on, and say so."""
        self.state, self._serving.draining = "draining", True
        self.emit(topics.HEARTBEAT, self.heartbeat(), ts_recv=0)

    async def call_raw(
        self, method: str, body: bytes, timeout_s: float, target: str | None
    ) -> bytes:
        """Call another node; see Peers.call."""
        return await self.peers.call(method, body, timeout_s, target)

    async def process(self, request_type: str, data: Any, source: str) -> Any:
        """Answer with the typed handler of that name."""
        return await self._serving.process(request_type, data, source)

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task for the life of the process."""
        task = self._tasks.create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Cancel every task of the process."""
        for task in list(self._running):
            task.cancel()

    def every(self, period_s: float, func: Callable[[], Any]) -> None:
        """Call *func* every *period_s* seconds; a coroutine is awaited."""

        async def run() -> None:
            while True:
                await asyncio.sleep(period_s)
                result = func()
                if result is not None:
                    await result

        self.spawn(run(), f"every {period_s} s")

    def subscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear a prefix untyped."""

        def heard(event: Event, record: Record) -> None:
            self._count(event)
            try:
                sink(event.payload, event.schema, meta_of(event, record.node, record.log_id))
            except RemoteProtocolError as error:  # theirs: drop, count, go on
                self._reject(event, error)

        self._raw_sinks[prefix, sink] = heard
        self.peers.subscribe(prefix, heard)

    def unsubscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear it no longer."""
        heard = self._raw_sinks.pop((prefix, sink), None)
        if heard is not None:
            self.peers.unsubscribe(prefix, heard)

    def report(self, name: str, number: float) -> None:
        """Put a figure into the heartbeat."""
        self.health.figures[name] = number

    def heartbeat(self) -> Heartbeat:
        """Return how this node is now."""
        self._beats += 1
        health = self.health
        rate_in, rate_out = health.rates(monotonic_s())
        return Heartbeat(
            self._beats,
            self.state,
            self.mode.value,
            self.mode_epoch,
            self.term,
            health.lag_p99_us(),
            health.inflight,
            health.drops + self.peers.gaps,
            rss_bytes(),
            round(rate_in, 1),
            round(rate_out, 1),
            health.latency_us(0.5),
            health.latency_us(0.99),
            health.figures,
        )

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        self.peers.close()
        self._responder.close()
        for publisher in self._planes.values():
            publisher.close()
        if self._journal is not None:
            self._journal.close()

    def _open(self, sockets: Sockets, directory: Directory, cluster: str) -> dict[str, Publisher]:
        durable = DURABLE in self._says.values()
        endpoints = {plane: directory.endpoint(self.node, plane) for plane in "er"}
        planes = {
            "e": Publisher(self._loop, sockets, endpoints["e"], nid=self._nid, epoch=self.epoch)
        }
        self._journal: Journal | None = None
        if durable:
            endpoints["d"] = directory.endpoint(self.node, "d")
            self._journal = Journal(self.paths.state / f"{self.node}.sqlite3")
            planes["d"] = Publisher(
                self._loop,
                sockets,
                endpoints["d"],
                nid=self._nid,
                epoch=self.epoch,
                durable=True,
            )
            planes["d"].log_id = self._journal.log_id
            planes["d"].last_offset = self._journal.last
        self._responder = Responder(
            self._loop,
            sockets,
            endpoints["r"],
            Welcome(self.node, self.epoch),
            cluster,
            self._serving.serve,
        )
        self._endpoints = endpoints
        return planes

    @property
    def record(self) -> Record:
        """Return how others reach this run."""
        return Record(
            self.node,
            self._nid,
            self.epoch,
            os.getpid(),
            self._serving.names,
            self._says,
            self._endpoints,
            self._journal.log_id if self._journal else "",
        )

    def _durable_frame(
        self, topic: str, schema: int, payload: bytes, seq: int, now: int, offset: int
    ) -> bytes:
        event = Event(
            topic, schema, self._nid, self.epoch, seq, payload, DURABLE_FLAG, offset, now, now
        )
        return envelope.encode_event(event, DURABLE_CAP_BYTES)

    # What comes in.

    def _bind_events(self) -> None:
        marked = [
            (mark, bind(getattr(self._component, name)))
            for name in dir(type(self._component))
            for mark in getattr(getattr(type(self._component), name), "event_marks", ())
        ]
        durable = [(mark.prefix, bound) for mark, bound in marked if mark.durable]
        if durable:  # first, so that every feed of a journal is opened with its reader
            prefixes = tuple(prefix for prefix, _ in durable)
            deliver = partial(self._deliver, durable)
            self.peers.follow(DurableInterest(prefixes, self._start_offset, deliver))
        for mark, bound in marked:
            if not mark.durable:
                self.peers.subscribe(mark.prefix, partial(self._dispatch, bound))

    def _dispatch(self, bound: Bound, event: Event, record: Record) -> None:
        self._count(event)
        try:
            value = envelope.decode_value(event.payload, bound.kind)
        except MeshError as error:
            self._reject(event, error)
            return
        meta = meta_of(event, record.node, record.log_id)
        if bound.is_async:
            self.health.drops += not self._component.enqueue(bound, value, meta)
        else:
            bound.call(*(value, meta)[: bound.arguments])

    def _reject(self, event: Event, error: MeshError) -> None:
        self.health.drops += 1
        self.log.debug("reject", topic=event.topic, why=str(error))

    async def _deliver(
        self, handlers: list[tuple[str, Bound]], event: Event, record: Record
    ) -> None:
        self._count(event)
        meta = meta_of(event, record.node, record.log_id)
        for prefix, bound in handlers:
            if topics.matches(prefix, event.topic):
                value = envelope.decode_value(event.payload, bound.kind)
                result = bound.call(*(value, meta)[: bound.arguments])
                if result is not None:
                    await result

    def _start_offset(self, node: str, log_id: str) -> int | None:
        if self._journal is not None:
            applied = self._journal.applied(node)
            if applied is not None:
                return applied.offset if applied.log_id == log_id else 0
        return self._component.applied_offset(node, log_id)

    def _count(self, event: Event) -> None:
        self.health.events_in += 1
        if not event.flags:
            self.health.latency(wall_ns() - event.ts_sent)

    def _on_mode(self, payload: bytes, schema: int, meta: EventMeta) -> None:
        self.learn_mode(envelope.decode_value(payload, ModeChange))

    def learn_mode(self, change: ModeChange) -> None:
        """Take the coordinator's mode unless a newer one is known."""
        if (change.term, change.mode_epoch) >= (self.term, self.mode_epoch):
            self.mode = parse_mode(change.mode)
            self.term, self.mode_epoch = change.term, change.mode_epoch

    def _on_view(self, payload: bytes, schema: int, meta: EventMeta) -> None:
        view: View = envelope.decode_value(payload, View)
        self.view = {state.node: state for state in view.nodes}

    # What every node answers.

    def _snapshot(self, prefixes: tuple[str, ...]) -> SnapshotPage:
        return SnapshotPage(self._planes["e"].snapshot(prefixes))

    async def _untyped(self, ask: tuple[str, Any], caller: str) -> Any:
        return await self._component.process_request(ask[0], ask[1], caller)

    def _fetch(self, ask: Fetch) -> FetchPage:
        journal = self.journal
        if ask.log_id != journal.log_id:
            return FetchPage(journal.log_id, (), 0, journal.last)
        page = journal.page(ask.after, ask.prefixes)
        return FetchPage(journal.log_id, page.frames, page.through, journal.last)
