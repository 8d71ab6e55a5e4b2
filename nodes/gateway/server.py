"""The WebSocket server: pumps bytes between sockets and sessions, with deadlines.

Never here: topic rules, what messages mean.
"""

import asyncio
import contextlib
import http
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NoReturn, TypeAlias

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Origin, Subprotocol

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import ConfigError, MeshError
from mesh.protocol.tokens import Scope
from nodes.gateway.hub import Forget, Hub, Listen, News, Order
from nodes.gateway.messages import JSON, Codec
from nodes.gateway.session import TOO_SLOW, Call, Close, Session
from nodes.gateway.settings import GatewaySettings

Ask: TypeAlias = Callable[[Call], Awaitable[Any]]
ScopeOf: TypeAlias = Callable[[str], Scope | None]

SEND_BUFFER_BYTES: Final = 131_072  # the kernel's share; by default a dead client holds 3.8 MB
WRITE_BUFFER_BYTES: Final = 65_536  # the transport's share, before send() waits
CLOSE_S: Final = 1.0  # for the closing handshake, then the socket is aborted
SUBPROTOCOLS: Final = [Subprotocol(codec.value) for codec in Codec]


@dataclass(slots=True, eq=False)
class Link:
    """One socket and the session it carries."""

    socket: ServerConnection
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end: Close | None = None


class _HangUp(Exception):
    """The client has gone."""


class GatewayServer:
    """Serves clients on one port. on_topics: carries out Listen and Forget on the mesh."""

    def __init__(
        self,
        settings: GatewaySettings,
        hub: Hub,
        *,
        epoch: int,
        scope_of: ScopeOf,
        ask: Ask,
        on_topics: Callable[[Listen | Forget], None],
    ) -> None:
        self.settings = settings
        self.hub = hub
        self._epoch, self._scope_of, self._ask, self._on_topics = epoch, scope_of, ask, on_topics
        self._links: dict[Session, Link] = {}
        self._names = count(1)
        self._server: Server | None = None

    def __repr__(self) -> str:
        return f"<GatewayServer :{self.settings.port} clients={len(self._links)}>"

    async def start(self) -> None:
        """Bind and accept. Raises ConfigError if the port is taken."""
        settings = self.settings
        try:
            self._server = await serve(
                self._serve,
                settings.host,
                settings.port,
                origins=self._origins(),
                subprotocols=SUBPROTOCOLS,
                process_request=self._admit,
                compression=None,  # 47-57 KiB a client and 2.4 times the CPU
                open_timeout=5,
                ping_interval=20,
                ping_timeout=10,
                close_timeout=CLOSE_S,
                max_size=settings.message_bytes_max,
                max_queue=16,
                write_limit=WRITE_BUFFER_BYTES,
                server_header=None,
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port} for WebSocket clients "
                f"({_reason(error)}): set WS_PORT to a free port"
            ) from None

    async def stop(self) -> None:
        """Say bye to every client and close the port; clients get CLOSE_S. Idempotent."""
        if self._server is None:
            return
        self._act(self.hub.drain(monotonic_s()))
        server, self._server = self._server, None
        server.close()
        await server.wait_closed()

    def publish(self, news: News) -> None:
        """Hand an event of the mesh to the clients."""
        self._act(self.hub.publish(news, monotonic_s()))

    def tick(self) -> None:
        """Look at the deadlines of all sessions."""
        self._act(self.hub.tick(monotonic_s()))

    def act(self, orders: list[Order]) -> None:
        """Carry out what the hub decided outside of a client's message."""
        self._act(orders)

    def _origins(self) -> list[Origin | None]:
        names = {self.settings.host, "127.0.0.1", "localhost", "[::1]"}
        port = self.settings.api_port
        return [None, *(Origin(f"http://{name}:{port}") for name in sorted(names))]

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        if "?" in request.path:  # a token in a query would end up in somebody's log
            return connection.respond(http.HTTPStatus.BAD_REQUEST, "no query, please\n")
        if len(self._links) >= self.settings.clients_max:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        link = Link(connection)
        session = self._greet(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(link, session), name="gateway write")
                tasks.create_task(self._guard(link), name="gateway guard")
                await self._read(link, session, tasks)
        except* (_HangUp, ConnectionClosed, OSError, TimeoutError):
            connection.transport.abort()
        finally:
            del self._links[session]
            for effect in self.hub.leave(session):
                self._on_topics(effect)

    def _greet(self, link: Link) -> Session:
        raw = link.socket.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        session = Session(
            name=f"{self._epoch:x}-{next(self._names)}",
            codec=Codec(link.socket.subprotocol or JSON),
            settings=self.settings,
            epoch=self._epoch,
            opened=monotonic_s(),
            scope_of=self._scope_of,
            wake=link.woken.set,
        )
        self._links[session] = link
        self.hub.open(session)
        request = link.socket.request
        kind, _, token = (request.headers.get("Authorization", "") if request else "").partition(
            " "
        )
        if kind.lower() == "bearer":
            ends = session.authenticate(token.strip(), monotonic_s())
            self._act([(session, end) for end in ends if isinstance(end, Close)])
        return session

    async def _read(self, link: Link, session: Session, tasks: asyncio.TaskGroup) -> NoReturn:
        async for message in link.socket:
            data = message.encode() if isinstance(message, str) else message
            orders, effects = self.hub.receive(session, data, monotonic_s(), wall_ns())
            for effect in effects:
                self._on_topics(effect)
            for _, order in orders:
                if isinstance(order, Call):
                    tasks.create_task(self._call(session, order), name=f"call {order.method}")
            self._act(orders)
        raise _HangUp  # ends the pumps, and the calls nobody waits for

    async def _write(self, link: Link, session: Session) -> None:
        is_text = session.codec is JSON
        while True:
            data = session.take(monotonic_s())
            if data is None:
                if link.end is not None:
                    link.ended.set()
                link.woken.clear()
                await link.woken.wait()
                continue
            async with asyncio.timeout(self.settings.stall_s):
                await link.socket.send(data, text=is_text)

    async def _guard(self, link: Link) -> None:
        """Close the connection once that is decided; abort it if the client does not follow."""
        await link.ended.wait()
        end = link.end or Close(1011, "")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await link.socket.close(end.code, end.reason)
        link.socket.transport.abort()

    async def _call(self, session: Session, call: Call) -> None:
        try:
            data = await self._ask(call)
        except MeshError as error:
            ends = session.refuse(call.id, error, monotonic_s())
        else:
            ends = session.reply(call.id, data, monotonic_s())
        self._act([(session, end) for end in ends if isinstance(end, Close)])

    def _act(self, orders: list[Order]) -> None:
        for session, order in orders:
            link = self._links.get(session)
            if link is None or not isinstance(order, Close) or link.end is not None:
                continue
            link.end = order
            if order.code == TOO_SLOW:
                link.ended.set()  # what is queued would only wait longer
            else:
                asyncio.get_running_loop().call_later(CLOSE_S, link.ended.set)
            link.woken.set()


def _reason(error: OSError) -> str:
    """Return the system's own words: asyncio puts a sentence of its own into strerror."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
