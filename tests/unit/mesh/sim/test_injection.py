"""Injector: every kind of fault does what it is named for, counts, and ends with the healing."""

import pytest

from mesh.sim.config import BACKUP, KINDS
from mesh.sim.eventplane import EventPlane
from mesh.sim.faults import Fault
from tests.unit.mesh.sim.worlds import calm, plane

AIMED = {
    **dict.fromkeys(
        ("slow", "raise", "pause", "write_error", "full", "fsync"), Fault(0, "", "s0")
    ),
    **dict.fromkeys(("retention", "delete", BACKUP, "step"), Fault(0, "", "p0", n=50)),
    "partition": Fault(0, "", n=1),
}


def hit(kind: str, *, for_s: float = 1.0, n: int = 1, **changes: str) -> EventPlane:
    """Return a plane in which a fault of *kind* has just happened."""
    model = plane()
    aim = AIMED.get(kind, Fault(0, "", "p0", "s0"))
    who, to = changes.get("who", aim.who), changes.get("to", aim.to)
    model.apply(0, Fault(model.world.now, kind, who, to, for_s, aim.n or n))
    return model


@pytest.mark.parametrize("kind", [*KINDS, BACKUP])
def test_every_kind_takes_effect_and_counts_once(kind: str) -> None:
    model = hit(kind, n=2)
    model.world.until(8.0)
    assert model.world.took == {0}
    assert model.world.counters[f"fault {kind}"] == 1


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "step"])
def test_what_aims_at_nobody_does_not_count(kind: str) -> None:
    model = plane(calm(memory=(True,)))
    who, to = ("p9", "s9") if kind not in ("slow", "raise", "pause", "kill") else ("s0", "")
    model.subscribers["s0"].process.die()
    if kind in ("retention", "delete", "partition", "kill_twice"):
        who, to = "p0", ""
        model.publishers["p0"].process.die()
    model.apply(0, Fault(model.world.now, kind, who, to, 1.0, 0 if kind == "partition" else 1))
    assert not model.world.took


@pytest.mark.parametrize("kind", [*KINDS, BACKUP])
def test_after_the_healing_all_comes_right(kind: str) -> None:
    model = hit(kind, for_s=8.0, n=2)
    model.world.until(5.0)
    model.heal()
    model.world.until(model.horizon_s)
    model.finish()


def test_a_cut_ends_after_its_time() -> None:
    model = hit("cut", for_s=2.0)
    pipe = model.net.pipes["p0", "s0", "e"]
    model.world.until(4.9)
    assert not pipe.connected
    model.world.until(5.5)
    assert pipe.connected


def test_a_partition_cuts_pairs_of_both_sides_only() -> None:
    model = plane(calm(subscribers=2, memory=(False, False)))
    model.apply(0, Fault(3.0, "partition", for_s=1.0, n=0b101))  # p0 with s1, s0 alone
    assert model.net.routes["p0", "s0"].cuts == 1
    assert model.net.routes["p0", "s1"].cuts == 0


def test_a_killed_process_is_back_after_a_while_and_killed_again() -> None:
    model = hit("kill_twice", for_s=1.0)
    process = model.publishers["p0"].process
    assert not process.alive
    model.world.until(8.0)
    assert (process.alive, process.run) == (True, 3)


def test_a_process_whose_write_failed_dies_and_recovers() -> None:
    model = hit("write_error")
    model.world.until(8.0)
    assert model.subscribers["s0"].process.run == 2


def test_an_old_copy_takes_its_part_of_the_journal() -> None:
    model = hit(BACKUP)
    log_id, last = next(iter(model.truth.cuts.items()))
    assert last == len(model.truth.logs[log_id]) // 2


def test_a_step_moves_one_wall_clock() -> None:
    model = hit("step")
    wall_ns = model.publishers["p0"].process.wall_ns()
    assert wall_ns - model.subscribers["s0"].process.wall_ns() > 40 * 10**9
