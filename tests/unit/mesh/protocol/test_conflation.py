"""Conflation and Freshness: the newest counts, too late is said, for too long ends the process."""

import pytest

from mesh.protocol.conflation import (
    FRESH,
    LATE,
    SNAIL,
    SNAIL_S,
    Conflation,
    Freshness,
    Pace,
)

MAX_AGE_S = 2.0


def test_newest_per_key_in_order_of_first_arrival() -> None:
    conflation: Conflation[int] = Conflation()
    for key, item in (("a", 1), ("b", 2), ("a", 3), ("a", 4)):
        conflation.put(key, item)
    assert len(conflation) == 2
    assert conflation.take() == [(4, 2), (2, 0)]
    assert conflation.skipped == 2


def test_each_item_is_taken_once() -> None:
    conflation: Conflation[int] = Conflation()
    conflation.put("a", 1)
    conflation.take()
    assert conflation.take() == []
    conflation.put("a", 2)
    assert conflation.take() == [(2, 0)]
    assert conflation.skipped == 0


def at(pace: Pace) -> Freshness:
    """Return a consumer as it is 10 s after time 0, when its last event came."""
    freshness = Freshness(MAX_AGE_S, snail_s=5.0)
    if pace is not FRESH:
        assert not freshness.judge(3.0, 10.0)
    if pace is SNAIL:
        for now in range(11, 16):
            freshness.judge(3.0, float(now))
    assert freshness.pace is pace
    return freshness


# After a fresh event, an old one, a moment, a silence.
TABLE = {
    FRESH: (FRESH, LATE, FRESH, FRESH),
    LATE: (FRESH, LATE, LATE, FRESH),
    SNAIL: (SNAIL, SNAIL, SNAIL, SNAIL),
}


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.name)
def test_table(pace: Pace) -> None:
    fresh, old, moment, silence = (at(pace) for _ in range(4))
    assert fresh.judge(MAX_AGE_S, 15.5)
    assert not old.judge(MAX_AGE_S + 0.1, 11.5 if pace is LATE else 15.5)
    moment.tick(11.5)
    silence.tick(18.5)
    assert (fresh.pace, old.pace, moment.pace, silence.pace) == TABLE[pace]


def test_f8_too_late_for_30_s_is_a_snail() -> None:
    freshness = Freshness(MAX_AGE_S)
    for now in range(int(SNAIL_S)):
        assert not freshness.judge(3.0, float(now))
        assert freshness.pace is LATE
    freshness.tick(SNAIL_S)
    assert freshness.pace is SNAIL
    assert freshness.aged == SNAIL_S


def test_one_fresh_event_begins_the_count_anew() -> None:
    freshness = Freshness(MAX_AGE_S, snail_s=5.0)
    for now in range(4):
        freshness.judge(3.0, float(now))
    assert freshness.judge(0.5, 4.0)
    for now in range(5, 9):
        freshness.judge(3.0, float(now))
    assert freshness.pace is LATE


def test_two_late_events_with_a_long_silence_between_are_no_snail() -> None:
    """The second used to count the silence as lateness when nobody ticked meanwhile."""
    freshness = Freshness(MAX_AGE_S)
    freshness.judge(3.0, 0.0)
    freshness.judge(3.0, 100.0)
    assert freshness.pace is LATE


def test_age_that_is_no_number_is_too_old() -> None:
    assert not Freshness(MAX_AGE_S).judge(float("nan"), 0.0)
