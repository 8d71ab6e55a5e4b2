"""Requests, alone and beside events, in a world full of faults: no promise is broken."""

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from mesh.protocol.rpcs import MethodClass
from mesh.sim.faults import load
from mesh.sim.planes import build
from mesh.sim.requestconfig import METHODS, REQUEST_KINDS
from mesh.sim.world import World

REGRESSIONS: Final = sorted((Path(__file__).parents[2] / "regressions").glob("*.json"))
SEEDS: Final = (*range(1, 16), 20, 26)
FAULTS_MIN: Final = 15  # of a seed, on average

FAILURES: Final = (
    *("BREAKER_OPEN no", "CANCELLED unknown", "DEADLINE unknown", "DRAINING no"),
    *("INTERNAL unknown", "NO_SERVICE no", "OUTCOME_UNKNOWN unknown", "OVERLOADED no"),
    *("UNAVAILABLE no", "UNAVAILABLE unknown"),
)


def test_what_broke_once_holds() -> None:
    for path in REGRESSIONS:
        saved = load(path.read_bytes())
        report = World(saved.seed, build, saved.schedule, saved.config).run()
        assert not report.violations, f"genesis sim --faults {path}: {report.violations}"


@pytest.mark.timeout(60)  # a dozen of worlds, with what they count summed up
def test_no_promise_is_broken_and_everything_occurs() -> None:
    counted: Counter[str] = Counter()
    for seed in SEEDS:
        report = World(seed, build).run()
        assert not report.violations, f"genesis sim --seed {seed}: {report.violations}"
        counted.update(report.counters)
    assert sum(n for what, n in counted.items() if what.startswith("fault ")) > FAULTS_MIN * len(
        SEEDS
    )
    wanted = [
        *(f"fault {kind}" for kind in REQUEST_KINDS),
        *(method.name for method in METHODS),
        *(f"{end} {kind.name}" for end in ("replied", "given up") for kind in MethodClass),
        *(f"failed {failure}" for failure in FAILURES),
        "resolve",
    ]
    assert not [what for what in wanted if not counted[what]]
