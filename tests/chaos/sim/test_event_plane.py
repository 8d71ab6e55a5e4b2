"""The event plane in a world full of faults: no promise is broken, and every fault occurs."""

from collections import Counter
from typing import Final

import pytest

from mesh.protocol.sequence import Verdict
from mesh.protocol.sync import LinkState
from mesh.sim.config import BACKUP, KINDS
from mesh.sim.eventplane import build
from mesh.sim.world import World

SEEDS: Final = (*range(1, 26), 45, 48, 56, 68)  # the last four have old copies of journals
WORLD: Final = "--world mesh.sim.eventplane:build"
FAULTS_MIN: Final = 20  # of a seed, on average

# Ways of catch-up that have to be walked, each with its cause.
WAYS: Final = (
    *("SUBSCRIBED>FETCHING by head", "SUBSCRIBED>LIVE by head", "SUBSCRIBED>HALTED by head"),
    *("FETCHING>LIVE by page", "FETCHING>FETCHING by page", "FETCHING>FETCHING by failure"),
    *("FETCHING>FETCHING by live", "FETCHING>FETCHING by index", "FETCHING>FETCHING by head"),
    *("LIVE>FETCHING by index", "LIVE>FETCHING by live", "LIVE>FETCHING by beacon"),
    *("LIVE>FETCHING by head", "LIVE>LIVE by done", "FETCHING>FETCHING by raise"),
)
HAPPENINGS: Final = (
    *("Reset", "Gone", "Ahead", "gap", "gap by beacon", "snapshot", "snapshot torn"),
    *("dropped at the mark", "overloaded", "refused"),
)


@pytest.mark.timeout(60)  # some dozens of worlds, with what they count summed up
def test_no_promise_is_broken_and_everything_occurs() -> None:
    counted: Counter[str] = Counter()
    for seed in SEEDS:
        report = World(seed, build).run()
        assert not report.violations, f"genesis sim --seed {seed} {WORLD}: {report.violations}"
        counted.update(report.counters)
    assert sum(n for what, n in counted.items() if what.startswith("fault ")) > FAULTS_MIN * len(
        SEEDS
    )
    wanted = [
        *(f"fault {kind}" for kind in (*KINDS, BACKUP)),
        *(f"frame {verdict.name}" for verdict in Verdict),
        *(f"link {state.name}" for state in LinkState if state is not LinkState.IDLE),
        *(f"catchup {way}" for way in WAYS),
        *HAPPENINGS,
    ]
    assert not [what for what in wanted if not counted[what]]
