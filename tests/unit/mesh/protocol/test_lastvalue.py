"""LastValues: the newest value per topic in the end, never an older one after a newer one."""

import pytest

from mesh.protocol.envelope import TOMBSTONE, Event
from mesh.protocol.lastvalue import LastValues

RUN = 5


def value(topic: str, seq: int, epoch: int = RUN) -> Event:
    return Event(topic, 1, 2, epoch, seq, b"")


def tombstone(topic: str, seq: int, epoch: int = RUN) -> Event:
    return Event(topic, 1, 2, epoch, seq, b"", TOMBSTONE)


def holding(*events: Event) -> LastValues:
    last = LastValues()
    for event in events:
        last.live(event)
    return last


def held(last: LastValues) -> dict[str, tuple[int, int]]:
    last.check()
    return {topic: (event.epoch, event.seq) for topic, event in last.values.items()}


def test_story() -> None:
    last = LastValues()
    last.ask()
    assert last.live(value("a", 7))  # newer than the snapshot under way
    assert not last.offer(value("a", 6))
    assert last.offer(value("b", 3))
    assert last.end(("",), complete=True) == []
    assert held(last) == {"a": (RUN, 7), "b": (RUN, 3)}
    assert last.live(tombstone("a", 8))
    assert held(last) == {"b": (RUN, 3)}
    last.begin()  # the publisher restarted
    assert (held(last), last.stale) == ({"b": (RUN, 3)}, {"b"})
    last.ask()
    assert last.offer(value("c", 1, epoch=6))
    assert last.end(("",), complete=True) == [value("b", 3)]  # the new run has none
    assert held(last) == {"c": (6, 1)}


# (what is held, what is offered) to whether it is news and what is held then.
OFFERS: dict[str, tuple[Event | None, Event, bool, tuple[int, int]]] = {
    "nothing known": (None, value("a", 1), True, (RUN, 1)),
    "the same": (value("a", 1), value("a", 1), False, (RUN, 1)),
    "newer": (value("a", 1), value("a", 2), True, (RUN, 2)),
    "older": (value("a", 2), value("a", 1), False, (RUN, 2)),
    "of a newer run": (value("a", 9), value("a", 1, epoch=6), True, (6, 1)),
    "of an older run": (value("a", 1, epoch=6), value("a", 9), False, (6, 1)),
}


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("case", OFFERS)
def test_table_of_offers(case: str, stale: bool) -> None:
    known, offered, news, after = OFFERS[case]
    last = holding(*([] if known is None else [known]))
    if stale:
        last.begin()
    last.ask()
    assert last.offer(offered) is news
    assert held(last) == {"a": after}


@pytest.mark.parametrize("case", OFFERS)
def test_live_values_are_merged_by_the_same_table(case: str) -> None:
    known, event, news, after = OFFERS[case]
    last = holding(*([] if known is None else [known]))
    assert last.live(event) is news
    assert held(last) == {"a": after}


@pytest.mark.parametrize("late", [value("a", 10), tombstone("a", 10)])
def test_live_event_older_than_a_snapshot_that_overtook_it_is_no_news(late: Event) -> None:
    """The snapshot comes on another socket: what the plane still held used to win."""
    last = LastValues()
    last.ask()
    last.offer(value("a", 12))
    assert not last.live(late)
    assert held(last) == {"a": (RUN, 12)}


def test_value_deleted_while_a_snapshot_is_under_way_stays_deleted() -> None:
    last = holding(value("a", 1))
    last.ask()
    assert last.live(tombstone("a", 2))
    assert not last.offer(value("a", 1))
    assert last.end(("",), complete=True) == []
    assert held(last) == {}
    assert last.gone == {}
    last.ask()
    assert last.offer(value("a", 3))


def test_tombstone_of_what_was_not_known_is_news_all_the_same() -> None:
    assert LastValues().live(tombstone("a", 1))


def test_value_in_doubt_is_never_replaced_by_an_older_one() -> None:
    """A snapshot made before the loss used to bring back what was before, and trust in it."""
    last = holding(value("a", 10))
    last.ask()
    last.doubt("a", 11)
    assert not last.offer(value("a", 9))
    assert not last.offer(value("a", 10))
    assert (held(last), last.stale) == ({"a": (RUN, 10)}, {"a"})
    last.end(("",), complete=True)
    last.ask()
    assert last.offer(value("a", 11))
    assert not last.stale


def test_snapshot_made_before_a_loss_ends_no_value() -> None:
    """Of a topic that began meanwhile it knows nothing; its value used to be dropped."""
    last = LastValues()
    last.ask()
    last.live(value("a", 1))
    last.doubt("a", 2)
    assert last.end(("",), complete=True) == []
    assert (held(last), last.stale) == ({"a": (RUN, 1)}, {"a"})
    last.ask()
    assert last.end(("a\0",), complete=True) == [value("a", 1)]  # 2 was its tombstone


def test_snapshot_of_the_run_before_ends_no_value() -> None:
    last = holding(value("a", 1))
    last.ask()
    last.begin()
    assert last.end(("",), complete=True) == []
    assert last.stale == {"a"}


def test_loss_before_what_is_held_raises_no_doubt() -> None:
    last = holding(value("a", 10))
    last.doubt("a", 9)
    last.doubt("unknown", 3)
    assert not last.stale


def test_loss_of_unknown_extent_leaves_the_value_to_a_later_snapshot() -> None:
    last = holding(value("a", 10))
    last.ask()
    last.doubt("a")
    assert last.end(("",), complete=True) == []
    assert last.stale == {"a"}


def test_live_value_ends_the_doubt() -> None:
    last = holding(value("a", 10))
    last.doubt("a")
    assert last.stale == {"a"}
    last.live(value("a", 12))
    assert not last.stale


def test_torn_snapshot_ends_no_value() -> None:
    last = holding(value("a", 1))
    last.begin()
    last.ask()
    assert last.end(("",), complete=False) == []
    assert last.stale == {"a"}


def test_snapshot_ends_only_values_it_was_asked_for() -> None:
    last = holding(value("a.x", 1), value("b.x", 1))
    last.begin()
    last.ask()
    assert last.end(("a.",), complete=True) == [value("a.x", 1)]
    assert last.stale == {"b.x"}


def test_what_moved_is_remembered_until_the_last_snapshot_is_over() -> None:
    last = holding(value("a", 1))
    last.ask()
    last.ask()
    last.live(tombstone("a", 2))
    last.end(("",), complete=True)
    assert not last.offer(value("a", 1))  # by the other
    last.end(("",), complete=True)
    assert (last.gone, last.unsure, last.asking) == ({}, set(), 0)


def test_matching_and_forgetting_go_by_prefix() -> None:
    last = holding(value("a.x", 1), value("a.y", 1), value("b.x", 1))
    assert last.matching("a.") == [value("a.x", 1), value("a.y", 1)]
    assert last.matching("a.x\0") == [value("a.x", 1)]
    last.doubt("a.x")
    last.forget("a.", kept=["a.y\0"])
    assert held(last) == {"a.y": (RUN, 1), "b.x": (RUN, 1)}
    assert not last.stale
