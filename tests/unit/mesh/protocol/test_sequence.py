"""Sequence: every hole is reported once, nothing is delivered twice, old runs are dropped."""

from collections.abc import Callable
from random import Random

import pytest

from mesh.protocol.sequence import (
    DELIVER,
    DUPLICATE,
    EARLY,
    STALE,
    Gap,
    SequenceTracker,
    Verdict,
)

RUN = 5


def unheard() -> SequenceTracker:
    return SequenceTracker()


def early() -> SequenceTracker:
    """A run of which frames came, but not its HEAD."""
    tracker = SequenceTracker()
    assert tracker.frame(RUN, "a", 10) == (EARLY, None)
    return tracker


def synced() -> SequenceTracker:
    tracker = SequenceTracker()
    assert tracker.head(RUN, {"a": 10}) == (True, [])
    return tracker


def widening() -> SequenceTracker:
    """A run to whose settled "a" other topics are being added."""
    tracker = synced()
    tracker.widen(["a"])
    return tracker


STATES: dict[str, Callable[[], SequenceTracker]] = {
    "unheard": unheard,
    "early": early,
    "synced": synced,
    "widening": widening,
}
FRAMES = {
    "of an older run": (4, "a", 99),
    "of a newer run": (6, "a", 99),
    "the next": (RUN, "a", 11),
    "a copy": (RUN, "a", 10),
    "behind a hole": (RUN, "a", 14),
    "the first of a topic": (RUN, "b", 1),
    "a later one of a topic": (RUN, "b", 3),
    "of run 0, which is none": (0, "a", 1),
}
JUDGED: dict[tuple[str, str], tuple[Verdict, Gap | None]] = {
    ("unheard", "of an older run"): (EARLY, None),  # older than what is not known yet
    ("unheard", "of a newer run"): (EARLY, None),
    ("unheard", "the next"): (EARLY, None),
    ("unheard", "a copy"): (EARLY, None),
    ("unheard", "behind a hole"): (EARLY, None),
    ("unheard", "the first of a topic"): (EARLY, None),
    ("unheard", "a later one of a topic"): (EARLY, None),
    ("unheard", "of run 0, which is none"): (STALE, None),
    ("early", "of an older run"): (STALE, None),
    ("early", "of a newer run"): (EARLY, None),
    ("early", "the next"): (EARLY, None),
    ("early", "a copy"): (DUPLICATE, None),
    ("early", "behind a hole"): (EARLY, None),
    ("early", "the first of a topic"): (EARLY, None),
    ("early", "a later one of a topic"): (EARLY, None),
    ("early", "of run 0, which is none"): (STALE, None),
    ("synced", "of an older run"): (STALE, None),
    ("synced", "of a newer run"): (EARLY, None),
    ("synced", "the next"): (DELIVER, None),
    ("synced", "a copy"): (DUPLICATE, None),
    ("synced", "behind a hole"): (DELIVER, Gap("a", 11, 13)),
    ("synced", "the first of a topic"): (DELIVER, None),
    ("synced", "a later one of a topic"): (DELIVER, Gap("b", 1, 2)),
    ("synced", "of run 0, which is none"): (STALE, None),
    ("widening", "of an older run"): (STALE, None),
    ("widening", "of a newer run"): (EARLY, None),
    ("widening", "the next"): (DELIVER, None),
    ("widening", "a copy"): (DUPLICATE, None),
    ("widening", "behind a hole"): (DELIVER, Gap("a", 11, 13)),
    ("widening", "the first of a topic"): (DELIVER, None),
    ("widening", "a later one of a topic"): (DELIVER, None),  # it ran before it was added
    ("widening", "of run 0, which is none"): (STALE, None),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_table_of_frames(state: str, frame: str) -> None:
    tracker, (epoch, topic, seq) = STATES[state](), FRAMES[frame]
    assert tracker.frame(epoch, topic, seq) == JUDGED[state, frame]
    assert tracker.epoch == max(epoch, 0 if state == "unheard" else RUN)
    assert tracker.stale == (JUDGED[state, frame][0] is STALE)
    assert tracker.duplicates == (JUDGED[state, frame][0] is DUPLICATE)
    gap = JUDGED[state, frame][1]
    assert tracker.missed == (gap.last - gap.first + 1 if gap else 0)
    tracker.check()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("state", STATES)
def test_common_case_is_taken_as_the_full_judgement_takes_it(state: str, frame: str) -> None:
    fast, full = STATES[state](), STATES[state]()
    verdict = full.frame(*FRAMES[frame])
    common = state in ("synced", "widening") and frame == "the next"
    assert fast.is_next(*FRAMES[frame]) is common
    assert fast == (full if common else STATES[state]())
    assert not common or verdict == (DELIVER, None)


HEADS: dict[tuple[str, int], tuple[bool, list[Gap]]] = {
    ("unheard", 0): (False, []),
    ("unheard", 4): (True, []),
    ("unheard", RUN): (True, []),
    ("early", 4): (False, []),
    ("early", RUN): (True, []),
    ("early", 6): (True, []),
    ("synced", 4): (False, []),
    ("synced", RUN): (False, [Gap("a", 11, 12), Gap("b", 1, 2)]),
    ("synced", 6): (True, []),
    ("widening", 4): (False, []),
    ("widening", RUN): (False, [Gap("a", 11, 12)]),  # "b" was not heard before
    ("widening", 6): (True, []),
}


@pytest.mark.parametrize(("state", "epoch"), HEADS)
def test_table_of_heads(state: str, epoch: int) -> None:
    tracker = STATES[state]()
    assert tracker.head(epoch, {"a": 12, "b": 2}) == HEADS[state, epoch]
    tracker.check()
    if tracker.stale:
        return  # it changed nothing else
    assert tracker.synced
    assert tracker.frame(epoch, "a", 13) == (DELIVER, None)
    assert tracker.frame(epoch, "b", 4) == (DELIVER, Gap("b", 3, 3))
    assert tracker.frame(epoch, "new", 2) == (DELIVER, Gap("new", 1, 1))


BEACONS: dict[tuple[str, int], list[Gap]] = {
    ("unheard", RUN): [],
    ("early", RUN): [],
    ("synced", 4): [],
    ("synced", 6): [],
    ("synced", RUN): [Gap("a", 11, 12), Gap("b", 1, 2)],
    ("widening", RUN): [Gap("a", 11, 12)],
}


@pytest.mark.parametrize(("state", "epoch"), BEACONS)
def test_table_of_beacons(state: str, epoch: int) -> None:
    tracker = STATES[state]()
    assert tracker.beacon(epoch, {"a": 12, "b": 2}) == BEACONS[state, epoch]
    assert tracker.beacon(epoch, {"a": 12, "b": 2}) == []  # each hole is said once
    tracker.check()


def test_story() -> None:
    tracker = SequenceTracker()
    assert tracker.head(5, {"a": 10}) == (True, [])
    assert tracker.frame(5, "a", 11) == (DELIVER, None)
    assert tracker.frame(5, "a", 11) == (DUPLICATE, None)
    assert tracker.frame(5, "a", 14) == (DELIVER, Gap("a", 12, 13))
    assert tracker.frame(4, "a", 99) == (STALE, None)
    assert tracker.frame(6, "a", 1) == (EARLY, None)  # a restart; its HEAD is still to come
    assert tracker.head(6, {"a": 2}) == (True, [])
    assert tracker.frame(6, "a", 3) == (DELIVER, None)
    assert (tracker.missed, tracker.duplicates, tracker.stale) == (2, 1, 1)


def test_lost_last_frame_shows_in_the_next_head_or_beacon() -> None:
    tracker = synced()
    assert tracker.head(RUN, {"a": 12}) == (False, [Gap("a", 11, 12)])
    assert tracker.beacon(RUN, {"a": 13}) == [Gap("a", 13, 13)]


def test_frame_that_arrived_although_its_head_is_older_is_no_gap() -> None:
    tracker = synced()
    tracker.frame(RUN, "a", 11)
    assert tracker.head(RUN, {"a": 10}) == (False, [])
    assert tracker.frame(RUN, "a", 12) == (DELIVER, None)


def test_frame_of_run_0_breaks_no_invariant() -> None:
    """Runs count from 1; a frame of run 0 used to be taken before any HEAD."""
    tracker = unheard()
    assert tracker.frame(0, "a", 1) == (STALE, None)
    assert tracker.head(0, {"a": 1}) == (False, [])
    tracker.check()


def test_sequence_far_ahead_costs_no_memory() -> None:
    """A21: a leap of 2^63 is one gap."""
    tracker = synced()
    assert tracker.frame(RUN, "a", 1 << 63) == (DELIVER, Gap("a", 11, (1 << 63) - 1))
    assert tracker.head(RUN, {"a": -5, "b": -1}) == (False, [])
    tracker.check()


def test_forgotten_topic_begins_anew() -> None:
    tracker = SequenceTracker()
    tracker.head(1, {"a.x": 1, "b": 1})
    tracker.forget("a.")
    tracker.widen(["b"])
    assert tracker.frame(1, "a.x", 50) == (DELIVER, None)
    assert tracker.frame(1, "b", 3) == (DELIVER, Gap("b", 2, 2))


def test_forgetting_one_topic_exactly_keeps_those_whose_names_begin_so() -> None:
    """The longer name used to be forgotten too; its next event came with a gap from 1."""
    tracker = SequenceTracker()
    tracker.head(1, {"md.BTC-USD": 7, "md.BTC-USDT": 7})
    tracker.forget("md.BTC-USD\0")
    assert tracker.frame(1, "md.BTC-USDT", 8) == (DELIVER, None)


def test_forgetting_a_prefix_keeps_what_another_hears() -> None:
    tracker = SequenceTracker()
    tracker.head(1, {"md.trade.X": 7, "md.quote.X": 7})
    tracker.forget("md.", ["md.trade.", "!hb\0"])
    assert tracker.frame(1, "md.trade.X", 8) == (DELIVER, None)
    assert "md.quote.X" not in tracker.expected


def test_prefix_dropped_and_wanted_again_before_the_next_head_has_no_baseline() -> None:
    """It counted as settled for ever while others were being added: a gap from 1."""
    tracker = SequenceTracker()
    tracker.head(1, {"a": 9})
    tracker.widen(["a"])  # "b" is being added
    tracker.forget("a", kept=["b"])
    tracker.widen(["b"])  # and "a" again
    assert tracker.frame(1, "a", 50) == (DELIVER, None)


@pytest.mark.parametrize(
    ("dropped", "kept", "settled"),
    [
        ("a.", ["a.x\0", "b."], True),  # the narrower goes on where the wider ends
        ("a.", ["", "b."], True),  # and the wider where the narrower does
        ("a.", ["a.y\0", "b."], False),
        ("b.", ["a."], True),
    ],
)
def test_dropping_a_prefix_leaves_settled_what_is_heard_without_a_break(
    dropped: str, kept: list[str], settled: bool
) -> None:
    """A loss in between used to pass in silence, as if the topic were only being added."""
    tracker = SequenceTracker()
    tracker.head(1, {})
    tracker.widen(["a."])  # the others are being added
    tracker.forget(dropped, kept)
    gap = Gap("a.x", 1, 1) if settled else None
    assert tracker.frame(1, "a.x", 2) == (DELIVER, gap)


def test_region_kept_by_a_wider_prefix_ends_with_it() -> None:
    tracker = SequenceTracker()
    tracker.head(1, {"a.x": 5})
    tracker.widen(["a."])
    tracker.forget("a.", kept=[""])
    tracker.forget("", kept=["b."])
    tracker.widen(["b."])
    assert tracker.frame(1, "a.x", 50) == (DELIVER, None)


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
