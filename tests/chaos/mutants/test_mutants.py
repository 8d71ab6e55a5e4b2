"""Every mutant is killed by its seed, which the right code survives: the judges see."""

from pathlib import Path

import pytest

from mesh.sim.eventplane import build
from mesh.sim.world import World
from tests.chaos.mutants.mutants import MUTANTS, Mutant, broken_by, patched


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    assert broken_by(patched(mutant, tmp_path), mutant.seed) == (mutant.seed, mutant.invariant)


@pytest.mark.parametrize("seed", sorted({mutant.seed for mutant in MUTANTS}))
def test_right_code_survives_the_killers(seed: int) -> None:
    assert not World(seed, build).run().violations
