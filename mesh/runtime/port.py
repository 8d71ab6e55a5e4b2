"""BusPort: what a component needs of the process it lives in.

Never here: how it is done (bus).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from mesh.protocol.cause import Cause
from mesh.protocol.control import Heartbeat, ModeChange, NodeState, Record
from mesh.protocol.mode import SystemMode
from mesh.protocol.outbound import Voice
from mesh.runtime.calling import Wanted
from mesh.runtime.circuit import Breakers
from mesh.runtime.doing import NO_REPLY
from mesh.runtime.handlers import EventMeta
from mesh.runtime.logs import Logs
from mesh.runtime.settings import Paths
from mesh.storage.journal import Journal

Wished: TypeAlias = tuple[str, object] | tuple[str, object, Cause | None]
RawSink: TypeAlias = Callable[[bytes, int, EventMeta], None]


class BusPort(Protocol):
    """What a component needs of the process it lives in."""

    node: str
    epoch: int
    paths: Paths
    log: Logs
    mode: SystemMode
    mode_epoch: int
    view: dict[str, NodeState]
    voices: dict[str, tuple[type, Voice]]  # by topic, what emit would only look up
    breakers: Breakers

    @property
    def journal(self) -> Journal:
        """Return the node's journal."""

    @property
    def record(self) -> Record:
        """Return how others reach this run."""

    def heartbeat(self) -> Heartbeat:
        """Return how this node is now."""

    def learn_mode(self, change: ModeChange) -> None:
        """Take a mode unless a newer one is known."""

    def emit(self, topic: str, value: object, ts_recv: int) -> None:
        """Publish an EPHEMERAL or LASTVALUE event."""

    def retire(self, topic: str, value: object) -> None:
        """End a LASTVALUE topic."""

    async def commit(
        self,
        records: tuple[Wished, ...],
        applied: EventMeta | None,
        *,
        patient: bool,
        reply: object = NO_REPLY,
    ) -> int:
        """Store DURABLE events, then publish them."""

    async def call_raw(self, wanted: Wanted) -> bytes:
        """Call another node."""

    def stream_raw(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """Call another node that answers in parts."""

    async def process(self, request_type: str, data: Any, source: str) -> Any:
        """Answer with the typed handler of that name."""

    def spawn(
        self, coro: Coroutine[Any, Any, None], name: str, cause: Cause | None
    ) -> asyncio.Task[None]:
        """Run a task for the life of the process."""

    def every(self, period_s: float, func: Callable[[], Any]) -> None:
        """Call *func* periodically."""

    def subscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear a prefix untyped."""

    def unsubscribe(self, prefix: str, sink: RawSink) -> None:
        """Hear it no longer."""

    def report(self, name: str, number: float) -> None:
        """Put a figure into the heartbeat."""
