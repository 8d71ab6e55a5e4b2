"""Network: pipes and requests behave as those of libzmq, and fail as they may."""

from mesh.sim.network import RECONNECT_S, Armed
from tests.unit.mesh.sim.worlds import PROBE, Line, line

A, B, C, D = (b"md.%d\0" % number for number in range(4))


def armed(kind: str, n: int = 1) -> Line:
    made = line()
    made.pipe.armed.append(Armed(0, kind, n))
    return made


def asked(made: Line, times: int = 1, timeout_s: float = 0.5) -> list[bytes | None]:
    """Return the answers to *times* requests."""
    answers: list[bytes | None] = []
    for number in range(times):
        made.net.request(
            made.hearer,
            made.mouth,
            "fetch",
            b"%d" % number,
            timeout_s,
            lambda reply, epoch: answers.append(reply),
        )
    made.wait()
    return answers


def test_frames_arrive_in_order_if_they_are_wanted() -> None:
    made = line()
    made.say(A, b"lv.0\0", B)
    assert made.wait() == [A, B]


def test_nothing_is_sent_to_who_no_longer_wants_it() -> None:
    made = line()
    made.pipe.send_up(b"md.", wanted=False)
    made.wait()
    made.say(A)
    assert not made.wait()


def test_above_its_mark_a_pipe_drops_the_newest() -> None:
    made = line(hwm=2)
    made.say(A, B, C, D)
    assert made.wait() == [A, B]
    assert made.world.counters["dropped at the mark"] == 2


def test_frames_wait_for_a_listener_that_is_blocked() -> None:
    made = line()
    made.hearer.block(1.0)
    made.say(A, B)
    assert not made.wait(0.9)
    assert made.wait(0.2) == [A, B]


def test_a_probe_is_answered_when_it_arrives() -> None:
    made = line()
    made.pipe.send_up(PROBE, wanted=True)
    assert made.wait() == [PROBE + b"\0"]
    assert made.mouth.probes == [PROBE]


def test_a_new_connection_brings_the_subscriptions_again_the_probe_last() -> None:
    made = line()
    made.pipe.send_up(PROBE, wanted=True)
    made.pipe.send_up(b"zz", wanted=True)
    made.wait()
    made.pipe.disconnect()
    made.say(A)
    assert made.wait() == [PROBE + b"\0"]
    assert made.pipe.filters == (b"md.", b"zz", PROBE)
    made.say(B)
    assert made.wait() == [B]


def test_what_is_in_flight_is_lost_with_the_connection() -> None:
    made = line()
    made.say(A)
    made.pipe.disconnect()
    assert not made.wait()


def test_a_dead_publisher_is_connected_to_when_it_is_back() -> None:
    made = line()
    made.mouth.process.die()
    made.net.gone("p0")
    made.wait()
    assert not made.pipe.connected
    made.mouth.process.begin()
    made.net.back("p0")
    made.wait(2 * RECONNECT_S)
    assert made.pipe.connected


def test_the_sockets_of_a_dead_subscriber_are_gone() -> None:
    made = line()
    made.say(A)
    made.hearer.die()
    made.net.gone("s0")
    made.hearer.begin()
    assert not made.wait()
    assert not made.pipe.connected


def test_a_lost_frame_does_not_arrive() -> None:
    made = armed("lose", 2)
    made.say(A, B, C)
    assert made.wait() == [C]
    assert made.world.counters["fault lose"] == 1


def test_a_doubled_frame_arrives_twice() -> None:
    made = armed("double")
    made.say(A, B)
    assert made.wait() == [A, A, B]


def test_a_reordered_frame_arrives_behind_the_next() -> None:
    made = armed("reorder")
    made.say(A, B, C)
    assert made.wait() == [B, A, C]


def test_a_mute_pipe_swallows_what_is_said() -> None:
    made = line()
    made.pipe.mute = 1
    made.say(A)
    assert not made.wait()
    assert made.world.took == {0}


def test_an_old_frame_may_come_once_more() -> None:
    made = line()
    made.say(A, B)
    made.wait()
    made.pipe.echo(made.pipe.recent[0])
    assert made.wait() == [A]


def test_a_clogged_pipe_is_late_and_keeps_the_order() -> None:
    made = line()
    made.net.clog("p0", "s0", made.world.now + 2)
    made.say(A)
    made.wait(1.5)
    made.say(B)
    assert not made.wait(0.4)
    assert made.wait(0.2) == [A, B]


def test_cuts_add_up_and_the_last_one_healed_connects() -> None:
    made = line()
    made.net.cut("p0", "s0")
    made.net.cut("p0", "s0")
    made.net.heal("p0", "s0")
    made.wait()
    assert not made.pipe.connected
    made.net.heal("p0", "s0")
    made.wait()
    assert made.pipe.connected


def test_a_request_is_answered() -> None:
    assert asked(line(), 2) == [b"0", b"1"]


def test_a_request_of_which_one_way_is_lost_ends_without_an_answer() -> None:
    made = line()
    made.net.routes["p0", "s0"].armed.append(Armed(0, "rpc_lose", 1))
    assert asked(made) == [None]
    assert not made.mouth.served


def test_a_doubled_request_is_served_twice_and_answered_once() -> None:
    made = line()
    made.net.routes["p0", "s0"].armed.append(Armed(0, "rpc_double", 1))
    assert asked(made) == [b"0"]
    assert made.mouth.served == ["fetch", "fetch"]


def test_a_late_answer_is_none() -> None:
    made = line()
    made.net.routes["p0", "s0"].armed.append(Armed(0, "rpc_slow", 1, 0.7))
    assert asked(made) == [None]
    assert made.mouth.served == ["fetch"]


def test_a_dead_callee_is_known_at_once_and_a_cut_only_by_its_silence() -> None:
    made = line()
    made.mouth.process.die()
    assert asked(made, timeout_s=99.0) == [None]
    made.mouth.process.begin()
    made.net.cut("p0", "s0")
    assert not asked(made, timeout_s=2.0)
    made.wait(2.0)


def test_a_caller_that_begins_anew_gets_no_old_answer() -> None:
    made, answers = line(), list[bytes | None]()
    made.net.request(
        made.hearer, made.mouth, "fetch", b"", 1.0, lambda reply, epoch: answers.append(reply)
    )
    made.hearer.die()
    made.hearer.begin()
    made.wait(2.0)
    assert not answers
