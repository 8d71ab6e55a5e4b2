"""Wire the api node: the mesh's methods to REST, in uvicorn.

Never here: routes.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import uvicorn

from mesh.errors import ConfigError, RemoteProtocolError
from mesh.protocol.tokens import Scope
from mesh.runtime.access import scope_of
from mesh.runtime.component import Component, EventMeta, event
from nodes.api.app import Mesh, create_app
from nodes.api.settings import ApiSettings
from nodes.domain.market import Quote
from nodes.domain.plain import plain
from nodes.domain.schemas import SCHEMAS

STOP_S = 3.0  # for requests under way


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: it re-raises, so ours would run twice."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ApiNode(Component):
    """Serves REST and the dashboard; holds nothing but the last quotes."""

    schemas = SCHEMAS
    settings: ApiSettings

    def __init__(self, settings: ApiSettings) -> None:
        super().__init__(settings)
        self._quotes: dict[str, Quote] = {}
        self._server: Server | None = None
        self._stopped = asyncio.Event()

    @event("md.quote.")
    def on_quote(self, quote: Quote, meta: EventMeta) -> None:
        self._quotes[quote.instrument] = quote

    async def on_start(self) -> None:
        settings = self.settings
        listening = bind(settings.host, settings.port)
        app = create_app(Mesh(self._ask, self._scope_of, self._quote, self._crashed), settings)
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.connections_max,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=int(STOP_S),
        )
        self._server = Server(config)
        self.spawn(self._serve(self._server, listening), "rest")
        self.log.info("listening", port=settings.port)

    async def on_stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S + 1):
                    await self._stopped.wait()

    async def _serve(self, server: Server, listening: socket.socket) -> None:
        try:
            await server.serve(sockets=[listening])
        finally:
            listening.close()
            self._stopped.set()

    async def _ask(self, method: str, argument: Any) -> Any:
        payload = msgspec.msgpack.encode(argument)
        reply = await self.call_raw(method, payload, self.settings.call_timeout_s, None)
        try:
            return msgspec.msgpack.decode(reply)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(f"{method} answered what cannot be read") from error

    def _quote(self, instrument: str) -> dict[str, Any] | None:
        quote = self._quotes.get(instrument)
        return None if quote is None else plain(quote)

    def _crashed(self, error: Exception) -> None:
        self.log.failure("request_crashed", error)

    def _scope_of(self, token: str) -> Scope | None:
        """Return what *token* opens."""
        return scope_of(self.paths.state, token, self.log)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ConfigError(
            f"cannot listen on {host}:{port} for REST ({reason}): set API_PORT to a free port"
        ) from None
