"""RequestLink: in order, lost with the connection, told of later."""

from mesh.sim.network import Armed
from tests.unit.mesh.sim.requestworlds import cable


def test_frames_go_both_ways_in_order() -> None:
    made = cable()
    assert made.end.tellings == [True]
    assert made.say(b"1", b"2") == [True, True]
    assert made.link.send_down(made.link.peer, b"3")
    made.wait()
    assert made.served == [(made.link.peer, b"1"), (made.link.peer, b"2")]
    assert made.end.frames == [b"3"]


def test_a_broken_connection_loses_what_is_on_its_way_and_another_one_comes() -> None:
    made = cable()
    peer = made.link.peer
    made.say(b"1")
    made.link.send_down(peer, b"2")
    made.link.disconnect()
    assert made.say(b"3") == [False]
    made.wait()
    assert not made.link.send_down(peer, b"4")
    assert (made.heard(), made.end.frames) == ([], [])
    assert made.end.tellings == [True, False, True]


def test_what_has_arrived_can_still_be_read() -> None:
    made = cable()
    made.link.caller.block(0.5)
    made.link.send_down(made.link.peer, b"1")
    made.wait(0.1)
    made.link.disconnect()
    made.wait()
    assert made.end.frames == [b"1"]


def test_a_silent_connection_is_given_up_after_a_while() -> None:
    made = cable()
    made.link.fall_silent(1.0)
    assert made.say(b"1") == [True]
    made.wait(0.9)
    assert made.end.tellings == [True]
    made.wait()
    assert made.end.tellings == [True, False, True]
    assert not made.heard()


def test_a_cut_keeps_two_nodes_apart_until_it_is_healed() -> None:
    made = cable()
    made.link.cut()
    made.wait(3.0)
    assert made.end.tellings == [True, False]
    made.link.heal()
    made.wait()
    assert made.link.connected


def test_a_full_socket_refuses_and_tells_when_it_takes_again() -> None:
    made = cable(hwm=2)
    assert made.say(b"1", b"2", b"3") == [True, True, False]
    made.wait()
    assert (made.heard(), made.end.writings) == ([b"1", b"2"], 1)


def test_a_clogged_link_is_late_and_in_order() -> None:
    made = cable()
    made.link.clog_until = made.net.world.now + 0.5
    made.say(b"1")
    made.wait(0.4)
    made.say(b"2")
    assert not made.heard()
    made.wait(0.2)
    assert made.heard() == [b"1", b"2"]


def test_an_armed_fault_loses_its_victims_only() -> None:
    made = cable()
    made.link.armed.append(Armed(0, "call_lose", 2))
    made.say(b"1", b"2", b"3")
    made.wait()
    assert made.heard() == [b"3"]
    assert made.net.world.counters["fault call_lose"] == 1


def test_a_dead_server_is_told_of_and_connected_to_when_it_is_back() -> None:
    made = cable()
    made.say(b"1")
    made.link.server.die()
    made.net.gone("p0")
    made.wait()
    assert made.end.tellings == [True, False]
    made.link.server.begin()
    made.net.back("p0")
    made.wait()
    assert (made.end.tellings, made.heard()) == ([True, False, True], [])


def test_the_socket_of_a_dead_caller_is_gone() -> None:
    made = cable()
    peer = made.link.peer
    made.link.caller.die()
    made.net.gone("s0")
    assert not made.link.send_down(peer, b"1")
    made.link.mend()
    made.wait()
    assert not made.link.connected


def test_a_mended_link_is_whole() -> None:
    made = cable()
    made.link.cut()
    made.link.armed.append(Armed(0, "call_lose", 9))
    made.link.mend()
    made.wait()
    made.say(b"1")
    made.wait()
    assert made.heard() == [b"1"]
