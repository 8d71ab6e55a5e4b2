"""Sequence: every hole is reported once, nothing is delivered twice, old runs are dropped."""

from random import Random

from mesh.protocol.sequence import DELIVER, DUPLICATE, STALE, Gap, SequenceTracker


def test_story() -> None:
    tracker = SequenceTracker()
    assert tracker.head(5, {"a": 10}) == (True, [])
    assert tracker.frame(5, "a", 11) == (DELIVER, None)
    assert tracker.frame(5, "a", 11) == (DUPLICATE, None)
    assert tracker.frame(5, "a", 14) == (DELIVER, Gap("a", 12, 13))
    assert tracker.frame(4, "a", 99) == (STALE, None)
    assert tracker.missed == 2


def test_lost_last_frame_shows_in_the_next_head() -> None:
    tracker = SequenceTracker()
    tracker.head(5, {"a": 1})
    assert tracker.head(5, {"a": 3}) == (False, [Gap("a", 2, 3)])
    assert tracker.head(5, {"a": 3}) == (False, [])


def test_topic_unknown_to_head_begins_at_one() -> None:
    tracker = SequenceTracker()
    tracker.head(5, {})
    assert tracker.frame(5, "new", 2) == (DELIVER, Gap("new", 1, 1))


def test_new_run_begins_anew() -> None:
    tracker = SequenceTracker()
    tracker.head(5, {"a": 10})
    assert tracker.head(6, {"a": 2}) == (True, [])
    assert tracker.frame(6, "a", 3) == (DELIVER, None)
    assert tracker.head(5, {"a": 99}) == (False, [])


def test_frame_before_any_head_sets_the_baseline() -> None:
    tracker = SequenceTracker()
    assert tracker.frame(5, "a", 7) == (DELIVER, None)
    assert tracker.frame(5, "a", 8) == (DELIVER, None)


def test_delivered_and_missed_add_up_to_what_was_published() -> None:
    dice = Random(11)
    tracker = SequenceTracker()
    tracker.head(1, {})
    delivered = 0
    for seq in range(1, 2_001):
        for _ in range(dice.choice((0, 1, 1, 2))):  # lost, sent, sent twice
            delivered += tracker.frame(1, "a", seq)[0] is DELIVER
    tracker.head(1, {"a": 2_000})
    assert delivered + tracker.missed == 2_000


def test_added_topic_that_already_runs_is_no_gap_but_known_ones_are() -> None:
    tracker = SequenceTracker()
    tracker.head(1, {"a": 1})
    tracker.widen()
    assert tracker.frame(1, "b", 162) == (DELIVER, None)
    assert tracker.frame(1, "a", 4) == (DELIVER, Gap("a", 2, 3))
    assert tracker.head(1, {"a": 4, "b": 163, "c": 9}) == (False, [Gap("b", 163, 163)])
    assert tracker.frame(1, "d", 2) == (DELIVER, Gap("d", 1, 1))


def test_forgotten_topic_begins_anew() -> None:
    tracker = SequenceTracker()
    tracker.head(1, {"a.x": 1, "b": 1})
    tracker.forget("a.")
    tracker.widen()
    assert tracker.frame(1, "a.x", 50) == (DELIVER, None)
    assert tracker.frame(1, "b", 3) == (DELIVER, Gap("b", 2, 2))
