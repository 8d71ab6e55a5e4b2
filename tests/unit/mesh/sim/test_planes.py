"""Planes: events, requests or both, and always the same for a seed."""

import subprocess
import sys
from collections import Counter
from typing import Final

import pytest

from mesh.sim import config
from mesh.sim.planes import Shape, build, draw
from mesh.sim.requestconfig import REQUEST_KINDS
from mesh.sim.world import World

PROGRAM: Final = """
from mesh.sim.planes import build
from mesh.sim.world import World
print(World(4, build).run().trace_sha256)
"""


def shape(seed: int) -> Shape:
    return draw(World(seed, build))


def sort(found: Shape) -> str:
    if found.requests is None:
        return "events"
    return "both" if found.events.events else "requests"


def test_seeds_have_events_or_requests_or_both() -> None:
    sorts = Counter(sort(shape(seed)) for seed in range(300))
    assert set(sorts) == {"events", "requests", "both"}
    assert min(sorts.values()) > 70


def test_a_seed_of_events_alone_is_what_it_was_without_requests() -> None:
    seed = next(n for n in range(1, 99) if sort(shape(n)) == "events")
    assert shape(seed).events == config.draw(World(seed, build).dice("config"))


def test_no_old_journal_is_served_from() -> None:
    for seed in range(300):
        found = shape(seed)
        assert found.requests is None or config.BACKUP not in found.events.kinds


def test_schedules_of_both_are_in_order() -> None:
    seed = next(n for n in range(1, 99) if sort(shape(n)) == "both")
    faults = build(World(seed, build)).schedule()
    assert [f.at_s for f in faults] == sorted(f.at_s for f in faults)
    requests = {fault.kind in REQUEST_KINDS for fault in faults}
    assert requests == {True, False}


@pytest.mark.parametrize("wanted", ["requests", "both"])
def test_a_saved_run_is_the_same_run(wanted: str) -> None:
    seed = next(n for n in range(1, 99) if sort(shape(n)) == wanted)
    first = World(seed, build).run()
    again = World(seed, build, first.schedule, first.config).run()
    assert not first.violations
    assert again.trace_sha256 == first.trace_sha256


def test_the_trace_depends_on_no_hash_seed() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-B", "-c", PROGRAM],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1
