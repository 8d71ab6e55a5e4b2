"""RequestConfig: every seed has its own shape and faults, and always the same ones."""

from random import Random

import msgspec

from mesh.protocol import once
from mesh.sim.config import HEAL_S
from mesh.sim.requestconfig import BY_ID, METHODS, REQUEST_KINDS, draw, limits, schedule
from tests.unit.mesh.sim.requestworlds import CALM

SEEDS = range(200)


def test_the_same_dice_draw_the_same() -> None:
    assert draw(Random(5), 2) == draw(Random(5), 2)
    assert len({repr(draw(Random(seed), 2)) for seed in SEEDS}) == len(SEEDS)


def test_schedules_are_in_order_end_before_the_healing_and_know_every_kind() -> None:
    kinds: set[str] = set()
    for seed in SEEDS:
        config = draw(Random(seed), 2)
        faults = schedule(config, 2, 2, Random(seed))
        times = [fault.at_s for fault in faults]
        assert times == sorted(times)
        assert times[-1] < HEAL_S
        kinds |= {fault.kind for fault in faults}
    assert kinds == set(REQUEST_KINDS)


def test_limits_hold_for_a_while_only() -> None:
    before = once.KEEP_S
    with limits(msgspec.structs.replace(CALM, limits={"KEEP_S": 7.0})):
        assert once.KEEP_S == 7.0
    assert before == once.KEEP_S


def test_methods_are_known_by_number_and_limits_are_those_of_a_server() -> None:
    assert len(BY_ID) == len(METHODS)
    assert (CALM.serves.window, CALM.serves.queue_max) == (CALM.window, CALM.queue_max)
