"""Alarm on both loops: it rings at the earliest of what is due, and only while it is wanted."""

import asyncio

import pytest

from mesh.clock import monotonic_s
from mesh.transport.alarm import Alarm
from tests.unit.mesh.transport.wires import Run, loop, timer


class Bell:
    """A machine that is due at times of our choice; being told the time it forgets the past."""

    def __init__(self) -> None:
        self.due: list[float] = []
        self.rung: list[float] = []
        self.rings = asyncio.Event()
        self.error: Exception | None = None
        self.alarm = Alarm(loop(), self.when, self.ring)

    def when(self) -> float | None:
        return min(self.due, default=None)

    def ring(self) -> None:
        now = monotonic_s()
        found = [at for at in self.due if at <= now]  # none if it rings too early
        self.rung += found
        self.due = [at for at in self.due if at > now]
        self.rings.set()
        if found and self.error is not None:
            raise self.error

    def add(self, at: float) -> None:
        self.due.append(at)
        self.alarm.set()

    async def until(self, *rung: float) -> None:
        while self.rung != list(rung):
            self.rings.clear()
            await self.rings.wait()


def test_rings_at_each_deadline_in_order_nearer_ones_first(run: Run) -> None:
    async def body() -> None:
        bell, now = Bell(), monotonic_s()
        later, sooner, soonest = now + 0.06, now + 0.04, now + 0.02
        for at in (later, sooner, soonest):  # each is nearer than the one it knows
            bell.add(at)
        await bell.until(soonest, sooner, later)
        assert monotonic_s() >= later
        assert bell.due == []

    run(body())


def test_deadline_that_moved_away_rings_at_its_new_time(run: Run) -> None:
    async def body() -> None:
        bell, now = Bell(), monotonic_s()
        bell.add(now + 0.02)
        bell.due = [now + 0.06]
        bell.alarm.set()
        await bell.until(now + 0.06)
        assert monotonic_s() >= now + 0.06

    run(body())


def test_what_is_past_rings_soon_but_not_in_the_call(run: Run) -> None:
    async def body() -> None:
        bell = Bell()
        bell.add(-5.0)
        assert bell.rung == []
        await bell.until(-5.0)

    run(body())


def test_nothing_due_is_no_timer_and_stopped_never_rings(run: Run) -> None:
    async def body() -> None:
        bell = Bell()
        bell.alarm.set()
        bell.alarm.stop()  # there is none to cancel
        other = Bell()
        other.add(monotonic_s() + 0.005)
        other.alarm.stop()
        other.alarm.stop()
        other.add(monotonic_s() + 0.005)
        await timer(0.05)
        assert (bell.rung, other.rung, bell.rings.is_set(), other.rings.is_set()) == (
            [],
            [],
            False,
            False,
        )

    run(body())


def test_may_be_stopped_by_what_it_rings(run: Run) -> None:
    async def body() -> None:
        bell, now = Bell(), monotonic_s()
        bell.due = [now, now + 0.02]

        def ring_once() -> None:
            bell.ring()
            alarm.stop()

        alarm = Alarm(loop(), bell.when, ring_once)
        alarm.set()
        await bell.until(now)
        await timer(0.05)
        assert bell.rung == [now]

    run(body())


@pytest.mark.parametrize("due", [0.0, 0.01])
def test_what_the_machine_raises_reaches_the_loop_and_the_next_look_goes_on(
    run: Run, failures: list[BaseException], due: float
) -> None:
    async def body() -> None:
        bell, now = Bell(), monotonic_s()
        bell.error = ZeroDivisionError()
        bell.add(now + due)
        await bell.until(now + due)
        assert failures == [bell.error]
        failures.clear()
        bell.error = None
        bell.add(now + 0.03)
        await bell.until(now + due, now + 0.03)

    run(body())
