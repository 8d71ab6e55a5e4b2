"""Calls: credit goes out with a request and comes back with its answer, never otherwise."""

from collections.abc import Iterator

import pytest

from mesh.protocol.calls import ABANDONED, QUEUED, SENT, START, TRANSITIONS, Call, Calls, CallTurn
from mesh.protocol.envelope import REQ
from mesh.protocol.rpcs import PARTS, Ask


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls(queue_max=3)
    calls.grant(5, 100)
    yield calls
    calls.check()


def call(corr: int, prio: int = 500, deadline: float = 10.0, size: int = 1) -> Call:
    return Call(corr, 9, Ask("a.b", b"x" * size, prio=prio), deadline)


def send(calls: Calls, *made: Call) -> None:
    for each in made:
        assert calls.add(each) is None
        assert calls.first() is each
        calls.send(each)


def test_table_is_the_only_way() -> None:
    for stage, turns in TRANSITIONS.items():
        for turn in CallTurn:
            each = call(1)
            each.stage = stage
            if turn in turns:
                each.turn(turn)
                assert each.stage is turns[turn]
            else:
                with pytest.raises(KeyError):
                    each.turn(turn)


def test_a_fifth_of_the_window_is_for_the_urgent(calls: Calls) -> None:
    send(calls, *(call(corr) for corr in range(1, 5)))
    calls.add(call(5))
    assert calls.first() is None
    urgent = call(6, prio=50)
    calls.add(urgent)
    assert calls.first() is urgent


def test_bytes_are_a_window_too_but_one_always_goes(calls: Calls) -> None:
    send(calls, call(1, size=500))
    calls.add(call(2))
    assert calls.first() is None
    calls.land(1)
    assert calls.first() is not None


def test_abandoned_call_holds_its_credit_until_it_lands(calls: Calls) -> None:
    made = call(1)
    send(calls, made)
    calls.abandon(made)
    made.turn(START)  # the peer does not know yet
    assert (made.stage, calls.overdue(99.0), len(calls.flying)) == (ABANDONED, [], 1)
    assert calls.land(1) is made
    assert calls.land(1) is None


def test_what_reached_no_handler_waits_again(calls: Calls) -> None:
    made, given_up = call(1), call(2)
    send(calls, made, given_up)
    calls.abandon(given_up)
    assert (calls.put_back(1), calls.put_back(2), calls.put_back(7)) == (None, None, None)
    assert (made.stage, list(calls.queue), calls.flying) == (QUEUED, [made], {})
    assert calls.overdue(10.0) == [made]


def test_missing_are_those_sent_before_and_not_held(calls: Calls) -> None:
    send(calls, *(call(corr) for corr in (1, 2, 3)))
    assert calls.missing(2, {1}) == [2]
    assert calls.missing(3, {1, 2, 3}) == []


def test_full_queue_gives_way_by_urgency(calls: Calls) -> None:
    made = [call(corr, deadline=float(corr)) for corr in (1, 2, 3)]
    assert [calls.add(each) for each in made] == [None] * 3
    urgent = call(4, prio=50)
    assert calls.add(urgent) is made[2]
    late = call(5, deadline=99.0)
    assert calls.add(late) is late
    assert (calls.withdraw(1), calls.withdraw(1)) == (made[0], None)
    assert [each.corr for each in calls.overdue(10.0)] == [2, 4]


def test_what_a_peer_grants_stays_within_reason(calls: Calls) -> None:
    calls.grant(-5, -5)
    assert (calls.window, calls.window_bytes) == (1, 1)
    calls.grant(1 << 40, 1 << 40)
    assert calls.window == 1_024


def test_parts_come_within_their_credit() -> None:
    made = call(1)
    assert [made.take_part() for _ in range(PARTS + 1)] == [True] * PARTS + [False]
    assert made.consume_part() == PARTS + 1
    assert (made.take_part(), made.take_part()) == (True, False)


def test_frame_carries_the_time_left() -> None:
    frame = call(3, prio=50).frame(7, 450)
    assert (frame.kind, frame.corr, frame.client_epoch, frame.budget_ms, frame.prio) == (
        REQ,
        3,
        7,
        450,
        50,
    )
    assert SENT is not QUEUED
