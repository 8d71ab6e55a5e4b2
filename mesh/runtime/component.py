"""Component: what the author of a node writes against: typed handlers, calls, emissions.

ComponentAPI is its untyped half. Never here: sockets, files; the runner hands in a Bus.
"""

import asyncio
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, Final, Protocol, TypeVar

from mesh import clock
from mesh.errors import LocalProtocolError, OutcomeUnknown
from mesh.protocol import envelope
from mesh.protocol.catchup import Notice
from mesh.protocol.control import DeliveryClass, NodeState
from mesh.protocol.mode import SAFE, SystemMode
from mesh.protocol.outbound import Voice
from mesh.runtime.calling import Wanted
from mesh.runtime.circuit import Breakers
from mesh.runtime.doing import NO_REPLY
from mesh.runtime.handlers import REQUEST_TIMEOUT_S, Bound, EventMeta, event, request
from mesh.runtime.logs import Logs
from mesh.runtime.port import BusPort, RawSink, Wished
from mesh.runtime.settings import Paths
from mesh.storage.journal import Journal
from mesh.transport.handled import because, cause_now, handled, in_lane

__all__ = ["Component", "ComponentAPI", "EventMeta", "because", "cause_now", "event", "request"]

T = TypeVar("T")
QUEUE_MAX: Final = 4096
_NO_VOICE: Final[tuple[type, Any]] = (Protocol, None)  # type(value) is never that
_handled: Final = handled.get  # 200 ns less than the method


def _nowhere(topic: str, value: object, ts_recv: int) -> None:
    raise LocalProtocolError("a component works only while the runner runs it")


class ComponentAPI:
    """What every component can do without types: the calls of the project's first document.

    Events wait in event_queue, at most 4,096; beyond that the oldest goes and is counted.
    """

    def __init__(self) -> None:
        self.event_queue: asyncio.Queue[tuple[Bound, object, EventMeta]] = asyncio.Queue(QUEUE_MAX)
        self._bus: BusPort | None = None
        self._emit: Callable[[str, object, int], None] = _nowhere
        self._voices: dict[str, tuple[type, Voice]] = {}

    @property
    def bus(self) -> BusPort:
        """Return the process this component lives in."""
        assert self._bus is not None, "a component works only while the runner runs it"
        return self._bus

    @property
    def id(self) -> str:
        """Return the name of this component's node."""
        return self.bus.node

    def attach(self, bus: BusPort) -> None:
        """Take the process to live in; the runner calls it once."""
        self._bus, self._emit, self._voices = bus, bus.emit, bus.voices

    async def process_request(self, request_type: str, data: Any, source: str) -> Any:
        """Answer an untyped request; by default the typed handler of that name does.

        Raises NotFound if there is none. It is cut when the caller's time is over, or after
        two seconds.
        """
        return await self.bus.process(request_type, data, source)

    async def request(self, target_id: str, request_type: str, data: Any) -> Any:
        """Return what process_request of *target_id* answers, plain, within two seconds.

        Raises MeshError.
        """
        body = envelope.encode_value([request_type, data])
        wanted = Wanted("mesh.request", body, REQUEST_TIMEOUT_S, target_id)
        return envelope.decode_value(await self.bus.call_raw(wanted))

    async def emit_event(self, event_type: str, data: Any) -> None:
        """Publish plain data on a declared topic."""
        self._emit(event_type, data, 0)

    async def on_event(self, event_type: str, data: Any, source: str) -> None:
        """Hear, plain, an event of a prefix given to :meth:`hear`."""

    def hear(self, prefix: str) -> None:
        """Let :meth:`on_event` hear *prefix*."""
        bound = Bound(self.on_event, None, 3, is_async=True)

        def sink(payload: bytes, schema: int, meta: EventMeta) -> None:
            self.enqueue(bound, envelope.decode_value(payload), meta)

        self.bus.subscribe(prefix, sink)

    def enqueue(self, bound: Bound, value: object, meta: EventMeta) -> bool:
        """Queue an event for a coroutine; when full the oldest goes. Return False then."""
        dropped = self.event_queue.full()
        if dropped:
            self.event_queue.get_nowait()
            self.event_queue.task_done()
        self.event_queue.put_nowait((bound, value, meta))
        return not dropped

    async def listen_events(self) -> None:
        """Run the coroutine handlers one after the other, for ever."""
        while True:
            bound, value, meta = await self.event_queue.get()
            given = (meta.topic, value, meta.node) if bound.arguments == 3 else (value, meta)
            try:
                with because(meta):
                    await bound.call(*given[: bound.arguments])
            finally:
                self.event_queue.task_done()


class Component(ComponentAPI):
    """The face of a node. Subclass it, mark handlers, declare what it says.

    says: topic prefix to delivery class. schemas: payload type to its number on the wire.
    rebuilds: it reads its own journal when it starts, so retention spares all of it but what
    it was told by :meth:`release`. Set it to False where the journal is only for others.
    """

    says: ClassVar[Mapping[str, DeliveryClass]] = {}
    schemas: ClassVar[Mapping[type, int]] = {}
    rebuilds: ClassVar[bool] = True  # forgotten, a disk fills; the other way round state is lost
    now_ns = staticmethod(clock.wall_ns)  # UTC
    monotonic_s = staticmethod(clock.monotonic_s)

    def __init__(self, settings: Any = None) -> None:
        super().__init__()
        self.settings = settings

    @property
    def node(self) -> str:
        """Return the name of this node."""
        return self.bus.node

    @property
    def epoch(self) -> int:
        """Return the number of this run."""
        return self.bus.epoch

    @property
    def mode(self) -> SystemMode:
        """Return the mode in force; SAFE until the coordinator was heard."""
        return self.bus.mode if self._bus is not None else SAFE

    @property
    def mode_epoch(self) -> int:
        """Return the number of the last change of mode."""
        return self.bus.mode_epoch

    @property
    def paths(self) -> Paths:
        """Return where this mesh keeps its things."""
        return self.bus.paths

    @property
    def log(self) -> Logs:
        """Return the structured log."""
        return self.bus.log

    @property
    def view(self) -> dict[str, NodeState]:
        """Return the coordinator's last view, by node."""
        return self.bus.view

    @property
    def breakers(self) -> Breakers:
        """Return those of this node's calls; one of your own is told of too if you adopt() it."""
        return self.bus.breakers

    @property
    def journal(self) -> Journal:
        """Return this node's journal; only a node with DURABLE topics has one."""
        return self.bus.journal

    def release(self, through: int) -> None:
        """Need no offset of our own journal up to *through* any more, in this run or a later one.

        What led to the state up to there is on disk elsewhere, in a checkpoint. Retention may
        then delete it, once its consumers have it.
        """
        self.journal.floor = max(self.journal.floor, through)

    async def on_start(self) -> None:
        """Prepare, after sockets are bound and before READY is reported.

        It has start_s of [mesh]; then the node ends with 70 and is started anew.
        """

    async def on_stop(self) -> None:
        """Save what must not be lost; the node is draining.

        Of drain_s of [mesh] it has what the requests under way have left; then it is cancelled.
        """

    def on_mode(self, mode: SystemMode) -> None:
        """Learn that another mode is in force; perhaps before on_start."""

    def applied_offset(self, node: str, log_id: str) -> int | None:
        """Return the offset of *node*'s journal whose effect is stored; None: from now on.

        Asked only where no offset of it was ever committed with an effect.
        """
        return None

    def on_log_notice(self, node: str, notice: Notice) -> None:
        """Learn that *node*'s journal is another (Reset), lost records (Gone) or is an old
        copy (Ahead, its stream has halted). It is in the error log already."""

    def emit(self, topic: str, value: object, *, ts_recv: int = 0) -> None:
        """Publish an EPHEMERAL or LASTVALUE event; never blocks. ts_recv: 0 for its cause's.

        A last value is sent only when all that was committed before it is on disk.
        """
        kind, say = self._voices.get(topic, _NO_VOICE)  # as bus.emit: a call is 5 us of a cold p50
        if kind is type(value) and in_lane[0] is _handled() is None:
            say(value, ts_recv)
        else:
            self._emit(topic, value, ts_recv)

    def retire(self, topic: str, value: object) -> None:
        """End a LASTVALUE topic, whose last value was *value*: its hearers forget it."""
        self.bus.retire(topic, value)

    async def commit(
        self,
        *records: Wished,
        applied: EventMeta | None = None,
        patient: bool = False,
        reply: object = NO_REPLY,
    ) -> int:
        """Store DURABLE events in one transaction, then publish; return the last offset.

        On return they are on disk. records: topic, value and, if another handler decided them,
        cause_now() of there. applied: the durable event that caused them; its offset is stored
        in the same transaction. reply: in the handler of a keyed request, what it will return,
        stored likewise: a crash leaves the effect with its reply, or neither. Raises
        Unavailable (executed: no) when the disk is full; patient ones, which are decided and
        cannot be undone, wait for space instead, without an end but that of the node. Cancelling
        the wait does not take them back. Another failure of the disk ends the node, as does one
        write of half a minute.
        """
        return await self.bus.commit(records, applied, patient=patient, reply=reply)

    async def resolve_request(self, method: str, arg: Any, caller: str) -> object:
        """Return what a keyed request was answered whose handler was cut after a commit.

        Raises NotFound if it surely had no effect: then the handler is called. Anything else
        leaves the caller with an unknown outcome, as this one does.
        """
        raise OutcomeUnknown(f"{method}: its handler did not end")

    async def call(
        self,
        method: str,
        arg: object,
        kind: type[T],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        target: str | None = None,
        key: str | None = None,
        urgent: bool = False,
    ) -> T:
        """Return the reply of whoever serves *method*, within *timeout_s*. Raises MeshError.

        In a handler it takes no longer than the request that is being answered has left. It
        may be asked of several instances, or of one again, where that cannot do harm. key: of
        a keyed method; the same key, also from another run of this node, has one effect.
        urgent: a cancel or the like, which takes what is kept for them. Cancelling the wait
        cancels the request, if it has not come too far.
        """
        wanted = Wanted(method, envelope.encode_value(arg), timeout_s, target, key, urgent)
        reply: T = envelope.decode_value(await self.bus.call_raw(wanted), kind)
        return reply

    async def stream(
        self,
        method: str,
        arg: object,
        kind: type[T],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        target: str | None = None,
    ) -> AsyncIterator[T]:
        """Yield the reply of a method that answers in parts, as fast as they are taken.

        Raises MeshError: what came before was not all. timeout_s: for the whole of it.
        """
        wanted = Wanted(method, envelope.encode_value(arg), timeout_s, target)
        async with aclosing(self.bus.stream_raw(wanted)) as parts:  # type: ignore[type-var]  # a generator
            async for part in parts:
                yield typing.cast(T, envelope.decode_value(part, kind))

    async def call_raw(
        self,
        method: str,
        payload: bytes,
        timeout_s: float = REQUEST_TIMEOUT_S,
        target: str | None = None,
        *,
        key: str | None = None,
        urgent: bool = False,
    ) -> bytes:
        """Return the reply as it came; see call. Raises MeshError."""
        return await self.bus.call_raw(Wanted(method, payload, timeout_s, target, key, urgent))

    def decode(self, schema: int, payload: bytes) -> object:
        """Return the typed value of a payload; plain MessagePack for an unknown schema."""
        kind = next((k for k, number in self.schemas.items() if number == schema), None)
        return envelope.decode_value(payload, kind)

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task because of what is handled now, if anything; what it raises ends the node."""
        return self.bus.spawn(coro, name, cause_now())

    def every(self, period_s: float, func: Callable[[], Awaitable[None] | None]) -> None:
        """Call *func* every *period_s* seconds; the next period begins when it has ended.

        What it waits for must have an end, as in a coroutine that hears events.
        """
        self.bus.every(period_s, func)

    def subscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear *prefix* untyped: sink(payload, schema, meta)."""
        self.bus.subscribe(prefix, sink)

    def unsubscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear it no longer."""
        self.bus.unsubscribe(prefix, sink)

    def report(self, name: str, number: float) -> None:
        """Put a figure into the heartbeat."""
        self.bus.report(name, number)
