"""SimProcess: one run of a node: the runtime's Bus, as it is, on a loop of its own.

It lives as under the runner, without what needs a real process: signals, locks, the handshake
that shows who a peer is.

Never here: whose turn it is, what authors call.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Final

from mesh.errors import MeshError
from mesh.protocol.access import Access
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component
from mesh.runtime.runner import SCAN_S
from mesh.runtime.runs import Run
from mesh.runtime.settings import Paths
from mesh.sim.memory.disk import Disk, MemoryJournal
from mesh.sim.memory.loop import ProcessLoop
from mesh.sim.memory.network import Network
from mesh.sim.memory.places import MemoryDirectory, MemoryLogs
from mesh.sim.memory.sockets import MemorySockets
from mesh.storage.journal import Journal, Retention

CLUSTER: Final = "loopback"
BEAT_S: Final = 0.5
DRAIN_S: Final = 10.0
KEEP: Final = Retention(max_bytes=1 << 30, keep_s=3600.0)


@dataclass(frozen=True, slots=True)
class World:
    """What all processes of a mesh share. said: told the node and each frame it publishes."""

    network: Network
    directory: MemoryDirectory
    paths: Paths
    access: Access
    dice: Random
    said: Callable[[str, bytes], None]


class SimProcess:
    """Run *component* as *node* in *world*."""

    def __init__(self, node: str, component: Component, disk: Disk, world: World) -> None:
        self.node, self.component = node, component
        self.loop = ProcessLoop(world.network.time.monotonic_s)
        self.loop.set_exception_handler(self._on_failure)
        epoch = disk.next_epoch()
        self.log = MemoryLogs(node, epoch)
        self.failure: BaseException | None = None
        self.ready = False
        self.bus: Bus | None = None
        self._world, self._disk = world, disk
        self._sockets = MemorySockets(world.network, self.loop, node, partial(world.said, node))
        self._journal: MemoryJournal | None = None
        self._run = Run(
            node,
            epoch,
            CLUSTER,
            world.paths,
            self.log,
            world.access,
            KEEP,
            open_journal=self._open_journal,
        )
        self._stop: asyncio.Event = asyncio.Event()
        self._main = self.loop.create_task(self._live(), name=node)

    @property
    def ended(self) -> bool:
        """Say whether it is over; failure says why, None if it was asked to."""
        return self._main.done()

    def stop(self) -> None:
        """Ask it to drain and end."""
        self._stop.set()
        self.loop.call_soon(lambda: None)

    def kill(self) -> None:
        """End it at once: nothing it does from now on reaches anybody."""
        if self._journal is not None:
            self._journal.kill()
        self._sockets.close()
        self._main.cancel()
        self.loop.finish(self._main)

    async def _live(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                directory = self._world.directory
                self.bus = bus = Bus(self.component, self._run, self._sockets, directory, tasks)
                self.component.attach(bus)
                try:
                    await self._work(bus)
                finally:
                    bus.cancel()
                    bus.close()
        except* Exception as group:  # noqa: BLE001  # whatever ends a node is told to the test
            self.failure = self.failure or _first(group)
        self._sockets.close()
        self._world.directory.withdraw(self.node)

    async def _work(self, bus: Bus) -> None:
        component = self.component
        bus.start()
        bus.spawn(self._scan(bus), "scan")
        bus.spawn(component.listen_events(), "listen_events")
        await component.on_start()
        bus.state, self.ready = "ready", True
        bus.spawn(self._beat(bus), "heartbeat")
        await self._stop.wait()
        if self.failure is not None:
            raise self.failure
        bus.drain(DRAIN_S)
        try:
            async with asyncio.timeout(DRAIN_S):
                while not bus.idle:  # noqa: ASYNC110  # as the runner: finish what was begun
                    await asyncio.sleep(0.01)
                await component.on_stop()
        except (TimeoutError, MeshError) as error:
            self.log.info("drain_cut_short", why=repr(error))

    @staticmethod
    async def _scan(bus: Bus) -> None:
        while True:
            bus.peers.scan()
            await asyncio.sleep(SCAN_S)

    @staticmethod
    async def _beat(bus: Bus) -> None:
        loop = asyncio.get_running_loop()
        while True:
            bus.beat()
            bus.paces.tick(loop.time())
            await asyncio.sleep(BEAT_S)

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failure = context.get("exception") or RuntimeError(context["message"])
        self._stop.set()

    def _open_journal(self, paths: Paths, node: str, keep: Retention) -> Journal:
        self._journal = MemoryJournal(
            self._disk, paths.state / f"{node}.journal", self.loop.call_later, self._world.dice
        )
        return self._journal


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
