"""Every mutant is killed by its seed, which the right code survives: the judges see."""

from pathlib import Path
from typing import Final

import pytest

from mesh.sim import eventplane, planes
from mesh.sim.world import Build, World
from tests.chaos.mutants.mutants import MUTANTS, Mutant, broken_by, patched
from tests.chaos.mutants.requestmutants import REQUEST_MUTANTS

ALL: Final = (*MUTANTS, *REQUEST_MUTANTS)
WORLDS: Final[dict[str, Build]] = {"eventplane": eventplane.build, "planes": planes.build}


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    found = broken_by(patched(mutant, tmp_path), mutant.world, mutant.seed)
    assert found == (mutant.seed, mutant.invariant)


@pytest.mark.parametrize(("world", "seed"), sorted({(m.world, m.seed) for m in ALL}))
def test_right_code_survives_the_killers(world: str, seed: int) -> None:
    assert not World(seed, WORLDS[world]).run().violations
