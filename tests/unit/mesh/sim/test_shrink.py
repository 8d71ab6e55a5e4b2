"""Shrink: of a long schedule there is left what breaks the promise, and no more."""

from mesh.sim.faults import Fault
from mesh.sim.shrink import Schedule, ddmin, shorten, shrink

LONG = tuple(Fault(number + 0.123, "cut", for_s=4.0, n=number) for number in range(60))


def numbers(schedule: Schedule) -> set[int]:
    return {fault.n for fault in schedule}


def test_two_faults_of_sixty_are_found() -> None:
    assert ddmin(LONG, lambda tried: {7, 41} <= numbers(tried)) == (LONG[7], LONG[41])


def test_a_promise_that_breaks_without_faults_needs_none() -> None:
    assert ddmin(LONG, lambda _: True) == ()


def test_a_schedule_of_which_all_is_needed_stays() -> None:
    assert ddmin(LONG[:5], lambda tried: len(tried) == 5) == LONG[:5]


def test_faults_become_as_short_as_they_can() -> None:
    def breaks(tried: Schedule) -> bool:
        return tried[0].for_s >= 1.0 and tried[1].n == 1

    first, second = shorten(LONG[1:3], breaks)
    assert first.for_s == 4.0  # the second does not break anything yet
    assert second.n == 1
    first, second = shorten((first, second), breaks)
    assert (first.for_s, second.for_s) == (1.0, 0.0)


def test_times_become_rounder() -> None:
    (fault,) = shorten(LONG[:1], lambda tried: tried[0].for_s == 4.0 and tried[0].n == 0)
    assert fault.at_s == 0.1


def test_shrinking_ends_with_its_budget_and_still_breaks() -> None:
    asked: list[Schedule] = []

    def breaks(tried: Schedule) -> bool:
        asked.append(tried)
        return {7, 41} <= numbers(tried)

    left = shrink(LONG, breaks, runs_max=10)
    assert len(asked) == 10
    assert {7, 41} <= numbers(left) < numbers(LONG)
