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
from functools import partial
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
from mesh.runtime.component import Component
from mesh.runtime.handlers import REQUEST_TIMEOUT_S, request
from mesh.runtime.identity import check_name
from mesh.runtime.keys import load_access
from mesh.runtime.settings import Paths, load_paths
from mesh.sim.memory.disk import Disk, Log
from mesh.sim.memory.network import Network
from mesh.sim.memory.places import Line, MemoryDirectory
from mesh.sim.memory.process import SimProcess

T = TypeVar("T")

JOIN_S: Final = 0.6  # by then everybody has found a new node: two scans and a probe
START_S: Final = 60.0  # that on_start may take
WAIT_S: Final = 600.0  # that a call of a test may take
TURNS_MAX: Final = 100_000  # at one instant; more is a loop without end
SAID_MAX: Final = 100_000
TEST: Final = "test"  # the test's own node, and the role of all its nodes
_VOICES: Final = {EPHEMERAL: TEST, LASTVALUE: "test.lastvalue", DURABLE: "test.durable"}
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
        self._directory = MemoryDirectory()
        self._processes: dict[str, SimProcess] = {}
        self._disks: dict[str, Disk] = {}
        self._logs: dict[str, list[Line]] = {}
        self._said: deque[tuple[str, bytes]] = deque(maxlen=SAID_MAX)
        self._stubs: dict[str, str] = {}  # method to the node that answers it
        self._mode_epoch = 0
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Begin, in NORMAL mode."""
        time, opened = self._network.time, self._opened
        opened.enter_context(clock.simulated(time.wall_ns, time.monotonic_s))
        opened.callback(random.setstate, random.getstate())
        random.seed(self._seed)
        home = Path(tempfile.mkdtemp(prefix="loopback-"))
        opened.callback(shutil.rmtree, home, ignore_errors=True)
        config = load_paths().config
        self._paths = Paths(home, home, home, home, home / "checkpoints", config)
        access = load_access(self._paths)
        self._access = Access({**access.roles, TEST: _ALL})
        for kind, node in _VOICES.items():
            self.start(node, _Outsider(kind, self._schemas))
        self.set_mode(NORMAL)
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what still runs; the disks are gone."""
        with self._opened:
            for node in list(self._processes):
                self.kill(node)

    @property
    def me(self) -> Component:
        """Return the test's own component; its coroutines are for :meth:`run`."""
        return self._processes[TEST].component

    # Nodes.

    def start(self, node: str, component: Component) -> None:
        """Start *component* as *node*; return once it is ready and everybody has found it.

        A node that ran before finds its journal and checkpoints. Raises what on_start raises,
        LocalProtocolError for a node that runs, and if it is not ready after 60 s.
        """
        if check_name(node) in self._processes:
            raise LocalProtocolError(f"{node} already runs")
        disk = self._disks.setdefault(node, Disk(Log(f"{self._dice.getrandbits(64):016x}")))
        process = self._processes[node] = SimProcess(
            node,
            component,
            disk,
            network=self._network,
            directory=self._directory,
            paths=self._paths,
            access=self._access,
            dice=self._dice,
            said=partial(self._hear, node),
        )
        self._schemas.update(component.schemas)
        self._until(lambda: process.ready, START_S, f"{node} is not ready")
        self.advance(JOIN_S)

    def kill(self, node: str) -> None:
        """Kill *node* as by SIGKILL: it says nothing more, its record and its disk stay."""
        process = self._processes.pop(node)
        self._keep_log(process)
        process.kill()

    def stop(self, node: str) -> None:
        """Stop *node* as by SIGTERM; return once it has drained and on_stop has ended."""
        process = self._processes[node]
        process.stop()
        self._until(lambda: node not in self._processes, START_S, f"{node} does not stop")

    def answer(self, method: str, func: Callable[..., Any], *, kind: str = "") -> None:
        """Let a node of the test's answer *method* by *func*, annotated as a handler is.

        It takes the place of an earlier one. kind: see mesh.runtime.handlers.request.
        """
        node = f"{TEST}.{method}"
        if node in self._processes:
            self.kill(node)
        answerer = type("Answerer", (Component,), {"reply": _handler(method, func, kind)})
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
        component = self._processes[_VOICES[kind]].component
        if kind == DURABLE:
            self._run_on(_VOICES[kind], component.commit((topic, value)))
        else:
            self._run_on(_VOICES[kind], _saying(component, topic, value))
        self.advance(0.01)

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
        """Return the reply of whoever serves *method*; see Component.call. Raises MeshError."""
        called = self.me.call(method, arg, kind, timeout_s=timeout_s, target=target, key=key)
        return self.run(called)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of :attr:`me` to its end, letting time pass; return what it does.

        Raises LocalProtocolError if that takes ten minutes.
        """
        return self._run_on(TEST, coro)

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises what ended a node meanwhile."""
        time = self._network.time
        ends = time.now + seconds
        while self._turn(ends):
            pass
        time.now = ends

    def said(self, prefix: str, kind: Any = None) -> list[Said]:
        """Return what nodes published on topics that begin with *prefix*, in order.

        Events of the mesh itself and the test's own are left out. Values of a declared schema
        are typed; kind: type of all others, by default whatever MessagePack holds.
        """
        types = {number: declared for declared, number in self._schemas.items()}
        return [
            Said(event.topic, envelope.decode_value(event.payload, types.get(event.schema, kind)))
            for _, frame in self._said
            for event in envelope.decode_events(frame)
            if event.topic.startswith(prefix)
        ]

    def logged(self, node: str) -> list[Line]:
        """Return what *node* logged, in all its runs."""
        process = self._processes.get(node)
        return [*self._logs.get(node, ()), *(process.log.lines if process else ())]

    def dead_letters(self, node: str) -> tuple[DeadLetter, ...]:
        """Return the events that *node* could not apply."""
        return tuple(self._disks[node].log.dead)

    # Time.

    def _run_on(self, node: str, coro: Coroutine[Any, Any, T]) -> T:
        task = self._processes[node].loop.create_task(coro)
        try:
            self._until(task.done, WAIT_S, "the call does not end")
        except BaseException:
            task.cancel()
            raise
        return task.result()

    def _until(self, condition: Callable[[], bool], limit_s: float, why: str) -> None:
        ends = self._network.time.now + limit_s
        while not condition():
            if not self._turn(ends):
                raise LocalProtocolError(f"{why} after {limit_s:g} s")

    def _turn(self, ends: float) -> bool:
        """Do the next thing there is to do until *ends*; return False if there is none.

        Of processes that are ready at one instant the dice choose.
        """
        time = self._network.time
        dues = {process: process.loop.due for process in self._processes.values()}
        soonest = [due for due in (time.due, *dues.values()) if due is not None]
        now = min(soonest, default=ends)
        if now > ends or not soonest:
            return False
        self._turns = 0 if now > time.now else self._turns + 1
        if self._turns > TURNS_MAX:
            raise LocalProtocolError("time does not pass: a task never waits")
        time.pass_to(now)
        ready = [process for process, due in dues.items() if due is not None and due <= time.now]
        if ready:
            process = self._dice.choice(ready)
            process.loop.turn()
            if process.ended:
                self._bury(process)
        return True

    def _bury(self, process: SimProcess) -> None:
        del self._processes[process.node]
        self._keep_log(process)
        process.loop.close()
        if process.failure is not None:
            raise process.failure

    _turns = 0

    def _keep_log(self, process: SimProcess) -> None:
        self._logs.setdefault(process.node, []).extend(process.log.lines)

    def _hear(self, node: str, frame: bytes) -> None:
        if node.partition(".")[0] != TEST and frame[:1] not in (b"\xff", b"!"):
            self._said.append((node, frame))


class _Outsider(Component):
    """A node of the test's, which says whatever it is told to."""

    rebuilds = False

    def __init__(self, kind: DeliveryClass, schemas: Mapping[type, int]) -> None:
        super().__init__()
        self.says = {"": kind}  # type: ignore[misc]  # each instance says another class
        self.schemas = schemas  # type: ignore[misc]  # as the test declares


def _handler(method: str, func: Callable[..., Any], kind: str) -> Any:
    """Return *func* as a marked method that takes no self."""

    def made(*args: Any) -> Any:
        return func(*args)

    made.__wrapped__ = func  # type: ignore[attr-defined]  # what its parameters are
    made.__annotations__ = getattr(func, "__annotations__", {})
    return staticmethod(request(method, kind=kind)(made))


async def _saying(component: Component, topic: str, value: object) -> None:
    component.emit(topic, value)
