"""Catch-up: whatever is lost, late or slow, a journal is applied in order, without holes."""

from collections.abc import Callable

import pytest

from mesh.protocol import catchup as module
from mesh.protocol.catchup import (
    FETCHING,
    HALTED,
    LIVE,
    RANGE,
    RETRY_S,
    RETRY_S_MAX,
    STALL_S,
    SUBSCRIBED,
    WINDOW,
    Ahead,
    CatchUp,
    Gone,
    Notice,
    Range,
    Reset,
    Stage,
)
from mesh.protocol.control import StreamHead

Consumer = CatchUp[str]


def stream(last: int, first: int = 1, log_id: str = "j") -> StreamHead:
    return StreamHead("risk", log_id, first, last)


def items(*offsets: int) -> list[tuple[int, str]]:
    return [(offset, f"record {offset}") for offset in offsets]


def at(stage: Stage, applied: int = 10) -> Consumer:
    """Return a consumer of "a." that has applied 10; FETCHING has asked for 10..20."""
    consumer = Consumer(("a.",))
    consumer.begin("j", applied)
    if stage is not SUBSCRIBED:
        consumer.head(stream(applied + 10 if stage is FETCHING else applied), began=True)
        consumer.asks(0.0)
    if stage is HALTED:
        consumer.halt()
    assert consumer.stage is stage
    return consumer


def drain(consumer: Consumer) -> list[int]:
    """Apply all that is ready; return the offsets."""
    applied = []
    while (taken := consumer.take()) is not None:
        applied.append(taken[0])
        consumer.done(taken[0])
    consumer.check()
    return applied


def live(consumer: Consumer, *offsets: int) -> None:
    for offset in offsets:
        consumer.live(offset, f"record {offset}")


ASKED = Range("j", 10, 20)

INPUTS: dict[str, Callable[[Consumer], list[Notice] | None]] = {
    "HEAD, nothing new": lambda c: c.head(stream(c.announced), began=False),
    "HEAD, more": lambda c: c.head(stream(30), began=False),
    "HEAD, another log": lambda c: c.head(stream(5, log_id="k"), began=True),
    "HEAD, new log is empty": lambda c: c.head(stream(0, log_id="k"), began=True),
    "HEAD, an old copy": lambda c: c.head(stream(9), began=True),
    "HEAD, retention": lambda c: c.head(stream(40, first=30), began=False),
    "index, next": lambda c: c.index("j", c.announced + 1, ["a.x", "b.x"]),
    "index, one was lost": lambda c: c.index("j", c.announced + 2, ["a.x"]),
    "index, known": lambda c: c.index("j", 10, ["a.x"]),
    "index, another log": lambda c: c.index("k", c.announced + 1, ["a.x"]),
    "live, next": lambda c: c.live(c.announced + 1, "x"),
    "live, one was lost": lambda c: c.live(c.announced + 2, "x"),
    "live, a copy": lambda c: c.live(c.announced, "x"),
    "beacon, nothing new": lambda c: c.beacon(stream(c.announced)),
    "beacon, more": lambda c: c.beacon(stream(30)),
    "beacon, another log": lambda c: c.beacon(stream(30, log_id="k")),
    "page, the target": lambda c: c.page(ASKED, 20, items(12, 20), 1),
    "page, a part": lambda c: c.page(ASKED, 15, items(12), 1),
    "page, gone": lambda c: c.page(ASKED, 10, [], 15),
    "failed": lambda c: c.failed(ASKED, 0.0, 0.5),
    "halt": lambda c: c.halt(),
}
ANEW = (Reset("j", "k"),)
# What is not listed leaves the stage as it is and says nothing.
TABLE: dict[tuple[Stage, str], tuple[Stage, tuple[Notice, ...]]] = {
    (SUBSCRIBED, "HEAD, nothing new"): (LIVE, ()),
    (SUBSCRIBED, "HEAD, more"): (FETCHING, ()),
    (SUBSCRIBED, "HEAD, another log"): (FETCHING, ANEW),
    (SUBSCRIBED, "HEAD, new log is empty"): (LIVE, ANEW),
    (SUBSCRIBED, "HEAD, an old copy"): (HALTED, (Ahead(10, 9),)),
    (SUBSCRIBED, "HEAD, retention"): (FETCHING, (Gone(10, 30),)),
    (SUBSCRIBED, "halt"): (HALTED, ()),
    (FETCHING, "HEAD, another log"): (FETCHING, ANEW),
    (FETCHING, "HEAD, new log is empty"): (LIVE, ANEW),
    (FETCHING, "HEAD, an old copy"): (HALTED, (Ahead(20, 9),)),
    (FETCHING, "HEAD, retention"): (FETCHING, (Gone(10, 30),)),
    (FETCHING, "page, the target"): (LIVE, ()),
    (FETCHING, "page, gone"): (FETCHING, (Gone(10, 15),)),
    (FETCHING, "halt"): (HALTED, ()),
    (LIVE, "HEAD, more"): (FETCHING, ()),
    (LIVE, "HEAD, another log"): (FETCHING, ANEW),
    (LIVE, "HEAD, new log is empty"): (LIVE, ANEW),
    (LIVE, "HEAD, an old copy"): (HALTED, (Ahead(10, 9),)),
    (LIVE, "HEAD, retention"): (FETCHING, (Gone(10, 30),)),
    (LIVE, "index, one was lost"): (FETCHING, ()),
    (LIVE, "live, one was lost"): (FETCHING, ()),
    (LIVE, "beacon, more"): (FETCHING, ()),
    (LIVE, "halt"): (HALTED, ()),
}


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.name)
def test_table(stage: Stage, given: str) -> None:
    consumer = at(stage)
    notices = INPUTS[given](consumer) or []
    assert (consumer.stage, tuple(notices)) == TABLE.get((stage, given), (stage, ()))
    consumer.check()


def test_story() -> None:
    """Behind at the HEAD: fetch to there, while live records wait; then live; a gap fetches."""
    consumer = at(SUBSCRIBED, applied=3)
    assert consumer.head(stream(5), began=True) == []
    assert consumer.asks(0.0) == [Range("j", 3, 5)]
    consumer.index("j", 6, ["a.x", "b.x", "a.y"])
    live(consumer, 6, 8)
    assert drain(consumer) == []
    assert consumer.lag == 5
    consumer.page(Range("j", 3, 5), 5, items(4, 5), 1)
    assert (consumer.stage, drain(consumer)) == (LIVE, [4, 5, 6, 8])
    consumer.index("j", 9, ["a.x", "a.x"])
    live(consumer, 10)  # 9 was lost
    assert (consumer.stage, drain(consumer)) == (FETCHING, [])
    assert consumer.asks(1.0) == [Range("j", 8, 9)]
    consumer.page(Range("j", 8, 9), 9, items(9), 1)
    assert drain(consumer) == [9, 10]
    assert (consumer.lag, consumer.applied, consumer.confirm()) == (0, 10, 10)


def test_nothing_is_applied_before_the_first_head() -> None:
    consumer = at(SUBSCRIBED, applied=0)
    consumer.index("j", 1, ["a.x"])
    live(consumer, 1)
    consumer.beacon(stream(1))
    assert (consumer.stage, drain(consumer), consumer.asks(0.0)) == (SUBSCRIBED, [], [])
    assert consumer.next_deadline(0.0) is None


def test_topics_not_heard_are_no_holes() -> None:
    consumer = at(LIVE)
    consumer.index("j", 11, ["b.x", "a.x", "b.x", "b.x"])
    assert consumer.confirm() == 11  # all before what is due
    live(consumer, 12)
    assert (consumer.stage, drain(consumer), consumer.confirm()) == (LIVE, [12], 14)


def test_record_whose_index_was_lost_is_no_hole_if_it_is_the_next() -> None:
    consumer = at(LIVE)
    live(consumer, 11)
    assert (consumer.stage, drain(consumer)) == (LIVE, [11])


def test_index_behind_its_first_record_tells_of_the_rest() -> None:
    consumer = at(LIVE)
    live(consumer, 11)
    consumer.index("j", 11, ["a.x", "a.x"])
    assert consumer.confirm() == 10
    live(consumer, 12)
    assert drain(consumer) == [11, 12]


def test_lost_tail_shows_in_the_next_beacon() -> None:
    consumer = at(LIVE)
    consumer.index("j", 11, ["a.x", "a.x"])
    live(consumer, 11)
    consumer.beacon(stream(12))
    assert consumer.asks(0.0) == [Range("j", 11, 12)]


def test_record_that_did_not_come_before_the_next_index_is_lost() -> None:
    consumer = at(LIVE)
    consumer.index("j", 11, ["a.x", "a.x"])
    live(consumer, 11)
    consumer.index("j", 13, ["b.x"])
    assert consumer.asks(0.0) == [Range("j", 11, 12)]


def test_lost_index_shows_in_the_next_one() -> None:
    consumer = at(LIVE)
    consumer.index("j", 13, ["a.x"])
    assert consumer.asks(0.0) == [Range("j", 10, 12)]
    live(consumer, 13)
    consumer.page(Range("j", 10, 12), 12, [], 1)
    assert drain(consumer) == [13]


def test_gap_while_fetching_moves_the_target_behind_it() -> None:
    consumer = at(FETCHING)
    consumer.index("j", 21, ["a.x"] * 4)
    live(consumer, 21, 22, 24)  # 23 was lost
    assert consumer.asks(0.0) == [Range("j", 20, 23)]
    consumer.page(ASKED, 20, items(20), 1)
    assert drain(consumer) == [20]
    consumer.page(Range("j", 20, 23), 23, items(21, 22, 23), 1)
    assert drain(consumer) == [21, 22, 23, 24]


def test_f13_copies_are_dropped_wherever_the_first_went() -> None:
    consumer = at(FETCHING)
    consumer.index("j", 21, ["a.x", "a.x"])
    live(consumer, 21, 21, 20, 22, 21, 22)
    consumer.check()
    consumer.page(ASKED, 20, items(20), 1)
    live(consumer, 21, 22)
    assert (consumer.stage, drain(consumer)) == (LIVE, [20, 21, 22])


def test_full_buffer_is_dropped_and_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER_MAX", 2)
    consumer = at(FETCHING)
    consumer.index("j", 21, ["a.x"] * 4)
    live(consumer, 21, 22, 23, 24)
    assert (consumer.overflows, consumer.target) == (1, 23)
    consumer.check()
    consumer.page(ASKED, 20, items(20), 1)
    assert consumer.asks(0.0) == [Range("j", 20, 23)]
    consumer.page(Range("j", 20, 23), 23, items(21, 22, 23), 1)
    assert drain(consumer) == [20, 21, 22, 23, 24]


def test_slow_consumer_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's journal is the queue: nothing is fetched for which there is no room."""
    monkeypatch.setattr(module, "READY_MAX", 2)
    consumer = at(LIVE)
    live(consumer, 11, 12, 13)
    assert (consumer.stage, consumer.overflows) == (FETCHING, 1)
    assert consumer.asks(0.0) == []
    assert consumer.next_deadline(0.0) is None
    consumer.done(consumer.take()[0])  # type: ignore[index]  # there is one
    assert consumer.asks(0.0) == [Range("j", 12, 13)]


def test_window_of_fetches_is_answered_in_any_order() -> None:
    consumer = at(SUBSCRIBED, applied=0)
    consumer.head(stream(6 * RANGE), began=True)
    asks = consumer.asks(0.0)
    assert asks == [Range("j", n * RANGE, (n + 1) * RANGE) for n in range(WINDOW)]
    assert consumer.asks(0.0) == []
    for asked in reversed(asks):
        consumer.page(asked, asked.to, items(asked.to), 1)
        consumer.check()
    assert drain(consumer) == [asked.to for asked in asks]
    assert consumer.asks(0.0) == [Range("j", n * RANGE, (n + 1) * RANGE) for n in (4, 5)]


def test_rest_of_a_short_page_ends_where_the_next_fetch_begins() -> None:
    """It used to overlap that fetch, whose answer was then thrown away and asked for again."""
    consumer = at(SUBSCRIBED, applied=0)
    consumer.head(stream(2 * RANGE), began=True)
    one, two = consumer.asks(0.0)
    consumer.page(two, two.to, items(two.to), 1)
    consumer.page(one, 100, items(100), 1)
    assert consumer.asks(0.0) == [Range("j", 100, RANGE)]
    consumer.page(Range("j", 100, RANGE), RANGE, [], 1)
    assert (consumer.stage, drain(consumer)) == (LIVE, [100, two.to])


def test_fetch_without_an_answer_is_asked_again() -> None:
    consumer = at(FETCHING)
    assert consumer.next_deadline(1.0) == STALL_S
    assert consumer.asks(STALL_S - 0.01) == []
    assert consumer.asks(STALL_S) == [ASKED]
    consumer.page(ASKED, 20, items(20), 1)
    assert consumer.page(ASKED, 20, items(20), 1) == []  # the answer to the first
    assert drain(consumer) == [20]


@pytest.mark.parametrize("began", [0.0, 0.1, 0.7, 1e9 + 0.3])
def test_deadline_of_a_stalled_fetch_is_no_moment_too_early(began: float) -> None:
    """At its own deadline asks() used to have nothing to say: simulated time stood still."""
    consumer = at(SUBSCRIBED)
    consumer.head(stream(20), began=True)
    consumer.asks(began)
    deadline = consumer.next_deadline(began)
    assert deadline is not None
    assert consumer.asks(deadline) == [ASKED]


def test_failed_fetches_are_asked_again_later_and_later() -> None:
    consumer = at(FETCHING)
    now, pauses = 0.0, []
    for _ in range(12):
        consumer.failed(ASKED, now, 1.0)
        assert consumer.asks(now) == []
        due = consumer.next_deadline(now)
        assert due is not None
        pauses.append(round(due - now, 3))
        now = due
        assert consumer.asks(now) == [ASKED]
    assert pauses[:3] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S]
    assert pauses[-1] == RETRY_S_MAX
    consumer.page(ASKED, 15, items(15), 1)
    consumer.failed(Range("j", 15, 20), now, 0.0)  # success forgets the failures; dice halve
    assert consumer.next_deadline(now) == pytest.approx(now + RETRY_S / 2)


def test_page_that_looked_at_nothing_is_not_asked_again_at_once() -> None:
    """It used to be asked for again in a loop as fast as the network answers."""
    consumer = at(FETCHING)
    assert consumer.page(ASKED, 10, [], 1) == []
    assert consumer.asks(0.1) == []
    assert consumer.next_deadline(0.1) == STALL_S


@pytest.mark.parametrize("through", [9, 21, 10**9])
def test_page_that_answers_something_else_is_not_believed(through: int) -> None:
    consumer = at(FETCHING)
    consumer.page(ASKED, through, items(12), 1)
    assert (consumer.stage, drain(consumer)) == (FETCHING, [])


def test_records_outside_the_range_are_not_believed() -> None:
    consumer = at(FETCHING)
    consumer.page(ASKED, 20, items(5, 10, 11, 20, 21), 1)
    assert drain(consumer) == [11, 20]


def test_another_journal_starts_from_its_beginning() -> None:
    consumer = at(LIVE)
    live(consumer, 11)
    assert consumer.head(stream(2, log_id="k"), began=True) == [Reset("j", "k")]
    assert consumer.asks(0.0) == [Range("k", 0, 2)]
    assert consumer.page(Range("j", 0, 2), 2, items(1, 2), 1) == []  # of the old one
    consumer.page(Range("k", 0, 2), 2, items(1, 2), 1)
    assert drain(consumer) == [1, 2]


def test_record_of_another_journal_that_was_being_applied_counts_for_nothing() -> None:
    """Its offset used to pass for one of the new journal, whose beginning was then skipped."""
    consumer = at(LIVE, applied=50)
    live(consumer, 51)
    assert consumer.take() == (51, "record 51")
    consumer.head(stream(3, log_id="k"), began=True)
    consumer.done(51)
    assert consumer.applied == 0
    [asked] = consumer.asks(0.0)
    consumer.page(asked, 3, items(1, 2, 3), 1)
    assert drain(consumer) == [1, 2, 3]


def test_failure_of_another_journal_s_fetch_delays_nothing() -> None:
    consumer = at(FETCHING)
    consumer.head(stream(3, log_id="k"), began=True)
    asks = consumer.asks(0.0)
    consumer.failed(ASKED, 0.0, 1.0)
    assert consumer.next_deadline(0.0) == STALL_S
    assert asks == [Range("k", 0, 3)]


def test_old_copy_of_the_journal_halts_the_stream() -> None:
    consumer = at(LIVE)
    assert consumer.head(stream(4), began=True) == [Ahead(10, 4)]
    live(consumer, 5, 11)
    assert (consumer.stage, drain(consumer), consumer.confirm()) == (HALTED, [], 10)


def test_head_of_the_same_run_may_be_older_than_what_was_heard() -> None:
    consumer = at(LIVE)
    live(consumer, 11)
    assert consumer.head(stream(10), began=False) == []
    assert drain(consumer) == [11]


def test_halted_stream_hands_out_nothing_that_was_asked_before() -> None:
    """The answer to a fetch under way used to bring what lies behind the poisoned record."""
    consumer = at(FETCHING)
    consumer.index("j", 21, ["a.x"])
    live(consumer, 21)
    consumer.page(ASKED, 12, items(11, 12), 1)
    [asked] = consumer.asks(0.0)
    assert consumer.take() == (11, "record 11")
    consumer.halt()
    consumer.page(asked, 20, items(20), 1)
    assert drain(consumer) == []
    assert consumer.confirm() == 10
    assert consumer.lag == 11  # and it still shows how far behind it is


def test_record_being_applied_is_not_confirmed_and_lags() -> None:
    """The lag used to be 0 while the last record was still being applied."""
    consumer = at(LIVE)
    live(consumer, 11)
    assert (consumer.confirm(), consumer.lag) == (10, 1)
    consumer.take()
    assert (consumer.confirm(), consumer.lag) == (10, 1)
    consumer.done(11)
    assert (consumer.confirm(), consumer.lag) == (11, 0)


def test_retention_that_overtook_us_is_said_and_skipped() -> None:
    consumer = at(FETCHING)
    assert consumer.page(ASKED, 10, [], 17) == [Gone(10, 17)]
    assert consumer.asks(0.0) == [Range("j", 16, 20)]
    consumer.page(Range("j", 16, 20), 20, items(17, 20), 17)
    assert drain(consumer) == [17, 20]


def test_retention_of_everything_leaves_nothing_to_fetch() -> None:
    consumer = at(SUBSCRIBED)
    assert consumer.head(stream(last=40, first=41), began=True) == [Gone(10, 41)]
    assert (consumer.stage, consumer.confirm()) == (LIVE, 40)


def test_records_at_or_below_what_is_applied_never_come_out_again() -> None:
    consumer = at(FETCHING)
    consumer.applied = 12  # learned from the consumer's own store
    consumer.page(ASKED, 20, items(11, 12, 13), 1)
    assert drain(consumer) == [13]


def together(first: str, item: str) -> bool:
    return True


def taken(consumer: Consumer, most: int = 9) -> list[int]:
    """Take a run; return its offsets."""
    return [offset for offset, _ in consumer.take_run(most, together)]


def test_run_is_confirmed_by_its_last_offset() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12, 13, 14)
    assert taken(consumer, most=3) == [11, 12, 13]
    assert (consumer.applied, consumer.confirm(), consumer.lag) == (10, 10, 4)
    consumer.done(13)
    assert (consumer.applied, consumer.lag, drain(consumer)) == (13, 1, [14])


def test_run_ends_before_a_record_that_does_not_join_it() -> None:
    consumer = at(LIVE)
    for offset, item in enumerate("aaba", 11):
        consumer.live(offset, item)
    runs = []
    while run := consumer.take_run(9, str.__eq__):
        runs.append([offset for offset, _ in run])
        consumer.done(run[-1][0])
    assert runs == [[11, 12], [13], [14]]


def test_run_that_was_given_back_comes_again_before_all_else() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12, 13)
    taken(consumer, most=2)
    consumer.give_back()
    consumer.check()
    assert (consumer.applied, consumer.lag, drain(consumer)) == (10, 3, [11, 12, 13])


def test_what_of_a_run_is_done_does_not_come_again() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12, 13)
    taken(consumer)
    consumer.done(11)
    consumer.check()
    consumer.give_back()
    assert (consumer.applied, drain(consumer)) == (11, [12, 13])


def test_nothing_is_handed_out_while_a_run_is_being_applied() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12)
    taken(consumer, most=1)
    assert (taken(consumer), consumer.take()) == ([], None)


def test_offset_that_was_not_taken_confirms_nothing() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12, 13)
    taken(consumer, most=2)
    consumer.done(13)
    consumer.done(99)
    assert consumer.applied == 10
    consumer.done(12)
    assert consumer.applied == 12


def test_run_of_another_journal_is_neither_confirmed_nor_given_back() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12)
    taken(consumer)
    consumer.head(stream(0, log_id="k"), began=True)
    consumer.give_back()
    consumer.done(12)
    assert (consumer.applied, drain(consumer)) == (0, [])


def test_halted_stream_confirms_what_was_being_applied_and_gives_nothing_back() -> None:
    consumer = at(LIVE)
    live(consumer, 11, 12)
    taken(consumer)
    consumer.halt()
    consumer.done(11)
    consumer.give_back()
    assert (consumer.applied, drain(consumer)) == (11, [])
