"""One node of ours on real sockets, under the real rules of access, for peers that are not ours.

Never here: what the peers say.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.errors import Denied
from mesh.protocol.access import CLI, Access, Grants
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, event, request
from mesh.runtime.directory import Directory
from mesh.runtime.identity import next_epoch
from mesh.runtime.keys import load_access
from mesh.runtime.logs import Logs
from mesh.runtime.runs import Run
from mesh.runtime.settings import ROOT, Paths, run_directory
from mesh.storage.journal import Retention
from mesh.transport.auth import Authenticator
from mesh.transport.sockets import Sockets

Eventually: TypeAlias = Callable[..., Awaitable[None]]
CLUSTER = "genesis"


class Speaker(Component):
    """A guest of the mesh: says one topic of each class, hears a gauge, answers."""

    says: ClassVar = {
        "x.tick.": EPHEMERAL,
        "x.price.": LASTVALUE,
        "x.fill.": DURABLE,
        "x.note": DURABLE,
    }

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    @event("x.gauge.")
    def on_gauge(self, number: int) -> None:
        self.heard.append(number)

    @request("speaker.double")
    def double(self, number: int, caller: str) -> dict[str, Any]:
        return {"value": number * 2, "caller": caller}

    @request("speaker.refuse")
    async def refuse(self, _: None) -> None:
        raise Denied("not you")


class Stage:
    """The speaker and where its mesh lies; it runs on the loop of the test."""

    def __init__(self, home: Path, tasks: asyncio.TaskGroup) -> None:
        run = run_directory(home)
        self.paths = Paths(
            home, home / "state", home / "logs", run, home / "checkpoints", ROOT / "config"
        )
        self.paths.state.mkdir(parents=True)
        self.directory = Directory(run, CLUSTER)
        self.directory.make()
        self.speaker = Speaker()
        epoch = next_epoch(self.paths.state / "epochs" / "speaker")
        self._log = Logs(
            self.paths.logs, "speaker", epoch, level="DEBUG", rotate_bytes=1 << 26, kept=2
        )
        self._sockets = Sockets()
        self._door = Authenticator(asyncio.get_running_loop(), self._sockets)
        kept = Retention(max_bytes=1 << 30, keep_s=3600.0)
        given = load_access(self.paths)
        cli = given.roles[CLI] | Grants(call=("speaker.",))  # our peers are people, by ipc
        access = Access({**given.roles, CLI: cli}, given.assigned)
        run_of = Run("speaker", epoch, CLUSTER, self.paths, self._log, access, kept)
        self.bus = Bus(self.speaker, run_of, self._sockets, self.directory, tasks)
        self.speaker.attach(self.bus)
        self.bus.start()
        self.bus.spawn(self._scan(), "scan")

    def place(self, plane: str) -> str:
        """Return the path of the speaker's socket for *plane*."""
        return self.bus.record.endpoints[plane].removeprefix("ipc://")

    def close(self) -> None:
        """End the speaker and remove what it left."""
        self.bus.cancel()
        self.bus.close()
        self._door.close()
        self._sockets.close()
        self._log.close()
        self.directory.withdraw("speaker")
        self.directory.leave()

    async def _scan(self) -> None:
        while True:
            self.bus.peers.scan()
            self.bus.beat()
            await asyncio.sleep(0.05)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with asyncio.TaskGroup() as tasks:
        made = Stage(tmp_path / "home", tasks)
        yield made
        made.close()


@pytest.fixture
def eventually() -> Eventually:
    async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110  # conditions are of any kind; the deadline bounds it
                await asyncio.sleep(0.005)

    return until
