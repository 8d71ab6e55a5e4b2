"""Inbound: what the marks on a component's methods ask for, bound to the mesh.

A durable event is delivered in turn and tried again when it fails; what goes on failing is
put aside or stops its stream.

Never here: sockets, the handling of other events (dispatch).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from mesh.clock import wall_ns
from mesh.errors import MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.catchup import Notice
from mesh.protocol.commits import Applied, DeadLetter
from mesh.protocol.envelope import Event
from mesh.runtime.component import Component
from mesh.runtime.dispatch import Handling, Paces
from mesh.runtime.handlers import Bound, EventMark, EventMeta, bind, meta_of
from mesh.runtime.health import Health
from mesh.runtime.logs import Logs
from mesh.runtime.peers import DurableInterest, Peers
from mesh.runtime.streams import DurableLog

Routes: TypeAlias = list[tuple[str, Bound, Callable[[bytes], Any]]]


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
        self._routes: Routes = []

    @property
    def durable(self) -> bool:
        """Say whether any handler follows durable streams."""
        return any(mark.durable for mark, _ in self._marks)

    def bind(self) -> None:
        """Subscribe to all that is marked: the durable first, so that no feed lacks its reader."""
        process = self._process
        for mark, handler in self._marks:
            if mark.durable:
                bound = bind(handler)
                self._routes.append((mark.prefix, bound, envelope.decoder(bound.kind)))
        if self._routes:
            prefixes = tuple(dict.fromkeys(prefix for prefix, _, _ in self._routes))
            process.peers.follow(
                DurableInterest(prefixes, self._start, self._deliver, self._poisoned, self._notice)
            )
        for mark, handler in self._marks:
            if not mark.durable:
                handling = Handling(bind(handler, batch=mark.batch), mark, process)
                process.paces.add(handling)
                process.peers.subscribe(mark.prefix, handling.sink(), handling.lane())

    def _start(self, node: str, log_id: str) -> tuple[str, int] | None:
        applied = self._process.durable_log.journal.applied(node)
        if applied is not None:
            return applied.log_id, applied.offset
        offset = self._component.applied_offset(node, log_id)
        return None if offset is None else (log_id, offset)

    async def _deliver(self, node: str, event: Event, log_id: str) -> None:
        self._process.health.events_in += 1
        meta = meta_of(event, node, log_id)
        for prefix, bound, decode in self._routes:
            if topics.matches(prefix, event.topic):
                result = bound.call(*(decode(event.payload), meta)[: bound.arguments])
                if result is not None:
                    await result

    async def _poisoned(self, node: str, event: Event, log_id: str, error: Exception) -> bool:
        """Decide about an event that failed again and again: stop there, or put it aside."""
        log, topic, offset = self._process.log, event.topic, event.offset
        if any(mark.halt and topics.matches(mark.prefix, topic) for mark, _ in self._marks):
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
        )
        log.failure("dead_letter", error, publisher=node, topic=topic, offset=offset)
        return True

    def _notice(self, node: str, notice: Notice) -> None:
        """Tell of a journal that is not what it was; a human must look."""
        facts = {name: getattr(notice, name) for name in notice.__struct_fields__}
        kind = type(notice).__name__.lower()
        self._process.log.error("log_notice", kind=kind, publisher=node, **facts)
        self._component.on_log_notice(node, notice)
