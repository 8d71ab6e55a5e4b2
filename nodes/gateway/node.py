"""Wire the gateway: the mesh's events and methods to the WebSocket server.

Never here: topic rules, what clients may do.
"""

from functools import partial
from typing import Any

import msgspec

from mesh.protocol.tokens import Scope
from mesh.runtime.access import scope_of
from mesh.runtime.component import Component, EventMeta
from nodes.domain.schemas import SCHEMAS
from nodes.gateway.hub import VALUES, Forget, Hub, Listen, News
from nodes.gateway.methods import readable
from nodes.gateway.server import GatewayServer
from nodes.gateway.session import Call
from nodes.gateway.settings import GatewaySettings

TICK_S = 0.1  # deadlines of sessions are seconds


class GatewayNode(Component):
    """Speaks genesis.v1 to browsers and programs; holds nothing that could be lost."""

    schemas = SCHEMAS
    settings: GatewaySettings

    def __init__(self, settings: GatewaySettings) -> None:
        super().__init__(settings)
        self.server: GatewayServer | None = None

    async def on_start(self) -> None:
        hub = Hub(self.decode, self.mode, self.mode_epoch)
        self.server = GatewayServer(
            self.settings,
            hub,
            epoch=self.epoch,
            scope_of=self._scope_of,
            ask=self._ask,
            on_topics=self._on_topics,
        )
        for prefix in VALUES:
            self.subscribe(prefix, self._on_event)
        await self.server.start()
        self.every(TICK_S, partial(self._tick, self.server))
        self.log.info("listening", port=self.settings.port)

    async def on_stop(self) -> None:
        if self.server is not None:
            await self.server.stop()

    def _on_event(self, payload: bytes, schema: int, meta: EventMeta) -> None:
        if self.server is not None:
            news = News(
                topic=meta.topic,
                node=meta.node,
                epoch=meta.epoch,
                seq=meta.seq,
                offset=meta.offset,
                ts=meta.ts_sent,
                schema=schema,
                payload=payload,
                tombstone=meta.tombstone,
            )
            self.server.publish(news)

    def _on_topics(self, effect: Listen | Forget) -> None:
        match effect:
            case Listen(prefix):
                self.subscribe(prefix, self._on_event)
            case Forget(prefix):
                self.unsubscribe(prefix, self._on_event)

    def _tick(self, server: GatewayServer) -> None:
        server.act(server.hub.set_mode(self.mode, self.mode_epoch, self.monotonic_s()))
        server.tick()
        self.report("clients", len(server.hub.sessions))
        self.report("undecodable", server.hub.undecodable)

    async def _ask(self, call: Call) -> Any:
        payload = msgspec.msgpack.encode(call.argument)
        reply = await self.call_raw(call.method, payload, call.timeout_s, call.target)
        return readable(call.method, reply)

    def _scope_of(self, token: str) -> Scope | None:
        """Return what *token* opens."""
        return scope_of(self.paths.state, token, self.log)
