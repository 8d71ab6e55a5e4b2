"""Config: every seed has its own shape and its own faults, and always the same ones."""

from random import Random

import pytest

from mesh.protocol import catchup, outbound
from mesh.sim.config import BACKUP, HEAL_S, KINDS, draw, limits, schedule
from tests.unit.mesh.sim.worlds import calm

SEEDS = range(300)


def test_the_same_dice_draw_the_same() -> None:
    assert draw(Random(5)) == draw(Random(5))
    assert schedule(draw(Random(5)), Random(6)) == schedule(draw(Random(5)), Random(6))


def test_configurations_differ_and_fit_together() -> None:
    drawn = [draw(Random(seed)) for seed in SEEDS]
    assert len({repr(config) for config in drawn}) == len(drawn)
    assert all(len(config.memory) == config.subscribers for config in drawn)
    assert all(config.kinds for config in drawn)


def test_schedules_are_in_order_end_before_the_healing_and_know_every_kind() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        config = draw(Random(seed))
        faults = schedule(config, Random(seed))
        times = [fault.at_s for fault in faults]
        assert times == sorted(times)
        assert times[-1] < HEAL_S
        assert {fault.kind for fault in faults} <= {*config.kinds, "lose"}
        kinds |= {fault.kind for fault in faults}
    assert kinds == {*KINDS, BACKUP}


def test_limits_hold_for_a_while_only() -> None:
    before = outbound.HEADS_PER_PAGE, catchup.WINDOW
    with limits(calm(limits={"HEADS_PER_PAGE": 3, "WINDOW": 1})):
        assert (outbound.HEADS_PER_PAGE, catchup.WINDOW) == (3, 1)
    assert before == (outbound.HEADS_PER_PAGE, catchup.WINDOW)


def broken_run() -> None:
    with limits(calm(limits={"WINDOW": 1})):
        raise ZeroDivisionError


def test_limits_end_with_a_run_that_fails() -> None:
    before = catchup.WINDOW
    with pytest.raises(ZeroDivisionError):
        broken_run()
    assert before == catchup.WINDOW
