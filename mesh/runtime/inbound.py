"""Inbound: what the marks on a component's methods ask for, bound to the mesh.

Durable events are delivered in turn, to handlers that want it some at once, and tried again
when they fail; what goes on failing is put aside or stops its stream.

Never here: sockets, the handling of other events (dispatch).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from mesh.clock import wall_ns
from mesh.errors import LocalProtocolError, MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.catchup import Notice
from mesh.protocol.commits import Applied, DeadLetter
from mesh.protocol.envelope import Event
from mesh.runtime.component import Component
from mesh.runtime.dispatch import Handling, Paces
from mesh.runtime.durable import TURN, Confirm
from mesh.runtime.handlers import Bound, EventMark, EventMeta, bind, meta_of
from mesh.runtime.health import Health
from mesh.runtime.logs import Logs
from mesh.runtime.peers import DurableInterest, Peers
from mesh.runtime.streams import DurableLog
from mesh.transport.handled import handled

TOPICS_MAX: Final = 10_000  # whose routes are remembered


@dataclass(frozen=True, slots=True)
class Route:
    """The way of durable events to one handler."""

    mark: EventMark
    bound: Bound
    decode: Callable[[bytes], Any]

    def arguments(self, events: Sequence[Event], metas: list[EventMeta]) -> tuple[Any, ...]:
        """Return what the handler is to get; without batch there is one event."""
        values = [self.decode(event.payload) for event in events]
        given = (
            (values, metas if self.bound.every_meta else metas[-1])
            if self.mark.batch
            else (values[0], metas[0])
        )
        return given[: self.bound.arguments]


class Routes(NamedTuple):
    """All ways of a topic; batch: all its handlers take batches; every: and every meta."""

    ways: tuple[Route, ...]
    batch: bool
    every: bool


class Process(Protocol):
    """What Inbound needs of the process."""

    health: Health
    paces: Paces
    peers: Peers
    log: Logs

    @property
    def durable_log(self) -> DurableLog:
        """Return the log of this node."""

    def spawn(self, coro: Any, name: str) -> object:
        """Run a task for the life of the process."""

    def reject(self, topic: str, error: MeshError) -> None:
        """Count an event that cannot be read."""

    def enqueue(self, bound: Bound, value: object, meta: EventMeta) -> bool:
        """Queue an event for a coroutine of the component."""


class Inbound:
    """Bind the marked handlers of *component*; :meth:`bind` begins to hear."""

    def __init__(self, component: Component, process: Process) -> None:
        self._component, self._process = component, process
        self._marks: list[tuple[EventMark, Callable[..., Any]]] = [
            (mark, getattr(component, name))
            for name in dir(type(component))
            for mark in getattr(getattr(type(component), name), "event_marks", ())
        ]
        self._ways: list[Route] = []
        self._of = lru_cache(TOPICS_MAX)(self._find)  # the ways of a topic

    @property
    def durable(self) -> bool:
        """Say whether any handler follows durable streams."""
        return any(mark.durable for mark, _ in self._marks)

    def bind(self) -> None:
        """Subscribe to all that is marked: the durable first, so that no feed lacks its reader."""
        process = self._process
        for mark, handler in self._marks:
            if mark.durable:
                bound = bind(handler, batch=mark.batch)
                self._ways.append(Route(mark, bound, envelope.decoder(bound.kind)))
        if self._ways:
            process.peers.follow(
                DurableInterest(
                    tuple(dict.fromkeys(way.mark.prefix for way in self._ways)),
                    start=self._start,
                    joins=self._joins,
                    deliver=self._deliver,
                    poisoned=self._poisoned,
                    trouble=self._trouble,
                    notice=self._notice,
                    settle=self._settle,
                )
            )
        for mark, handler in self._marks:
            if not mark.durable:
                handling = Handling(_live(mark, handler), mark, process)
                process.paces.add(handling)
                process.peers.subscribe(mark.prefix, handling.sink(), handling.lane())

    def _start(self, node: str, log_id: str) -> tuple[str, int] | None:
        applied = self._process.durable_log.journal.applied(node)
        if applied is not None:
            return applied.log_id, applied.offset
        offset = self._component.applied_offset(node, log_id)
        return None if offset is None else (log_id, offset)

    def _find(self, topic: str) -> Routes:
        ways = tuple(way for way in self._ways if topics.matches(way.mark.prefix, topic))
        return Routes(
            ways,
            all(way.mark.batch for way in ways),
            any(way.bound.every_meta for way in ways),
        )

    def _joins(self, first: Event, event: Event) -> bool:
        """Say whether *event* may go with *first*: it is for the same handlers."""
        return event.topic == first.topic or self._of(event.topic) == self._of(first.topic)

    async def _deliver(
        self, node: str, events: Sequence[Event], log_id: str, confirm: Confirm
    ) -> None:
        """Give *events*, which are for the same handlers; what follows has them as its cause."""
        token = handled.set(None)
        try:
            await self._give_all(node, events, log_id, confirm)
        finally:
            handled.reset(token)

    async def _give_all(
        self, node: str, events: Sequence[Event], log_id: str, confirm: Confirm
    ) -> None:
        """Give *events* as a batch, or one after the other."""
        self._process.health.events_in += len(events)
        routes = self._of(events[0].topic)
        if routes.batch:
            await self._give(routes, node, events, log_id)
            confirm(events[-1].offset)
            return
        for number, event in enumerate(events, 1):
            await self._give(routes, node, (event,), log_id)
            if not confirm(event.offset):
                return
            if number % TURN == 0:
                await asyncio.sleep(0)

    @staticmethod
    async def _give(routes: Routes, node: str, events: Sequence[Event], log_id: str) -> None:
        told = events if routes.every else events[-1:]
        metas = [meta_of(event, node, log_id) for event in told]
        handled.set(metas[-1])
        for way in routes.ways:
            result = way.bound.call(*way.arguments(events, metas))
            if result is not None:
                await result

    async def _poisoned(self, node: str, event: Event, log_id: str, error: Exception) -> bool:
        """Decide about an event that failed again and again: stop there, or put it aside."""
        log, topic, offset = self._process.log, event.topic, event.offset
        if any(way.mark.halt for way in self._of(topic).ways):
            log.failure("stream_halted", error, publisher=node, topic=topic, offset=offset)
            return False
        letter = DeadLetter(
            node,
            log_id,
            offset,
            topic,
            repr(error)[:500],
            wall_ns(),
            envelope.encode_event(event),
        )
        await self._process.durable_log.store(
            dead=(letter,),
            applied=(Applied(node, log_id, offset),),
            patient=True,
            decided=False,
        )
        log.failure("dead_letter", error, publisher=node, topic=topic, offset=offset)
        return True

    async def _settle(self, node: str, log_id: str, offset: int) -> None:
        """Store that nothing up to *offset* is left for us, where offsets are stored here."""
        log = self._process.durable_log
        stored = log.journal.applied(node)
        if stored is not None and stored.log_id == log_id and stored.offset < offset:
            await log.store(applied=(Applied(node, log_id, offset),), patient=True, decided=False)

    def _trouble(self, node: str, what: str, event: Event, error: Exception) -> None:
        """Tell of events that are tried again."""
        self._process.log.warning(
            what, publisher=node, topic=event.topic, offset=event.offset, why=repr(error)[:500]
        )

    def _notice(self, node: str, notice: Notice) -> None:
        """Tell of a journal that is not what it was; a human must look."""
        facts = {name: getattr(notice, name) for name in notice.__struct_fields__}
        kind = type(notice).__name__.lower()
        self._process.log.error("log_notice", kind=kind, publisher=node, **facts)
        self._component.on_log_notice(node, notice)


def _live(mark: EventMark, handler: Callable[..., Any]) -> Bound:
    """Bind a handler of events that are not durable. Raises LocalProtocolError."""
    bound = bind(handler, batch=mark.batch)
    if bound.every_meta:
        raise LocalProtocolError(f"{mark.prefix}: only a durable batch has the EventMeta of each")
    return bound
