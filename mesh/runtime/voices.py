"""Voices: what a node says on its plane of events, each topic by a way prepared once.

Never here: durable events, sockets.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from mesh.clock import wall_ns, wall_source
from mesh.errors import LocalProtocolError
from mesh.protocol import topics
from mesh.protocol.control import DURABLE, LASTVALUE
from mesh.protocol.envelope import Event, encode_value
from mesh.protocol.outbound import Voice
from mesh.transport.handled import cause_now
from mesh.transport.pubsub import Publisher

Act: TypeAlias = Callable[[], None]

_SYSTEM_MARK: Final = "!"  # begins the mesh's own topics, which follow from nothing on disk


class Voices:
    """Say EPHEMERAL and LASTVALUE events of *node*.

    says: topic prefix to delivery class. schemas: payload type to number. when_settled: calls
    the newest it is given of a topic once all that was committed before is on disk; None
    without a journal.
    ready: of topics that need no more thought, the type said last and the voice for it.
    """

    def __init__(
        self,
        node: str,
        says: dict[str, int],
        schemas: Mapping[type, int],
        publisher: Publisher,
        when_settled: Callable[[str, Act], None] | None,
    ) -> None:
        self._node, self._says, self._schemas = node, says, schemas
        self._publisher, self._when_settled = publisher, when_settled
        self.ready: dict[str, tuple[type, Voice]] = {}

    def emit(self, topic: str, value: object, ts_recv: int) -> None:
        """Publish *value*. Raises LocalProtocolError if *topic* is not declared so."""
        ready, cause = self.ready.get(topic), cause_now()
        if ready is not None and ready[0] is type(value) and cause is None:
            ready[1](value, ts_recv)
            return
        keep, schema = self.keeps(topic), self._schemas.get(type(value), 0)
        # It may follow from what is not on disk yet, and must not be known before that.
        settle = self._when_settled if keep and topic[0] != _SYSTEM_MARK else None
        if settle is not None or cause is not None:
            event = Event(topic, schema, 0, 0, 0, encode_value(value), 0, 0, ts_recv, wall_ns())
            told = self._publisher.outbound.traced(event, cause)
            publish = partial(self._publisher.publish, told, keep=keep)
            publish() if settle is None else settle(topic, publish)
            return
        voice = self._publisher.outbound.voice(
            topic, schema, keep=keep, bundle=self._publisher.bundle, now_ns=wall_source()
        )
        voice(value, ts_recv)
        self.ready[topic] = type(value), voice

    def keeps(self, topic: str) -> bool:
        """Return whether *topic* is LASTVALUE. Raises LocalProtocolError as emit."""
        kind = topics.longest(self._says, topic)
        if kind is None or kind == DURABLE:
            raise LocalProtocolError(f"{self._node} did not declare {topic}, or it is DURABLE")
        return kind == LASTVALUE
