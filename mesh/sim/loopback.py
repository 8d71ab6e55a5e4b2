"""LoopbackMesh: a whole mesh in one process and in simulated time, to test nodes with.

The nodes run as they are, on the runtime as it is; what is simulated is what surrounds a
process: clock, loop, sockets, disk. No test waits, and the same seed gives the same run.

Never here: real time, sockets, files but checkpoints, which are the nodes' own.
"""

import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from mesh import clock
from mesh.errors import LocalProtocolError, MeshError
from mesh.protocol import envelope, topics
from mesh.protocol.access import Access, Grants
from mesh.protocol.commits import DeadLetter
from mesh.protocol.control import (
    DURABLE,
    EPHEMERAL,
    LASTVALUE,
    SCHEMAS,
    DeliveryClass,
    ModeChange,
)
from mesh.protocol.mode import NORMAL, SystemMode
from mesh.runtime.circuit import Breakers, CircuitBreaker, Permit
from mesh.runtime.component import Component
from mesh.runtime.handlers import REQUEST_TIMEOUT_S, request
from mesh.runtime.identity import check_name
from mesh.runtime.keys import load_access
from mesh.runtime.settings import Paths, load_paths
from mesh.sim.memory.disk import Disk, Log
from mesh.sim.memory.network import Network
from mesh.sim.memory.places import Line, MemoryDirectory
from mesh.sim.memory.process import SimProcess, World
from mesh.sim.memory.schedule import Schedule

T = TypeVar("T")

JOIN_S: Final = 0.6  # by then everybody has found a new node: two scans and a probe
START_S: Final = 60.0  # that on_start may take
WAIT_S: Final = 600.0  # that a call of a test may take
ARRIVAL_S: Final = 0.01  # more than the slowest wire takes
SAID_MAX: Final = 100_000
TEST: Final = "test"  # the test's own node, and the role of all its nodes
_VOICES: Final = {EPHEMERAL: TEST, LASTVALUE: "test.lastvalue", DURABLE: "test.durable"}
_OF_THE_MESH: Final = (b"\xff", b"!")  # first letters of HEADs and of its own topics
_ALL: Final = Grants(sub=("",), pub=("",), call=("",))


class Said(NamedTuple):
    """What a node published."""

    topic: str
    value: Any


class LoopbackMesh:
    """A mesh for a test: start nodes, speak to them, let time pass, see what they said.

    Use it as a context manager, in a plain function: it runs event loops of its own. What ends
    a node, a failed task or a raising handler, is raised by whatever lets time pass. Roles are
    those of config/access.toml; the test itself may say, hear and call everything.

    schemas: payload types that the test publishes, to their numbers on the wire.
    """

    def __init__(self, seed: int = 0, schemas: Mapping[type, int] | None = None) -> None:
        self._seed, self._dice = seed, random.Random(seed)  # noqa: S311  # a simulation
        self._schemas: dict[type, int] = {**SCHEMAS, **(schemas or {})}
        self._network = Network(seed)
        self._schedule = Schedule(self._network.time, self._dice, self._keep_log)
        self._disks: dict[str, Disk] = {}
        self._logs: dict[str, list[Line]] = {}
        self._said: deque[bytes] = deque(maxlen=SAID_MAX)
        self._mode_epoch = 0
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Begin, in NORMAL mode."""
        time = self._network.time
        with ExitStack() as opened:
            opened.enter_context(clock.simulated(time.wall_ns, time.monotonic_s))
            opened.callback(random.setstate, random.getstate())
            random.seed(self._seed)  # the runtime's dice: jitter, choice among instances
            home = Path(tempfile.mkdtemp(prefix="loopback-"))
            opened.callback(shutil.rmtree, home, ignore_errors=True)
            opened.callback(self._kill_all)
            self._world = self._made(home)
            for kind, node in _VOICES.items():
                self.start(node, _Outsider(kind, self._schemas))
            bus = self._schedule.processes[TEST].bus
            assert bus is not None, "it has started"
            bus.peers.calling.breakers = Breakers(_AlwaysClosed)
            self.set_mode(NORMAL)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs; the disks are gone."""
        self._opened.close()

    @property
    def me(self) -> Component:
        """Return the test's own component; its coroutines are for :meth:`run`."""
        return self._schedule.processes[TEST].component

    # Nodes.

    def start(self, node: str, component: Component) -> None:
        """Start *component* as *node*; return once it is ready and everybody has found it.

        A node that ran before finds its journal and checkpoints. Raises what on_start raises,
        LocalProtocolError for a node that runs, TimeoutError if it is not ready after 60 s.
        """
        if check_name(node) in self._schedule.processes:
            raise LocalProtocolError(f"{node} already runs")
        disk = self._disks.setdefault(node, Disk(Log(f"{self._dice.getrandbits(64):016x}")))
        process = SimProcess(node, component, disk, self._world)
        self._schedule.processes[node] = process
        self._schemas.update(component.schemas)
        self._schedule.until(lambda: process.ready, START_S, f"{node} is not ready")
        self.advance(JOIN_S)

    def kill(self, node: str) -> None:
        """Kill *node* as by SIGKILL: it says nothing more, its record and its disk stay.

        A transaction on its way to the disk is there or not, as the dice will have it.
        """
        process = self._schedule.processes.pop(node)
        self._keep_log(process)
        process.kill()

    def stop(self, node: str) -> None:
        """Stop *node* as by SIGTERM; return once it has drained and on_stop has ended."""
        process = self._schedule.processes[node]
        process.stop()
        self._schedule.until(lambda: process.ended, START_S, f"{node} does not stop")

    def answer(self, method: str, func: Callable[..., Any], *, kind: str = "") -> None:
        """Let a node of the test's answer *method* by *func*, annotated as a handler's is.

        It takes an argument and, if it wants, the caller's name. It replaces an earlier one.
        kind: see mesh.runtime.handlers.request.
        """
        node = f"{TEST}.{method}"
        if node in self._schedule.processes:
            self.kill(node)
        reply = staticmethod(request(method, kind=kind)(func))
        answerer = type("Answerer", (Component,), {"reply": reply})
        self.start(node, answerer())

    def refuse(self, method: str, error: MeshError, *, kind: str = "") -> None:
        """Let every request for *method* fail with *error*."""

        def refusing(_: object) -> None:
            raise error

        self.answer(method, refusing, kind=kind)

    def set_mode(self, mode: SystemMode) -> None:
        """Tell everybody of a mode, as the coordinator does."""
        self._mode_epoch += 1
        now = self._network.time.wall_ns()
        change = ModeChange(mode.value, self._mode_epoch, 1, "a test", now, TEST)
        self.publish(topics.MODE, change, LASTVALUE)

    def fill_disk(self, node: str, *, full: bool = True) -> None:
        """Let the disk of *node* be full, or have space again."""
        self._disks[node].full = full

    # Speaking and hearing.

    def publish(self, topic: str, value: object, kind: DeliveryClass = EPHEMERAL) -> None:
        """Publish an event as if a node had; return once whoever hears it has got it.

        kind: EPHEMERAL, LASTVALUE or DURABLE. Handlers that wait for something may still run.
        """
        process = self._schedule.processes[_VOICES[kind]]
        self._schedule.run_in(process, _saying(process.component, kind, topic, value), WAIT_S)
        self.advance(ARRIVAL_S)

    def call(
        self,
        method: str,
        arg: object,
        kind: type[T],
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        target: str | None = None,
        key: str | None = None,
    ) -> T:
        """Return the reply of whoever serves *method*; see Component.call. Raises MeshError.

        It is tried again where that does no harm, as any node's call is; but no breaker comes
        between, for a test wants to see what the callee says.
        """
        called = self.me.call(method, arg, kind, timeout_s=timeout_s, target=target, key=key)
        return self.run(called)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of :attr:`me` to its end, letting time pass; return what it does.

        Raises TimeoutError if that takes ten minutes.
        """
        return self._schedule.run_in(self._schedule.processes[TEST], coro, WAIT_S)

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises what ended a node meanwhile."""
        self._schedule.advance(seconds)

    def said(self, prefix: str, kind: Any = None) -> list[Said]:
        """Return what nodes published on topics that begin with *prefix*, in order.

        Events of the mesh itself and the test's own are left out. Values of a declared schema
        are typed; kind: type of all others, by default whatever MessagePack holds.
        """
        types = {number: declared for declared, number in self._schemas.items()}
        return [
            Said(event.topic, envelope.decode_value(event.payload, types.get(event.schema, kind)))
            for frame in self._said
            for event in envelope.decode_events(frame)
            if event.topic.startswith(prefix)
        ]

    def logged(self, node: str) -> list[Line]:
        """Return what *node* logged, in all its runs."""
        process = self._schedule.processes.get(node)
        return [*self._logs.get(node, ()), *(process.log.lines if process else ())]

    def dead_letters(self, node: str) -> tuple[DeadLetter, ...]:
        """Return the events that *node* could not apply."""
        return tuple(self._disks[node].log.dead)

    def _made(self, home: Path) -> World:
        paths = Paths(home, home, home, home, home / "checkpoints", load_paths().config)
        access = Access({**load_access(paths).roles, TEST: _ALL})
        return World(self._network, MemoryDirectory(), paths, access, self._dice, self._hear)

    def _kill_all(self) -> None:
        for node in list(self._schedule.processes):
            self.kill(node)

    def _keep_log(self, process: SimProcess) -> None:
        self._logs.setdefault(process.node, []).extend(process.log.lines)

    def _hear(self, node: str, frame: bytes) -> None:
        if node.partition(".")[0] != TEST and frame[:1] not in _OF_THE_MESH:
            self._said.append(frame)


class _AlwaysClosed(CircuitBreaker):
    """The breaker of the test's own calls: nothing opens it."""

    def record(self, permit: Permit, *, succeeded: bool) -> bool:
        """Learn nothing."""
        return self.give_back(permit)


class _Outsider(Component):
    """A node of the test's, which says whatever it is told to."""

    rebuilds = False

    def __init__(self, kind: DeliveryClass, schemas: Mapping[type, int]) -> None:
        super().__init__()
        self.says = {"": kind}  # type: ignore[misc]  # each instance says another class
        self.schemas = schemas  # type: ignore[misc]  # as the test declares


async def _saying(component: Component, kind: DeliveryClass, topic: str, value: object) -> None:
    if kind == DURABLE:
        await component.commit((topic, value))
    else:
        component.emit(topic, value)
