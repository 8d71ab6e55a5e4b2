"""Client: a guest of the mesh, for the command line: it calls and listens, and is no node.

Never here: presentation, what methods mean.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Self, TypeAlias

from mesh.clock import wall_ns
from mesh.protocol import envelope
from mesh.protocol.control import Hello, Record
from mesh.protocol.envelope import WIRE, Event
from mesh.runtime.directory import Directory
from mesh.runtime.handlers import EventMeta, meta_of
from mesh.runtime.keys import load_access
from mesh.runtime.peers import Peers
from mesh.runtime.settings import MeshSettings, Paths, convert, load_toml, section_of
from mesh.transport.auth import Authenticator, Door
from mesh.transport.sockets import Sockets

RawSink: TypeAlias = Callable[[bytes, int, EventMeta], None]


class Client:
    """Use as `async with Client(paths) as mesh`. Raises ConfigError, MeshError."""

    def __init__(self, paths: Paths) -> None:
        mesh = convert(section_of(load_toml(paths), "mesh"), "mesh", MeshSettings)
        self._cluster, self._access = mesh.cluster, load_access(paths)
        self._directory = Directory(paths.run, mesh.cluster)
        self._stack = AsyncExitStack()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        sockets, loop = Sockets(), asyncio.get_running_loop()
        self._stack.callback(sockets.close)
        door = Authenticator(loop, sockets, Door())
        self._stack.callback(door.close)
        node = f"cli.{os.getpid()}"
        self._peers = Peers(
            loop,
            sockets,
            self._directory,
            Hello(self._cluster, node, WIRE, WIRE),
            wall_ns() // 1_000_000,
            self._access,
            lambda coro, name: self._running.append(tasks.create_task(coro, name=name)),
        )
        self._stack.callback(self._close)
        self._running.append(tasks.create_task(self._scan(), name="scan"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def call(
        self, method: str, arg: object, timeout_s: float = 2.0, target: str | None = None
    ) -> Any:
        """Return the reply as plain MessagePack values. Raises MeshError."""
        reply = await self._peers.call(method, envelope.encode_value(arg), timeout_s, target)
        return envelope.decode_value(reply)

    def subscribe(self, prefixes: list[str], sink: RawSink) -> None:
        """Hear these prefixes: sink(payload, schema, meta)."""

        def heard(event: Event, record: Record) -> None:
            sink(event.payload, event.schema, meta_of(event, record.node, record.log_id))

        for prefix in prefixes:
            self._peers.subscribe(prefix, heard)

    def records(self) -> list[Record]:
        """Return the records of the nodes on this host; a file may outlive its node."""
        return list(self._directory.records().values())

    async def _scan(self) -> None:
        while True:
            self._peers.scan()
            await asyncio.sleep(0.25)

    def _close(self) -> None:
        self._peers.close()
        for task in self._running:
            task.cancel()
