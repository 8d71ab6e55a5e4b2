"""Bus: one node's planes, log and peers, behind the calls of a component.

Never here: signals, heartbeats, the order of start and stop (runner).
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import LocalProtocolError, MeshError, RemoteProtocolError
from mesh.protocol import envelope, topics
from mesh.protocol.admission import Admission
from mesh.protocol.catchup import HALTED
from mesh.protocol.commits import Applied
from mesh.protocol.control import (
    DURABLE,
    LASTVALUE,
    SCHEMAS,
    BreakerTurn,
    Heartbeat,
    Hello,
    ModeChange,
    NodeState,
    Record,
    View,
)
from mesh.protocol.envelope import TOMBSTONE, WIRE, Event
from mesh.protocol.evolution import fingerprint
from mesh.protocol.mode import SAFE, parse_mode
from mesh.protocol.outbound import Outbound
from mesh.protocol.sessions import Sessions
from mesh.protocol.work import Work
from mesh.runtime.breakernews import BreakerNews
from mesh.runtime.component import Component
from mesh.runtime.directory import Directory, host_id
from mesh.runtime.dispatch import Paces
from mesh.runtime.doing import NO_REPLY, current, store_with_row
from mesh.runtime.everynode import EveryNode
from mesh.runtime.handlers import Bound, EventMeta, meta_of
from mesh.runtime.health import Health, rss_bytes
from mesh.runtime.inbound import Inbound
from mesh.runtime.peers import Peers
from mesh.runtime.planes import Addresses, Planes
from mesh.runtime.port import RawSink, Wished
from mesh.runtime.runs import Run
from mesh.runtime.serving import Serving
from mesh.runtime.streams import OFFSET_MAX, DurableLog
from mesh.runtime.tasks import Tasks
from mesh.runtime.voices import Voices
from mesh.storage.journal import Journal
from mesh.transport.handled import cause_now, handled
from mesh.transport.sockets import Sockets

SYSTEM_SAYS: Final = {topics.HEARTBEAT: 0, topics.BREAKER: int(LASTVALUE)}
TICK_S: Final = 5.0  # between two looks for breakers that are told of no longer


class Bus(Tasks):
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
        self.state = "starting"  # ready, degraded, draining
        self.health = Health(monotonic_s())
        self.paces = Paces(run.snail_s)
        self._run, self._beats = run, 0
        super().__init__(tasks)
        self._component, self._directory = component, directory
        self._loop = asyncio.get_running_loop()
        self._nid = envelope.node_id(run.cluster, run.node)
        self._schemas = {**SCHEMAS, **component.schemas}
        self._fingerprints = {n: fingerprint(kind) for kind, n in self._schemas.items()}
        self._says: dict[str, int] = {**SYSTEM_SAYS, **component.says}
        self._inbound = Inbound(component, self)
        self._raw_sinks: dict[tuple[str, RawSink], Callable[[Event, Record], None]] = {}
        self._serving = Serving(
            component,
            EveryNode(self, component, run.access, lambda: self._log).methods,
            nid=self._nid,
            log=self.log,
            access=run.access,
            spawn=self.spawn,
            durable_log=lambda: self._log,
        )
        hello = Hello(run.cluster, run.node, WIRE, WIRE)
        self.peers = Peers(
            self._loop, sockets, directory, hello, run.epoch, run.access, self.spawn
        )
        self.call_raw, self.stream_raw = self.peers.calling.call, self.peers.calling.stream
        self.peers.schemas, self.peers.keys = self._fingerprints, run.keys
        self.breakers = self.peers.calling.breakers
        self._news = BreakerNews(self._loop, self.breakers, self._tell_breaker, self.log)
        self._open(sockets)

    @property
    def journal(self) -> Journal:
        """Return the journal. Raises LocalProtocolError for a node without DURABLE topics."""
        return self.durable_log.journal

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
            self._ipc,
            self._log.journal.log_id if self._log else "",
            (WIRE, WIRE),
            self._planes.tcp,
            host_id(),
            self._fingerprints,
            self._run.keys.public if self._run.keys is not None else "",
        )

    def start(self) -> None:
        """Publish our record and hear what the component's marks ask for."""
        self._directory.publish(self.record)
        listeners = self.peers.listeners
        listeners.on_gap = lambda node, gap: self.log.info(
            "gap", publisher=node, topic=gap.topic, first=gap.first, last=gap.last
        )
        listeners.on_trouble = lambda node, why: self.log.warning("link", publisher=node, why=why)
        listeners.on_drained = self._on_drained
        self._inbound.bind()
        self.subscribe(topics.MODE + "\0", self._on_mode)
        self.subscribe(topics.VIEW + "\0", self._on_view)
        self.every(TICK_S, self._news.tick)
        self.peers.scan()

    def retire(self, topic: str, value: object) -> None:
        """End a LASTVALUE topic whose last value was *value*. Raises LocalProtocolError."""
        if not self._voices.keeps(topic):
            raise LocalProtocolError(f"{topic} is not LASTVALUE: it has no end")
        event = self.outbound.traced(self._event(topic, value, TOMBSTONE), cause_now())
        publish = partial(self._planes.events.publish, event)
        if self._log is None:
            publish()
        else:
            self._log.when_settled(topic, publish)

    async def commit(
        self,
        records: tuple[Wished, ...],
        applied: EventMeta | None,
        *,
        patient: bool,
        reply: object = NO_REPLY,
    ) -> int:
        """Store DURABLE events in one transaction, then publish them; see DurableLog.store."""
        for topic, *_ in records:
            if topics.longest(self._says, topic) != DURABLE:
                raise LocalProtocolError(f"{self.node} did not declare {topic} as DURABLE")
        traced = self.durable_log.outbound.traced
        events = tuple(
            traced(self._event(topic, value), cause[0] if cause else cause_now())
            for topic, value, *cause in records
        )
        done = () if applied is None else (_applied(applied),)
        if (doing := current.get()) is not None and doing.stores:
            return await store_with_row(
                self._responder.answering, self.durable_log, doing, reply, events, done, patient
            )
        return await self.durable_log.store(events, applied=done, patient=patient)

    def drain(self, within_s: float) -> None:
        """Refuse new requests from now on, and tell every caller."""
        self.state = "draining"
        self._responder.drain("stopping", int(within_s * 1000))
        self.beat()

    @property
    def outbound(self) -> Outbound:
        """Return what is said on the plane of events."""
        return self._planes.events.outbound

    @property
    def idle(self) -> bool:
        """Say whether no request is under way."""
        return self._responder.answering.idle

    @property
    def left(self) -> bool:
        """Say whether every caller is gone, as they go once we drain: nothing is on its way."""
        return not len(self._responder.answering.sessions)

    async def process(self, request_type: str, data: Any, source: str) -> Any:
        """Answer with the typed handler of that name."""
        return await self._serving.process(request_type, data, source)

    def subscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear a prefix untyped."""

        def heard(event: Event, record: Record) -> None:
            self.health.events_in += 1
            meta = meta_of(event, record.node, record.log_id)
            token = handled.set(meta)
            try:
                sink(event.payload, event.schema, meta)
            except RemoteProtocolError as error:  # theirs: drop, count, go on
                self.reject(event.topic, error)
            finally:
                handled.reset(token)

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

    def beat(self) -> None:
        """Publish how this node is, behind all it counts, on every plane."""
        beat = self.heartbeat()
        for publisher in (self._planes.events, self._planes.durable):
            if publisher is not None:
                outbound = publisher.outbound
                told = msgspec.structs.replace(
                    beat, heads=outbound.beacon(), streams=outbound.streams
                )
                publisher.publish(outbound.traced(self._event(topics.HEARTBEAT, told), None))

    def heartbeat(self) -> Heartbeat:
        """Return how this node is now."""
        self._beats += 1
        health = self.health
        health.events_out = self._planes.events_out
        health.inflight = sum(self._responder.answering.load)
        rate_in, rate_out = health.rates(monotonic_s())
        return Heartbeat(
            self._beats,
            self._state(),
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
            {
                **health.figures,
                **self.peers.counters(),
                **self.paces.counters(),
                **self._news.counters(),
                **(self._log.counters() if self._log is not None else {}),
            },
        )

    def rebind(self) -> None:
        """Cut every peer off and let in anew those that still may; a key was revoked."""
        self._planes.rebind()

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        self._news.close()
        self.peers.close()
        self._planes.close()

    def enqueue(self, bound: Bound, value: object, meta: EventMeta) -> bool:
        """Queue an event for a coroutine of the component."""
        return self._component.enqueue(bound, value, meta)

    def reject(self, topic: str, error: MeshError) -> None:
        """Count an event that cannot be read."""
        self.health.drops += 1
        self.log.debug("reject", topic=topic, why=str(error))

    def learn_mode(self, change: ModeChange) -> None:
        """Take the coordinator's mode unless a newer one is known."""
        if (change.term, change.mode_epoch) >= (self.term, self.mode_epoch):
            before, self.mode = self.mode, parse_mode(change.mode)
            self.term, self.mode_epoch = change.term, change.mode_epoch
            if self.mode is not before:
                self._component.on_mode(self.mode)

    @property
    def durable_log(self) -> DurableLog:
        """Return the log. Raises LocalProtocolError where nothing durable is said or heard."""
        if self._log is None:
            raise LocalProtocolError(f"{self.node} has no DURABLE topic and so no journal")
        return self._log

    def _state(self) -> str:
        halted = any(r.catchup.stage is HALTED for r in self.peers.readers.values())
        full = self._log is not None and self._log.full
        if self.state == "ready" and (halted or full or self.paces.late):
            return "degraded"
        return self.state

    def _open(self, sockets: Sockets) -> None:
        says_durable = DURABLE in self._says.values()
        planes = "edr" if says_durable else "er"
        self._ipc = {plane: self._directory.endpoint(self.node, plane) for plane in planes}
        self._log: DurableLog | None = None
        self._planes = Planes(
            self._loop,
            sockets,
            Addresses(self._ipc, self._run.listen, self._run.advertise),
            self._run.access,
            nid=self._nid,
            epoch=self.epoch,
        )
        if says_durable:
            self._planes.publish_durable()
        if says_durable or self._inbound.durable or self._serving.stores:
            journal = self._run.open_journal(self.paths, self.node, self._run.retention)
            journal.floor = 0 if self._component.rebuilds else OFFSET_MAX
            self._log = self._planes.open_log(journal, self.node, self._die, self._on_lost)
        self._voices = Voices(
            self.node,
            self._says,
            self._schemas,
            self._planes.events,
            self._log.when_settled if self._log is not None else None,
        )
        self.emit, self.voices = self._voices.emit, self._voices.ready
        sessions: Sessions[Work] = Sessions(
            self._run.cluster, self._run.is_node, lambda user: self._run.access.of(user).may_call
        )
        admission = Admission(self.node, self.epoch, self._serving.methods, sessions)
        self._responder = self._planes.respond(admission, self._serving)
        self._serving.responder = self._responder

    def _on_lost(self, consumer: str) -> None:
        self.log.error("consumer_lost", consumer=consumer, first=self.journal.first)

    def _die(self, error: BaseException) -> None:
        """End the node: its disk failed."""

        async def die() -> None:
            raise error

        self.spawn(die(), "journal failed")

    def _on_drained(self, taken: int, sent_ns: int) -> None:
        if taken:
            self.health.events_in += taken
            self.health.latency(wall_ns() - sent_ns)  # of one in a drain: a sample is enough
        self.paces.flush()

    def _event(self, topic: str, value: object, flags: int = 0) -> Event:
        schema, payload = self._schemas.get(type(value), 0), envelope.encode_value(value)
        return Event(topic, schema, self._nid, self.epoch, 0, payload, flags, ts_sent=wall_ns())

    def _tell_breaker(self, topic: str, told: BreakerTurn, flags: int) -> None:
        """Publish at once: unlike other last values it follows from nothing on disk."""
        event = self.outbound.traced(self._event(topic, told, flags), None)
        self._planes.events.publish(event, keep=True)

    def _on_mode(self, payload: bytes, schema: int, meta: EventMeta) -> None:
        self.learn_mode(envelope.decode_value(payload, ModeChange))

    def _on_view(self, payload: bytes, schema: int, meta: EventMeta) -> None:
        view: View = envelope.decode_value(payload, View)
        self.view = {state.node: state for state in view.nodes}


def _applied(meta: EventMeta) -> Applied:
    return Applied(meta.node, meta.log_id, meta.offset)
