"""run(): from a component class to a living process and back to nothing.

Lock, epoch, sockets, start, heartbeats, signals, drain, close, exit code. One TaskGroup
owns every task of the process; a task that raises ends it, and supervisord starts the next.

Never here: trading words, what handlers do.
"""

import argparse
import asyncio
import gc
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import uvloop

from mesh.errors import AlreadyRunning, ConfigError, MeshError, StorageError, TooSlow
from mesh.protocol import envelope
from mesh.protocol.control import Bye, ModeChange, Register
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component
from mesh.runtime.directory import Directory
from mesh.runtime.health import rss_bytes
from mesh.runtime.identity import RunLock, RunLocks, check_name, next_epoch
from mesh.runtime.keys import load_access, load_keys
from mesh.runtime.logs import Logs
from mesh.runtime.premises import Premises
from mesh.runtime.runs import Run
from mesh.runtime.settings import (
    JournalSettings,
    LogSettings,
    MeshSettings,
    convert,
    load_paths,
    load_toml,
    section_of,
)
from mesh.storage.journal import Retention
from mesh.transport.auth import Authenticator, Door
from mesh.transport.selftest import refuse_strangers
from mesh.transport.sockets import Sockets

EXIT_CRASHED: Final = 70
EXIT_TOO_SLOW: Final = 71
EXIT_ALREADY_RUNNING: Final = 75
EXIT_CONFIG: Final = 78
SCAN_S: Final = 0.25
PERFORMANCE_S: Final = 10.0
LEAVE_S: Final = 0.5  # for callers to say goodbye to a node that drains; some may be dead
COORDINATOR: Final = "coordinator"


def run(section: str, component: Callable[[Any], Component], settings: type[Any]) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code of the process.

    0 stopped, 70 crashed, 71 too slow to be of use, 75 already running, 78 configuration.
    argv: --node NAME.
    """
    parser = argparse.ArgumentParser(description=f"Run the {section} node of Genesis.")
    parser.add_argument("--node", default=section, help="name of this node in the mesh")
    node: str = parser.parse_args().node
    try:
        return _run(check_name(node), component, settings)
    except ConfigError as error:
        sys.stderr.write(f"genesis {node}: {error}\n")
        return EXIT_CONFIG
    except AlreadyRunning as error:
        sys.stderr.write(f"genesis {node}: {error}\n")
        return EXIT_ALREADY_RUNNING


def _run(node: str, component: Callable[[Any], Component], settings: type[Any]) -> int:
    paths = load_paths()
    config = load_toml(paths)
    mesh = convert(section_of(config, "mesh"), "mesh", MeshSettings)
    logging = convert(section_of(config, "logs"), "logs", LogSettings)
    kept = convert(section_of(config, "journal"), "journal", JournalSettings)
    own = convert(section_of(config, node), node, settings)
    for path in (paths.home, paths.state, paths.logs):
        path.mkdir(parents=True, exist_ok=True)
    directory = Directory(paths.run, mesh.cluster)
    lock = RunLock(directory.base / f"{node}.lock")
    lock.acquire(directory.make)
    try:
        epoch = next_epoch(paths.state / "epochs" / node)
        lock.note(epoch)
        keys = load_keys(paths, node)
        log = Logs(
            paths.logs,
            node,
            epoch,
            level=logging.level,
            rotate_bytes=logging.rotate_bytes,
            kept=logging.kept,
        )
        run = Run(
            node,
            epoch,
            mesh.cluster,
            paths,
            log,
            load_access(paths, keys),
            Retention(max_bytes=kept.max_bytes, keep_s=kept.keep_s),
            mesh.listen,
            mesh.advertise,
            keys,
            mesh.snail_s,
        )
        process = Process(run, mesh, directory, lock)
        return uvloop.run(process.live(component(own)))
    finally:
        lock.release()
        directory.leave()


class Process:
    """One run of one node on its event loop."""

    def __init__(self, run: Run, mesh: MeshSettings, directory: Directory, lock: RunLock) -> None:
        self._run, self._mesh, self._directory, self._lock = run, mesh, directory, lock
        self._node, self._epoch, self._log = run.node, run.epoch, run.log
        self._stop = asyncio.Event()
        self._patience: asyncio.Timeout | None = None  # while there is work to cut short
        self._tested = False
        self._failure: BaseException | None = None

    async def live(self, component: Component) -> int:
        """Start, work until told to stop, drain; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.set_exception_handler(self._on_failure)
        keys = self._run.keys
        sockets = Sockets(None if keys is None else keys.pair)
        door = Authenticator(loop, sockets, self._door(), self._on_refusal)
        code = 0
        try:
            async with asyncio.TaskGroup() as tasks:
                await refuse_strangers(sockets)
                self._tested = True
                bus = self._bus(component, sockets, tasks)
                try:
                    await self._unless_hurried(self._work(component, bus))
                finally:
                    bus.cancel()
                    bus.close()
        except* Exception as group:  # noqa: BLE001  # whatever ends a node is logged once, here
            code = self._ended(_first(group))
        door.close()
        await loop.run_in_executor(None, sockets.close)
        if self._lock.is_current:  # else they are of the run that took our name
            self._directory.withdraw(self._node)
        self._log.info("stopped", exit_code=code)
        self._log.close()
        return code

    def _ended(self, error: BaseException) -> int:
        """Log what ended the node; return the exit code that tells it."""
        match error:
            case ConfigError():
                sys.stderr.write(f"genesis {self._node}: {error}\n")
                self._log.error("configuration", why=str(error))
                return EXIT_CONFIG
            case TooSlow():
                self._log.error("too_slow", why=str(error))
                return EXIT_TOO_SLOW
            case AlreadyRunning():
                self._log.error("superseded", why=str(error))
                return EXIT_ALREADY_RUNNING
            case StorageError():
                self._log.failure("storage_failed", error)
            case _:
                self._log.failure("crashed", error)
        return EXIT_CRASHED

    def _bus(self, component: Component, sockets: Sockets, tasks: asyncio.TaskGroup) -> Bus:
        bus = Bus(component, self._run, sockets, self._directory, tasks)
        component.attach(bus)
        return bus

    async def _work(self, component: Component, bus: Bus) -> None:
        bus.start()
        bus.spawn(self._scan(bus), "scan")
        bus.spawn(component.listen_events(), "listen_events")
        await self._prepare(component)
        bus.state = "ready"
        bus.spawn(self._beat(bus), "heartbeat")
        bus.spawn(self._register(bus), "register")
        bus.spawn(self._measure(bus), "performance")
        self._log.info("started", pid=bus.record.pid)
        gc.collect()
        gc.freeze()  # what lives since the start need not be looked at again
        await self._stop.wait()
        if self._failure is not None:
            raise self._failure
        await self._drain(component, bus)

    async def _prepare(self, component: Component) -> None:
        """Let the component start. Raises TimeoutError where that has no end."""
        limit_s = self._mesh.start_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await component.on_start()
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"on_start took longer than {limit_s:g} s") from None
            raise

    def _on_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the node: what a plain handler raised is a bug, and its state cannot be trusted."""
        self._failure = context.get("exception") or RuntimeError(context["message"])
        self._stop.set()

    def _on_signal(self) -> None:
        """Begin to stop; told so again, leave out what takes time: the journal is whole."""
        patience = self._patience
        if self._stop.is_set() and patience is not None and not patience.expired():
            patience.reschedule(0.0)
        self._stop.set()

    async def _unless_hurried(self, work: Coroutine[Any, Any, None]) -> None:
        """Await *work* until a second signal."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._patience = patience
                await work
        except TimeoutError:
            if not patience.expired():
                raise
            self._log.info("drain_cut_short", why="a second signal")
        finally:
            self._patience = None

    async def _drain(self, component: Component, bus: Bus) -> None:
        """Finish what was begun, save, say goodbye. What takes half of drain_s is given up."""
        bus.drain(self._mesh.drain_s)
        if not await _holds(lambda: bus.idle, self._mesh.drain_s / 2):
            self._log.info("drain_cut_short", why="requests are under way")
        try:
            async with asyncio.timeout(self._mesh.drain_s / 2):
                await component.on_stop()
                if self._node != COORDINATOR:
                    body = Bye(self._node, self._epoch)
                    await component.call("mesh.bye", body, type(None), timeout_s=0.3)
        except (TimeoutError, MeshError) as error:
            self._log.info("drain_cut_short", why=repr(error))
        await _holds(lambda: bus.left, LEAVE_S)  # what they had sent by then has been refused

    def _door(self) -> Door:
        keys = self._run.keys
        whois = RunLocks(self._directory.base).holder_of
        return Door(whois) if keys is None else Door(whois, keys.node_of)

    def _on_refusal(self, kind: str, why: str) -> None:
        if self._tested:  # the stranger of the self-test is refused as it should be
            self._log.warning("peer_refused" if kind == "refused" else "door_failed", why=why)

    async def _scan(self, bus: Bus) -> None:
        keys, record = self._run.keys, bus.record
        file = self._directory.record_of(self._node)
        premises = Premises(self._lock, file, record.endpoints)
        premises.note()
        while True:
            if keys is not None and keys.refresh():
                bus.rebind()
                premises.note()
            self._directory.make()  # nobody opens it to others while we live
            if lost := premises.lost():
                self._move_in(bus, lost)
                premises.note()
            bus.peers.scan()
            await asyncio.sleep(SCAN_S)

    def _move_in(self, bus: Bus, lost: list[str]) -> None:
        """Make anew what others find us by. Raises AlreadyRunning if another has our name."""
        self._log.error("premises_lost", files=", ".join(lost))
        self._lock.renew(self._epoch, self._directory.make)
        if lost != [self._directory.record_of(self._node).name]:
            bus.rebind()
        self._directory.publish(bus.record)

    async def _beat(self, bus: Bus) -> None:
        loop = asyncio.get_running_loop()
        while True:
            bus.beat()
            if (slow := bus.paces.tick(loop.time())) is not None:
                raise TooSlow(f"events of {slow} were too old for too long")
            pause = self._mesh.heartbeat_ms / 1000 * (0.9 + 0.2 * random.random())  # noqa: S311  # jitter
            due = loop.time() + pause
            await asyncio.sleep(pause)
            bus.health.lag(loop.time() - due)

    async def _register(self, bus: Bus) -> None:
        """Tell the coordinator of us, again and again: it may be new, or have given us up."""
        if self._node == COORDINATOR:
            return
        while True:
            body = Register(bus.record, bus.mode.value, bus.mode_epoch)
            try:
                payload = envelope.encode_value(body)
                reply = await bus.peers.call("mesh.register", payload, 1.0, COORDINATOR)
                bus.learn_mode(envelope.decode_value(reply, ModeChange))
            except MeshError as error:
                self._log.debug("register", why=str(error))
            await asyncio.sleep(self._mesh.register_ms / 1000 * (0.9 + 0.2 * random.random()))  # noqa: S311  # jitter

    async def _measure(self, bus: Bus) -> None:
        while True:
            await asyncio.sleep(PERFORMANCE_S)
            health = bus.health
            self._log.performance(
                events_in=health.events_in,
                events_out=health.events_out,
                latency_p50_us=health.latency_us(0.5),
                latency_p99_us=health.latency_us(0.99),
                latency_p999_us=health.latency_us(0.999),
                lag_p99_us=health.lag_p99_us(),
                inflight=health.inflight,
                drops=health.drops,
                rss_bytes=rss_bytes(),
                **health.figures,
            )


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first single error of a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _holds(condition: Callable[[], bool], within_s: float) -> bool:
    """Wait until *condition* holds, so long at most; return whether it does."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  # of three machines; nobody tells when all are
                await asyncio.sleep(0.01)
    return condition()
