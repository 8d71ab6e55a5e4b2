"""RequestInjector: every kind of fault does what it is named for, counts, and is healed."""

import pytest

from mesh.sim.faults import Fault
from mesh.sim.requestconfig import CALLER_KINDS, LINK_KINDS, METHODS, REQUEST_KINDS
from tests.unit.mesh.sim.requestworlds import Pair, pair


def hit(kind: str, *, for_s: float = 0.5, alive: bool = True) -> Pair:
    """Return a pair, busy with requests, in which a fault of *kind* has just happened."""
    made = pair()
    if not alive:
        made.plane.callers["s0"].process.die()
        made.server.node.process.die()
        for link in made.plane.links.values():
            link.close()
    else:
        for method in METHODS:
            made.ask(method)
    who = "s0" if kind in CALLER_KINDS else "p0"
    to = "s0" if kind in LINK_KINDS else ""
    made.model.apply(0, Fault(made.model.events.world.now, kind, who, to, for_s, 2))
    return made


@pytest.mark.parametrize("kind", REQUEST_KINDS)
def test_every_kind_takes_effect_and_counts_once(kind: str) -> None:
    made = hit(kind)
    for method in METHODS:
        if made.caller.process.alive:
            made.ask(method)
    made.wait(3.0)
    world = made.model.events.world
    assert world.took == {0}
    assert world.counters[f"fault {kind}"] == 1


@pytest.mark.parametrize("kind", REQUEST_KINDS)
def test_what_finds_nothing_to_break_does_not_count(kind: str) -> None:
    made = hit(kind, alive=False)
    made.wait(3.0)
    assert not made.model.events.world.took


@pytest.mark.parametrize("kind", REQUEST_KINDS)
def test_after_the_healing_all_comes_right(kind: str) -> None:
    made = hit(kind, for_s=3.0)
    made.wait(1.0)
    made.model.heal()
    made.model.events.world.until(made.model.horizon_s)
    made.model.finish()
