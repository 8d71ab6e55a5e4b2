"""Process: what it had planned dies with it; a pause delays, work queues."""

from mesh.sim.process import DAWN_NS, Process
from tests.unit.mesh.sim.worlds import empty, process


def planned(made: Process, *times: float) -> list[float]:
    seen: list[float] = []
    for when in times:
        made.at(when, lambda: seen.append(made.world.now))
    return seen


def test_plans_are_carried_out_in_time() -> None:
    made = process(empty())
    seen = planned(made, 1.0, 2.0)
    made.world.until(5.0)
    assert seen == [1.0, 2.0]


def test_plans_die_with_their_run() -> None:
    made = process(empty())
    seen = planned(made, 2.0)
    made.die()
    made.begin()
    made.world.until(5.0)
    assert not seen


def test_nothing_of_a_paused_process_runs_until_it_goes_on() -> None:
    made = process(empty())
    seen = planned(made, 1.0, 4.0)
    made.block(3.0)
    made.world.until(5.0)
    assert seen == [3.0, 4.0]


def test_work_waits_for_work_and_a_pause_does_not_add_up() -> None:
    made = process(empty())
    made.busy(1.0)
    made.busy(1.0)
    made.block(1.5)
    assert made.blocked_until == 2.0


def test_a_new_run_is_not_blocked() -> None:
    made = process(empty())
    made.block(9.0)
    made.die()
    made.begin()
    assert (made.run, made.blocked_until) == (2, 0.0)


def test_the_wall_clock_has_an_offset_and_a_rate_of_its_own() -> None:
    made = process(empty())
    made.wall_offset_ns, made.wall_rate = 5, 1.5
    made.world.until(2.0)
    assert made.wall_ns() == DAWN_NS + 5 + 3 * 10**9
