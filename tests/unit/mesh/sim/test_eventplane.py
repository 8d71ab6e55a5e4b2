"""EventPlane: a calm plane keeps every promise; a run is a function of seed and schedule."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from mesh.sim.eventplane import EventPlane, build
from mesh.sim.world import Report, Violation, World
from tests.unit.mesh.sim.worlds import calm, plane

ROOT = Path(__file__).parents[4]
SEEDS = (3, 11)
PROGRAM = """
import sys
from mesh.sim.eventplane import build
from mesh.sim.world import World
for seed in map(int, sys.argv[1:]):
    print(World(seed, build).run().trace_sha256)
"""


def judged(model: EventPlane) -> str:
    """Return the invariant that the end of *model* breaks."""
    with pytest.raises(Violation) as caught:
        model.finish()
    return caught.value.invariant


def traces(hash_seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, SEEDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout.split()


def test_a_plane_without_faults_keeps_every_promise() -> None:
    model = plane(calm(publishers=3, subscribers=3, memory=(False, True, False)), until_s=30.0)
    model.finish()
    assert model.world.counters["gap"] == 0
    assert model.world.counters["frame DELIVER"] > 1_000


def test_a_seed_without_its_faults_keeps_every_promise() -> None:
    report = World(SEEDS[0], build, ()).run()
    assert (report.violations, report.faults) == ((), 0)


def test_a_seed_gives_one_trace_whatever_the_hashes_are() -> None:
    here = [World(seed, build).run().trace_sha256 for seed in SEEDS]
    assert here == traces("1") == traces("2")


def test_a_run_can_be_repeated_from_its_report() -> None:
    def replay(report: Report) -> Report:
        return World(report.seed, build, report.schedule, report.config).run()

    report = World(SEEDS[1], build).run()
    assert report.faults > 0
    assert replay(report) == report


def test_a_fault_less_changes_no_other_dice() -> None:
    report = World(SEEDS[0], build).run()
    world = World(SEEDS[0], build, report.schedule[1:])
    assert world.run().config == report.config


def test_a_configuration_nobody_knows_is_told() -> None:
    (broken,) = World(1, build, (), {"size": 3}).run().violations
    assert broken.invariant == "crash"


def test_a_value_that_differs_in_the_end_is_condemned() -> None:
    model = plane(until_s=30.0)
    model.publishers["p0"].e.last_values.clear()
    assert judged(model) == "last-value"


def test_an_event_nobody_heard_of_is_condemned() -> None:
    model = plane(until_s=30.0)
    model.publishers["p0"].e.heads["md.0"] += 1
    assert judged(model) == "tail"


def test_a_run_nobody_hears_is_condemned() -> None:
    model = plane(until_s=30.0)
    model.publishers["p0"].epoch += 1
    assert judged(model) == "not-live"


def test_a_record_nobody_applied_is_condemned() -> None:
    model = plane(until_s=30.0)
    model.truth.kept("p0.1", [("ord.0", b"late")])
    assert judged(model) == "behind"


def test_an_effect_that_is_not_on_disk_is_condemned() -> None:
    model = plane(until_s=30.0)
    disk = model.subscribers["s0"].disk
    assert disk is not None
    del disk.records[0]
    assert judged(model) == "torn"


def test_its_settings_are_plain_values() -> None:
    model = plane(until_s=0.0)
    assert msgspec.json.decode(msgspec.json.encode(model.settings())) == {
        **model.settings(),
        "memory": [False],
        "kinds": [],
    }
