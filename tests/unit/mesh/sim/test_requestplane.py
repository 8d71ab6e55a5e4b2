"""RequestPlane: at the end nothing is under way, all is served, every credit is back."""

import pytest

from mesh.protocol.once import Key
from mesh.sim.requestconfig import PLACE, READ
from mesh.sim.world import Violation
from tests.unit.mesh.sim.requestworlds import Pair, pair


def judged(made: Pair) -> str:
    with pytest.raises(Violation) as caught:
        made.model.finish()
    return caught.value.invariant


def test_a_calm_run_ends_well() -> None:
    made = pair(rate=4.0)
    made.model.events.world.until(made.model.horizon_s)
    made.model.finish()
    counters = made.model.events.world.counters
    assert counters["replied KEYED"] > 20
    failed = {what for what in counters if what.startswith("failed")}
    assert failed <= {"failed NO_SERVICE no"}  # before the first session
    assert [call.reply is not None for call in made.caller.last] == [True]


def test_a_handler_that_still_works_is_told_of() -> None:
    made = pair(handler_s=9.0)
    made.ask(PLACE)
    made.wait(0.1)
    assert judged(made) == "busy"


def test_a_credit_that_is_out_is_told_of() -> None:
    made = pair()
    made.ask(READ)
    assert judged(made) == "credit"


def test_a_caller_without_a_session_is_told_of() -> None:
    made = pair()
    made.plane.links["p0", "s0"].cut()
    made.wait(9.0)
    assert judged(made) == "unserved"


def test_a_last_call_without_an_answer_is_told_of() -> None:
    made = pair()
    made.caller.at_last()
    made.wait(0.0001)
    made.caller.cancel(1)
    made.wait(1.0)
    assert judged(made) == "unserved"


def test_the_judges_learn_what_the_disk_keeps() -> None:
    made = pair()
    call = made.asked(PLACE)
    assert call.body in made.plane.deeds.ever
    assert made.plane.deeds.done == {made.server.node.disk.log_id: {Key("s0", call.idem)}}
