"""Components on real sockets and real files, several in one process.

Never here: fakes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mesh.protocol.access import CLI, GUEST, Access, Grants
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component
from mesh.runtime.directory import Directory
from mesh.runtime.identity import next_epoch
from mesh.runtime.keys import load_keys
from mesh.runtime.logs import Logs
from mesh.runtime.runs import Run
from mesh.runtime.settings import Paths
from mesh.storage.journal import Retention
from mesh.transport.auth import Authenticator, Door
from mesh.transport.sockets import Sockets

_ALL = Grants(sub=("",), pub=("",), call=("",))
OPEN = Access({CLI: _ALL, GUEST: _ALL})  # one process holds all nodes, so nobody has a role


class LocalMesh:
    """Start and stop components as the runner does, without their own processes.

    Where keys were made (KeyStore), each node takes its own and listens on TCP too.
    """

    def __init__(self, home: Path, tasks: asyncio.TaskGroup) -> None:
        self.paths = Paths(
            home, home / "state", home / "logs", home / "run", home / "checkpoints", home
        )
        self.paths.state.mkdir(parents=True)
        self.directory = Directory(self.paths.run, "test")
        self.directory.make()
        self.running: dict[str, tuple[Bus, Sockets, Logs]] = {}
        self.doors: dict[str, Authenticator] = {}
        self.retention = Retention(max_bytes=1 << 30, keep_s=3600.0)
        # One process holds all nodes, so none can be told from another by its run lock.
        self.is_node: Callable[[str, str], bool] = lambda user, node: True
        self.access = OPEN
        self._tasks = tasks

    async def start(self, node: str, component: Component) -> Bus:
        """Start *component* as *node*, with an epoch above its last run's."""
        epoch = next_epoch(self.paths.state / "epochs" / node)
        log = Logs(self.paths.logs, node, epoch, level="DEBUG", rotate_bytes=1 << 26, kept=2)
        keys = load_keys(self.paths, node)
        sockets = Sockets(None if keys is None else keys.pair)
        door = Door() if keys is None else Door(keys=keys.node_of)
        self.doors[node] = Authenticator(asyncio.get_running_loop(), sockets, door)
        listen = "" if keys is None else "tcp://127.0.0.1:*"
        run = Run(
            node, epoch, "test", self.paths, log, self.access, self.retention, listen, keys=keys,
            is_node=self.is_node,
        )  # fmt: skip
        bus = Bus(component, run, sockets, self.directory, self._tasks)
        component.attach(bus)
        self.running[node] = (bus, sockets, log)
        bus.start()
        bus.spawn(self._scan(bus), "scan")
        bus.spawn(component.listen_events(), "listen")
        await component.on_start()
        return bus

    def crash(self, node: str) -> None:
        """End *node* without a word: its record stays."""
        bus, sockets, log = self.running.pop(node)
        bus.cancel()
        bus.close()
        self.doors.pop(node).close()
        sockets.close()
        log.close()

    def stop(self, node: str) -> None:
        """End *node* on purpose."""
        self.crash(node)
        self.directory.withdraw(node)

    @staticmethod
    async def _scan(bus: Bus) -> None:
        while True:
            if bus.peers.keys is not None and bus.peers.keys.refresh():
                bus.rebind()
            bus.peers.scan()
            bus.beat()
            await asyncio.sleep(0.02)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[LocalMesh]:
    async with asyncio.TaskGroup() as tasks:
        local = LocalMesh(tmp_path, tasks)
        yield local
        for node in list(local.running):
            local.stop(node)


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return once *condition* holds. Raises TimeoutError after *timeout_s*."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # conditions are of any kind; the deadline bounds it
            await asyncio.sleep(0.005)


@pytest.fixture
def eventually() -> Callable[..., object]:
    return until
