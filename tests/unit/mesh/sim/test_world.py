"""World: time passes in order, dice fall alike, whatever breaks is told."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from mesh.errors import Invalid
from mesh.sim import world as worlds
from mesh.sim.faults import Fault
from mesh.sim.world import Report, Violation, World

EARLY, LATE = Fault(1.0, "tick"), Fault(7.0, "tock")


class Toy:
    """A model that does one thing every second."""

    heal_s, horizon_s = 6.0, 9.0

    def __init__(self, world: World, deed: Callable[[World], object] = lambda _: None) -> None:
        self.world, self.deed = world, deed
        self.calls: list[str] = []

    def settings(self) -> dict[str, Any]:
        return {"size": 1}

    def running(self) -> nullcontext[None]:
        return nullcontext()

    def schedule(self) -> tuple[Fault, ...]:
        return (EARLY, LATE)

    def start(self) -> None:
        self.world.at(self.world.now + 1, self.start)
        self.deed(self.world)

    def apply(self, number: int, fault: Fault) -> None:
        self.calls.append(fault.kind)
        self.world.note(fault.kind.encode())
        self.world.effective(number, fault.kind)
        self.world.effective(number, fault.kind)

    def heal(self) -> None:
        self.calls.append("heal")

    def finish(self) -> None:
        self.calls.append("finish")


def report(deed: Callable[[World], object] = lambda _: None) -> Report:
    return World(1, lambda world: Toy(world, deed)).run()


def test_time_passes_in_order_and_equals_in_order_of_asking() -> None:
    world, seen = World(1, Toy), list[tuple[float, str]]()
    for when, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "never")):
        world.at(when, lambda name=name: seen.append((world.now, name)))
    world.until(3.0)
    assert seen == [(1.0, "a"), (1.0, "b"), (2.0, "c")]
    assert world.now == 3.0


def test_dice_of_one_concern_fall_alike_and_others_differ() -> None:
    def falls(seed: int, stream: str) -> list[float]:
        dice = World(seed, Toy).dice(stream)
        return [dice.random() for _ in range(3)]

    assert falls(1, "net") == falls(1, "net")
    assert len({tuple(falls(seed, name)) for seed in (1, 2) for name in ("net", "disk")}) == 4


def test_a_run_applies_faults_until_it_heals_and_counts_each_once() -> None:
    toys: list[Toy] = []

    def build(world: World) -> Toy:
        toys.append(Toy(world))
        return toys[-1]

    told = World(1, build).run()
    assert toys[0].calls == ["tick", "heal", "finish"]
    assert (told.faults, told.counters) == (1, {"fault tick": 1})
    assert (told.schedule, told.config, told.violations) == ((EARLY, LATE), {"size": 1}, ())


def test_a_given_schedule_takes_the_place_of_the_models() -> None:
    assert World(1, Toy, (LATE,)).run().faults == 0


def test_the_trace_is_that_of_what_happened_and_when() -> None:
    assert World(1, Toy).run().trace_sha256 == World(2, Toy).run().trace_sha256
    other = World(1, Toy, (Fault(1.5, "tick"),)).run()
    assert other.trace_sha256 != World(1, Toy).run().trace_sha256


def test_a_broken_promise_ends_the_run_and_is_told_with_its_time() -> None:
    def deed(world: World) -> None:
        if world.now >= 4:
            raise Violation("promise", "of something")

    (broken,) = report(deed).violations
    assert (broken.invariant, broken.detail, broken.at_s) == ("promise", "of something", 4.0)


@pytest.mark.parametrize(
    ("error", "invariant"),
    [(AssertionError("no"), "machine-check"), (Invalid("no"), "crash"), (KeyError("no"), "crash")],
)
def test_what_fails_inside_a_machine_is_a_broken_promise(error: Exception, invariant: str) -> None:
    def deed(_: World) -> None:
        raise error

    (broken,) = report(deed).violations
    assert broken.invariant == invariant
    assert "deed:" in broken.detail


def test_a_run_without_end_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "STEPS_MAX", 100)

    def deed(world: World) -> None:
        world.at(world.now, deed, world)

    (broken,) = report(deed).violations
    assert broken.invariant == "spin"


def test_people_are_told_what_happens_if_they_listen() -> None:
    lines: list[str] = []
    world = World(1, Toy, story=lines.append)
    world.tell("p0", "dies")
    World(1, Toy).tell("nobody listens")
    assert lines == ["  0.000000 p0 dies"]
