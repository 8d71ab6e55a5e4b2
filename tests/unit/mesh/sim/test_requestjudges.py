"""Judges of requests: a good history passes, each kind of bad one is named."""

from collections.abc import Callable

import pytest

from mesh.protocol.balancing import Candidate
from mesh.protocol.once import Key
from mesh.protocol.rpcs import KEYED, ONCE, SAFE
from mesh.sim.requestjudges import Deed, Deeds, Desk, Gate, Spread, Who
from mesh.sim.world import Violation

WHO, KEY = Who("p0", "s0", 1, 7), Key("s0", b"k" * 16)


def names(call: Callable[[], object]) -> str:
    with pytest.raises(Violation) as caught:
        call()
    return caught.value.invariant


def placed(deeds: Deeds, log_id: str = "L1", reply: bytes | None = b"rb") -> None:
    deed = Deed(b"b", KEY, frozenset({WHO}), effect=True, reply=reply)
    deeds.kept(log_id, deeds.mean(deed))


def marked(deeds: Deeds, reply: bytes | None = None) -> None:
    deeds.kept("L1", deeds.mean(Deed(b"b", KEY, frozenset(), effect=False, reply=reply)))


def test_one_effect_with_its_row_is_what_a_reply_needs() -> None:
    deeds = Deeds()
    placed(deeds)
    deeds.replied(KEY, b"b", b"rb")
    placed(deeds, "L2")  # another disk knows nothing of the first


def test_two_effects_of_a_key_on_one_disk() -> None:
    deeds = Deeds()
    placed(deeds)
    assert names(lambda: placed(deeds)) == "twice"


def test_two_effects_of_a_request_without_a_key() -> None:
    deeds, deed = Deeds(), Deed(b"b", None, frozenset({WHO}), effect=True, reply=None)
    deeds.kept("L1", deeds.mean(deed))
    deeds.replied(None, b"b", b"rb")
    assert names(lambda: deeds.kept("L2", deeds.mean(deed))) == "twice"


def test_an_effect_elsewhere_needs_its_mark_and_is_the_first() -> None:
    deeds = Deeds()
    assert names(lambda: deeds.acted("L1", KEY, b"b", b"rb", {WHO})) == "unmarked"
    marked(deeds)
    deeds.acted("L1", KEY, b"b", b"rb", {WHO})
    assert names(lambda: deeds.acted("L1", KEY, b"b", b"rb", {WHO})) == "twice"


def test_a_reply_changes() -> None:
    deeds = Deeds()
    marked(deeds, b"r1")
    assert names(lambda: marked(deeds, b"r2")) == "two-replies"


def test_a_reply_without_its_effect_or_its_row() -> None:
    deeds = Deeds()
    assert names(lambda: deeds.replied(None, b"b", b"rb")) == "no-effect"
    assert names(lambda: deeds.replied(KEY, b"b", b"rb")) == "unstored"


@pytest.mark.parametrize("told_first", [True, False])
def test_an_effect_in_spite_of_a_promise(told_first: bool) -> None:
    deeds = Deeds()
    if told_first:
        deeds.told(WHO, "no")
        assert names(lambda: placed(deeds)) == "executed-no"
    else:
        deeds.works_for({WHO})
        deeds.told(WHO, "unknown")
        assert names(lambda: deeds.over([WHO], "no")) == "executed-no"


def test_a_handler_begins_in_time_and_for_somebody() -> None:
    deeds = Deeds()
    deeds.taken(WHO, 2.0)
    deeds.begins({WHO}, 1.9)
    assert names(lambda: deeds.begins({WHO}, 2.1)) == "stale"
    assert names(lambda: deeds.begins(set(), 1.9)) == "stale"


def test_an_attempt_ends_once_with_its_own_reply() -> None:
    desk = Desk("s0", 1)
    for corr in (1, 2):
        desk.asked("p0", corr, b"b", KEYED, 0)
    desk.inflight("p0", 2)
    desk.ended("p0", 1, b"rb")
    assert names(lambda: desk.ended("p0", 1, None)) == "unasked"
    assert names(lambda: desk.inflight("p0", 2)) == "load"
    assert names(lambda: desk.ended("p0", 2, b"rc")) == "wrong-reply"


def test_retries_have_a_number_and_a_budget_and_once_has_none() -> None:
    desk = Desk("s0", 1)
    assert names(lambda: desk.asked("p0", 1, b"b", ONCE, 1)) == "once-again"
    assert names(lambda: desk.asked("p0", 1, b"b", SAFE, 2)) == "retries"
    for _ in range(10):
        desk.begun()
    for _ in range(11):
        desk.retried()
    assert names(desk.retried) == "retry-budget"


def test_a_reply_in_parts_is_whole() -> None:
    Desk.whole(b"b", [b"0", b"1"], 2)
    assert names(lambda: Desk.whole(b"b", [b"1", b"0"], 2)) == "parts"
    assert names(lambda: Desk.whole(b"b", [b"0"], 2)) == "parts"


def test_windows_offers_and_deadlines() -> None:
    Desk.credit("s0>p0", 5, 5)
    assert names(lambda: Desk.credit("s0>p0", 6, 5)) == "credit"
    Desk.offered(b"b", SAFE, again=True)
    assert names(lambda: Desk.offered(b"b", ONCE, again=True)) == "once-again"
    assert names(lambda: Desk.due(b"b", ended=False)) == "overdue"


def opened() -> Gate:
    gate = Gate("s0>p0", failures_max=2, cooldown_s=1.0, trickle_s=1.0)
    gate.passed(1, 5.0, 7.0)
    gate.ended(1, 5.1, succeeded=False, counted=True)
    gate.stands(5.1, refuses=True)
    return gate


def test_an_open_breaker_lets_one_probe_pass_after_its_cooldown() -> None:
    gate = opened()
    assert names(lambda: gate.passed(3, 5.5, 7.0)) == "breaker"
    gate.passed(3, 6.2, 7.0)
    assert names(lambda: gate.passed(3, 6.3, 7.0)) == "breaker"
    assert names(lambda: gate.ended(1, 6.3, succeeded=True, counted=True)) == "breaker"
    gate.ended(1, 6.3, succeeded=True, counted=False)
    gate.returned(3, 6.4)
    gate.passed(5, 6.5, 7.0)
    gate.ended(5, 6.6, succeeded=True, counted=True)
    gate.passed(6, 6.6, 7.0)


def test_a_breaker_that_does_not_open_or_trickles_too_fast_or_is_forced() -> None:
    gate = Gate("s0>p0", failures_max=2, cooldown_s=1.0, trickle_s=1.0)
    for _ in range(2):
        gate.ended(1, 5.0, succeeded=False, counted=True)
    assert names(lambda: gate.stands(5.0, refuses=False)) == "breaker"
    gate.passed(0, 6.0, 7.0)
    assert names(lambda: gate.passed(0, 6.5, 7.0)) == "breaker"
    gate.forced = True
    assert names(lambda: gate.passed(4, 6.5, 7.0)) == "breaker"
    gate.released(9.0)
    gate.passed(4, 9.0, 9.5)


A, B, DOWN = Candidate("a", 1.0), Candidate("b", 2.0), Candidate("c", 0.0, usable=False)


def test_a_choice_is_usable_and_not_the_worst() -> None:
    spread = Spread()
    spread.chosen([A, B, DOWN], "a", None)
    spread.chosen([DOWN], None, None)
    for among, chosen in (([A, DOWN], "c"), ([A, B], "b"), ([A], None)):
        assert names(lambda: spread.chosen(among, chosen, None)) == "choice"  # noqa: B023


def test_a_key_stays_with_its_instance_while_that_is_there() -> None:
    spread = Spread()
    spread.chosen([A, B], "b", b"key")
    assert names(lambda: spread.chosen([A, B], "a", b"key")) == "choice"
    spread.chosen([A], "a", b"key")
    third = Candidate("d", 1.0)
    assert names(lambda: spread.chosen([A, B, third], "a", b"key")) == "choice"
    spread.chosen([A, B, third], "d", b"key")
