"""Peer: one server as a caller knows it; every attempt ends once and gives back what it took."""

from mesh.protocol.peerlink import GREETING, READY
from mesh.sim.peer import Peer
from mesh.sim.requestconfig import LIST, PLACE, READ
from tests.unit.mesh.sim.requestworlds import Pair, pair


def peer(made: Pair) -> Peer:
    return made.caller.peers["p0"]


def test_it_greets_and_is_ready() -> None:
    assert peer(pair()).asking.state is READY


def test_an_answered_attempt_leaves_nothing() -> None:
    made = pair()
    for method in (READ, LIST):
        assert made.asked(method).reply is not None
    known = peer(made)
    assert (known.asking.inflight, known.latency.inflight, known.open) == (0, 0, {})
    assert known.latency.ewma_s > 0
    assert not made.caller.desk.open


def test_a_cancelled_attempt_ends_at_once_and_its_credit_comes_back() -> None:
    made = pair(handler_s=0.3)
    call = made.ask(PLACE)
    made.wait(0.05)
    assert made.caller.cancel(5) == 1
    assert call.ended
    made.wait(3.0)
    assert peer(made).asking.inflight == 0


def test_a_lost_connection_is_greeted_again() -> None:
    made = pair()
    peer(made).link.disconnect()
    states = set()
    for _ in range(500):
        made.wait(0.0005)
        states.add(peer(made).asking.state)
    assert {GREETING, READY} <= states
    assert made.asked(READ).reply is not None


def test_a_refused_send_waits_for_the_socket() -> None:
    made = pair(hwm=1)
    calls = [made.ask(READ) for _ in range(5)]
    assert peer(made).asking.queued
    made.wait()
    assert all(call.reply is not None for call in calls)
