"""Server: effect and row are one, and outlive it; a new disk knows nothing."""

import pytest

from mesh.protocol.admission import DRAINING
from mesh.protocol.once import Key
from mesh.protocol.rpcs import Method
from mesh.sim.requestconfig import LIST, METHODS, NOTE, PLACE, SINGLE, WIRE
from tests.unit.mesh.sim.requestworlds import Pair, pair


def keys(made: Pair) -> list[Key]:
    return list(made.server.rows.now())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_is_answered(method: Method) -> None:
    call = pair().asked(method)
    assert call.reply is not None
    assert call.reply.startswith(b"r" + call.body)


@pytest.mark.parametrize("method", [PLACE, NOTE, WIRE], ids=lambda method: method.name)
def test_a_keyed_request_leaves_its_row_which_outlives_a_crash(method: Method) -> None:
    made = pair()
    call = made.asked(method)
    key = Key("s0", call.idem)
    assert keys(made) == [key]
    made.crash()
    made.wait()
    again = made.caller.new(method, 2.0, call)
    made.caller.begin(again)
    made.wait()
    assert again.reply == call.reply
    assert made.server.rows.now()[key].reply == call.reply


def test_a_request_without_a_key_leaves_none() -> None:
    made = pair()
    call = made.caller.new(SINGLE, 2.0)
    while call.keyed:
        call = made.caller.new(SINGLE, 2.0)
    made.caller.begin(call)
    made.wait()
    assert call.body in made.plane.deeds.ever
    assert not keys(made)


def test_a_new_disk_knows_no_key() -> None:
    made = pair()
    made.asked(PLACE)
    made.model.events.injector.wipe("p0")
    made.wait()
    assert not keys(made)
    assert made.asked(PLACE).reply is not None


def test_a_forgotten_row_is_read_no_more() -> None:
    made = pair()
    made.asked(PLACE)
    made.server.rows.forget(keys(made))
    assert not keys(made)


def test_what_was_begun_elsewhere_before_a_crash_is_found_out_about() -> None:
    made = pair(handler_s=0.2, budget_s=5.0)
    call = made.ask(WIRE, 5.0)
    while call.body not in made.plane.deeds.ever:
        made.wait(0.01)
    made.crash()
    made.wait(5.0)
    world = made.model.events.world
    assert world.counters["resolve"]
    assert world.counters["a.wire"] <= 2  # an unsure answer may end it


def test_a_full_disk_refuses_and_nothing_is_done() -> None:
    made = pair(retries_max=0)
    made.server.node.disk.full_until = made.model.events.world.now + 0.5
    call = made.asked(PLACE)
    assert call.earlier is not None
    assert call.body not in made.plane.deeds.ever


def test_a_draining_server_takes_nothing_new() -> None:
    made = pair()
    made.server.drain(5.0)
    made.wait(0.1)
    assert made.server.answering.admission.state is DRAINING
    assert made.asked(LIST).reply is None
    made.server.close()
    assert made.server.answering.idle


def test_a_stuck_handler_is_aborted() -> None:
    made = pair()
    made.server.sticking = [0]
    call = made.asked(PLACE)
    made.wait(3.0)
    assert made.server.answering.idle
    assert call.ended
    assert not made.server.jobs
