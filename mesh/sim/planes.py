"""Planes: one world with events, requests or both, on the same nodes, network and disks.

The world that `genesis sim` runs by default.

Never here: either plane.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

import msgspec

from mesh.sim import config as events
from mesh.sim import requestconfig as requests
from mesh.sim.config import Config
from mesh.sim.eventplane import EventPlane
from mesh.sim.faults import Fault
from mesh.sim.requestconfig import REQUEST_KINDS, RequestConfig
from mesh.sim.requestplane import RequestPlane
from mesh.sim.world import World

EVENTS, REQUESTS, BOTH = "events", "requests", "both"
SHARED: Final = (*events.NODE_KINDS, *events.DISK_KINDS, "cut", "clog", "partition")


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One world. requests: None for a world of events alone."""

    events: Config
    requests: RequestConfig | None = None


def build(world: World) -> "Planes":
    """Return the planes of *world*."""
    shape = draw(world) if world.config is None else msgspec.convert(world.config, Shape)
    return Planes(world, shape)


def draw(world: World) -> Shape:
    """Return a shape: the events of a seed are those that it would have alone."""
    config = events.draw(world.dice("config"))
    dice = world.dice("planes")
    which = dice.choice((EVENTS, REQUESTS, BOTH))
    if which == EVENTS:
        return Shape(config)
    # An old copy of a journal takes no more writes: nothing could be served from it.
    kinds = tuple(kind for kind in config.kinds if kind != events.BACKUP)
    if which == REQUESTS:
        kinds = tuple(kind for kind in kinds if kind in SHARED)
    config = msgspec.structs.replace(
        config, kinds=kinds or ("kill",), events=which == BOTH, faults=dice.randint(5, 25)
    )
    return Shape(config, requests.draw(dice, config.subscribers))


class Planes:
    """The model of one run."""

    heal_s, horizon_s = events.HEAL_S, events.HORIZON_S

    def __init__(self, world: World, shape: Shape) -> None:
        self.shape = shape
        self.events = EventPlane(world, shape.events)
        self.requests: RequestPlane | None = None
        if shape.requests is not None:
            self.requests = RequestPlane(world, shape.requests, self.events)

    def settings(self) -> dict[str, Any]:
        """Return the shape, as build() takes it."""
        settings: dict[str, Any] = msgspec.to_builtins(self.shape)
        return settings

    def running(self) -> AbstractContextManager[None]:
        """Let the machines have the limits of this shape."""
        return self._running()

    @contextmanager
    def _running(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.events.running())
            if self.requests is not None:
                stack.enter_context(self.requests.running())
            yield

    def schedule(self) -> tuple[Fault, ...]:
        """Return all that will go wrong, in order."""
        faults = self.events.schedule()
        if self.requests is not None:
            faults = (*faults, *self.requests.schedule())
        return tuple(sorted(faults, key=lambda fault: fault.at_s))

    def start(self) -> None:
        """Start every node."""
        self.events.start()
        if self.requests is not None:
            self.requests.start()

    def apply(self, number: int, fault: Fault) -> None:
        """Let *fault* happen."""
        if fault.kind not in REQUEST_KINDS:
            self.events.apply(number, fault)
        elif self.requests is not None:
            self.requests.apply(number, fault)

    def heal(self) -> None:
        """End all that is still wrong."""
        self.events.heal()
        if self.requests is not None:
            self.requests.heal()

    def finish(self) -> None:
        """Judge what is left after the quiet time."""
        self.events.finish()
        if self.requests is not None:
            self.requests.finish()
