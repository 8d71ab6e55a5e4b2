"""A node inside a benchmark's own process: a real Bus on real sockets and a real journal.

Never here: measuring, assertions.
"""

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mesh.protocol.access import CLI, GUEST, Access, Grants
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component
from mesh.runtime.directory import Directory
from mesh.runtime.logs import Logs
from mesh.runtime.runs import Run
from mesh.runtime.settings import Paths
from mesh.storage.journal import Retention
from mesh.transport.auth import Authenticator
from mesh.transport.sockets import Sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

END: Final = "end"
JOIN_S: Final = 10.0
_ALL = Grants(sub=("",), pub=("",), call=("",))


@asynccontextmanager
async def living(home: Path, node: str, component: Component) -> "AsyncIterator[Sockets]":
    """Run *component* as *node* of the mesh at *home* for the length of the block."""
    paths = Paths(home, home / "state", home / "logs", home / "run", home / "checkpoints", home)
    paths.state.mkdir(parents=True, exist_ok=True)
    directory = Directory(paths.run, "bench")
    directory.make()
    log = Logs(paths.logs, node, 1, level="INFO", rotate_bytes=1 << 26, kept=1)
    loop, sockets = asyncio.get_running_loop(), Sockets()
    door = Authenticator(loop, sockets)
    access = Access({CLI: _ALL, GUEST: _ALL})
    kept = Retention(max_bytes=1 << 32, keep_s=86_400.0)
    # No run lock tells who is who here: every name is believed.
    run = Run(node, 1, "bench", paths, log, access, kept, is_node=lambda user, node: True)
    async with asyncio.TaskGroup() as tasks:
        bus = Bus(component, run, sockets, directory, tasks)
        component.attach(bus)
        bus.start()
        bus.spawn(_rounds(bus), "rounds")
        await component.on_start()
        try:
            yield sockets
        finally:
            bus.cancel()
            bus.close()
    door.close()
    sockets.close()
    directory.withdraw(node)
    log.close()


@contextmanager
def beside(target: Callable[[Path, Connection], None], home: Path) -> "Iterator[Connection]":
    """Run *target* in a process of its own, and tell it to end when the block has ended.

    It ignores Ctrl-C, which the terminal sends to both; a block left by it ends it at once.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_until_told, args=(target, home, there))
    resource_tracker.ensure_running()  # what start() would do, and it lets SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it inherits that
    process.start()
    there.close()  # so that it hears our end, should we be killed
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # raises if it came meanwhile
        yield here
        here.send(END)
    except BaseException:  # whatever left the block, Ctrl-C too: nobody will say END
        process.terminate()
        raise
    finally:
        process.join(JOIN_S)
        process.kill()


def _until_told(
    target: Callable[[Path, Connection], None], home: Path, control: Connection
) -> None:
    with suppress(EOFError):
        target(home, control)


async def _rounds(bus: Bus) -> None:
    while True:
        bus.peers.scan()
        bus.beat()
        await asyncio.sleep(0.5)


def quantiles(samples_us: list[float]) -> dict[str, Any]:
    """Return p50, p99 and p999 of *samples_us*."""
    ordered = sorted(samples_us)
    return {
        name: round(ordered[int(len(ordered) * part)], 1)
        for name, part in (("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999))
    }
