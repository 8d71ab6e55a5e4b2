"""Caller: it tries again what may be, where it may be, and asks the next run's questions."""

import pytest

from mesh.errors import Conflict, MeshError, OutcomeUnknown, Unavailable
from mesh.protocol import rpcs
from mesh.protocol.breaker import CLOSED, OPEN
from mesh.protocol.control import Failure
from mesh.sim.caller import raised
from mesh.sim.requestconfig import PLACE, READ, SINGLE
from tests.unit.mesh.sim.requestworlds import pair


def test_calls_are_spread_and_a_keyed_one_has_a_home() -> None:
    made = pair(publishers=2)
    for _ in range(20):
        made.asked(READ)
    world = made.model.events.world
    assert world.counters["replied SAFE"] == 20
    assert all(peer.latency.at is not None for peer in made.caller.peers.values())
    call = made.asked(PLACE)
    assert call.home in made.caller.peers


def test_a_keyed_call_is_asked_again_where_it_was() -> None:
    made = pair(publishers=2, handler_s=0.3, budget_s=5.0)
    call = made.ask(PLACE, 5.0)
    made.wait(0.01)
    made.model.events.injector.die(call.home, 0.1)
    made.wait(5.0)
    assert call.reply is not None
    assert call.attempts.tries >= 1
    assert {who.server for who in call.whose} == {call.home}


def test_once_is_not_asked_again() -> None:
    made = pair(handler_s=0.5)
    call = made.ask(SINGLE)
    made.wait(0.01)
    made.crash()
    made.wait(3.0)
    assert len(call.whose) == 1
    assert call.earlier is not None
    assert call.earlier.code == "OUTCOME_UNKNOWN"


def test_nobody_there_is_told_when_the_retries_are_used_up() -> None:
    made = pair()
    made.model.events.injector.die("p0", 99.0)
    made.wait(0.1)
    call = made.asked(READ)
    assert call.earlier is not None
    assert call.earlier.code == "NO_SERVICE"
    assert not call.whose


def test_a_forced_breaker_refuses_until_it_is_released() -> None:
    made = pair()
    made.caller.force("p0", 2.0)
    assert made.caller.peers["p0"].breaker.state is OPEN
    assert made.asked(READ).reply is None
    made.wait(2.0)
    assert made.asked(READ).reply is not None
    assert made.caller.peers["p0"].breaker.state is CLOSED


def test_a_storm_is_shed_and_ends() -> None:
    made = pair()
    made.caller.storm(60)
    made.wait(4.0)
    world = made.model.events.world
    assert world.counters["failed OVERLOADED no"]
    assert not made.caller.desk.open


def test_the_next_run_asks_what_the_last_left_open() -> None:
    made = pair(handler_s=0.3)
    call = made.ask(PLACE)
    made.wait(0.01)
    made.model.events.injector.die("s0", 0.1)
    made.wait(3.0)
    assert not call.ended
    assert not made.caller.unsure
    assert made.model.events.world.counters["replied KEYED"] == 1


def test_last_calls_pass_breaker_and_choice() -> None:
    made = pair()
    made.caller.force("p0", 9.0)
    made.caller.at_last()
    made.wait()
    assert [call.reply is not None for call in made.caller.last] == [True]


@pytest.mark.parametrize(
    ("code", "again", "kind"),
    [
        ("OUTCOME_UNKNOWN", True, Unavailable),
        ("OUTCOME_UNKNOWN", False, OutcomeUnknown),
        ("UNAVAILABLE", False, MeshError),
        ("CONFLICT", False, Conflict),
        (rpcs.CANCELLED, False, MeshError),
    ],
)
def test_a_retry_loop_sees_what_may_be_repeated(
    code: str,
    again: bool,
    kind: type[MeshError],
) -> None:
    error = raised(Failure(code, "no", "x", 500), again=again)
    assert type(error) is kind
    assert error.retry_after_s == (0.5 if again else 0.0)
