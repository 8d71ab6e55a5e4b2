"""World: virtual time, a heap of events, dice per concern, and what a run has to tell.

A run is a function of (seed, schedule): faults for two thirds of the horizon, then heal, then
everything must come right.

Never here: networks, disks, what is simulated.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from struct import Struct
from typing import Any, Final, Protocol, TypeAlias

from mesh.errors import MeshError
from mesh.sim.faults import Fault

STEPS_MAX: Final = 400_000  # a run that never ends is a violation too
_STAMP: Final = Struct("<d")


class Violation(AssertionError):
    """A promise was broken. invariant: its id."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant, self.detail = invariant, detail


@dataclass(frozen=True, slots=True)
class Broken:
    """One broken promise of a run. at_s: virtual."""

    invariant: str
    detail: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has to tell. faults: how many took effect; counters: what happened how often.

    (seed, schedule, config) is all that it takes to run it again.
    """

    seed: int
    events: int
    faults: int
    violations: tuple[Broken, ...]
    trace_sha256: str
    counters: dict[str, int]
    schedule: tuple[Fault, ...]
    config: dict[str, Any]


class Model(Protocol):
    """What is simulated. schedule() is asked for before time 0, and only if none was given;
    settings() is its shape, running() what must hold while the world runs."""

    heal_s: float
    horizon_s: float

    def settings(self) -> dict[str, Any]: ...

    def running(self) -> AbstractContextManager[None]: ...

    def schedule(self) -> tuple[Fault, ...]: ...

    def start(self) -> None: ...

    def apply(self, number: int, fault: Fault) -> None: ...

    def heal(self) -> None: ...

    def finish(self) -> None: ...


Build: TypeAlias = Callable[["World"], Model]


@dataclass(slots=True)
class World:
    """Run what *build* makes of this world. config: for build, as a saved run kept it."""

    seed: int
    build: Build
    faults: tuple[Fault, ...] | None = None
    config: Any = None
    now: float = 0.0
    steps: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    took: set[int] = field(default_factory=set)
    story: Callable[[str], object] | None = None  # told what happens, for people
    _heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = field(
        default_factory=list
    )
    _count: int = 0
    _sha: Any = field(default_factory=hashlib.sha256)

    def dice(self, stream: str) -> Random:
        """Return the dice of one concern: without its faults the others fall alike."""
        return Random(f"{self.seed}:{stream}")  # noqa: S311  # must repeat, keeps no secret

    def at(self, when: float, call: Callable[..., object], *args: Any) -> None:
        """Call at virtual time *when*, in order of asking among equals."""
        self._count += 1
        heappush(self._heap, (when, self._count, call, args))

    def note(self, data: bytes) -> None:
        """Make *data* part of the trace."""
        self._sha.update(_STAMP.pack(self.now))
        self._sha.update(data)

    def tell(self, *words: object) -> None:
        """Tell people what happens, if somebody listens."""
        if self.story is not None:
            self.story(f"{self.now:10.6f} " + " ".join(map(str, words)))

    def effective(self, number: int, kind: str) -> None:
        """Learn that fault *number* of the schedule took effect."""
        if number not in self.took:
            self.took.add(number)
            self.counters[f"fault {kind}"] += 1

    def run(self) -> Report:
        """Run to the horizon or to the first broken promise."""
        broken: tuple[Broken, ...] = ()
        schedule: tuple[Fault, ...] = ()
        config: dict[str, Any] = {}
        try:
            model = self.build(self)
            config = model.settings()
            schedule = model.schedule() if self.faults is None else self.faults
            with model.running():
                self._play(model, schedule)
        except Violation as violation:
            broken = (Broken(violation.invariant, violation.detail, self.now),)
        except AssertionError as error:
            broken = (Broken("machine-check", _where(error), self.now),)
        except (MeshError, LookupError, ValueError, TypeError, ArithmeticError) as error:
            broken = (Broken("crash", _where(error), self.now),)
        self.note(repr(broken).encode())
        return Report(
            self.seed,
            self.steps,
            len(self.took),
            broken,
            self._sha.hexdigest(),
            dict(sorted(self.counters.items())),
            schedule,
            config,
        )

    def _play(self, model: Model, schedule: tuple[Fault, ...]) -> None:
        for number, fault in enumerate(schedule):
            if fault.at_s < model.heal_s:
                self.at(fault.at_s, model.apply, number, fault)
        self.at(model.heal_s, model.heal)
        model.start()
        self.until(model.horizon_s)
        model.finish()

    def until(self, horizon_s: float) -> None:
        """Let virtual time pass."""
        heap = self._heap
        while heap and heap[0][0] <= horizon_s:
            self.now, _, call, args = heappop(heap)
            self.steps += 1
            call(*args)
            if self.steps > STEPS_MAX:
                raise Violation("spin", f"more than {STEPS_MAX} events")
        self.now = horizon_s


def _where(error: BaseException) -> str:
    """Return the error and the line it comes from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code if trace is not None else None
    place = f"{code.co_name}:{trace.tb_lineno}" if code is not None and trace is not None else ""
    return f"{type(error).__name__} {error} in {place}"
