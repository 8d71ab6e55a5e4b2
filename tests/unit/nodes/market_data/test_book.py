from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.domain.market import BookDelta, BookSnapshot, Level
from nodes.market_data.book import BUFFERING, EMPTY, LIVE, RESYNCING, Book, BookState, Ladder

Levels = list[tuple[int, int]]


def levels(pairs: Levels) -> tuple[Level, ...]:
    return tuple((Decimal(price), Decimal(quantity)) for price, quantity in pairs)


def delta(
    first: int, last: int, prev: int = 0, bids: Levels | None = None, asks: Levels | None = None
) -> BookDelta:
    return BookDelta("X", first, last, prev, levels(bids or []), levels(asks or []))


def snapshot(
    update_id: int, bids: Levels | None = None, asks: Levels | None = None
) -> BookSnapshot:
    return BookSnapshot("X", update_id, levels(bids or [(100, 1)]), levels(asks or [(101, 1)]))


def state(book: Book) -> BookState:
    return book.state  # a call: mypy does not know that methods change it


def spot() -> Book:
    return Book("X", by_prev=False)


def live_spot() -> Book:
    book = spot()
    book.on_snapshot(snapshot(10))
    book.on_delta(delta(11, 12))
    return book


def test_book_is_empty_then_buffers_then_lives() -> None:
    book = spot()
    assert state(book) is EMPTY
    assert book.on_delta(delta(5, 8)) == ()
    assert state(book) is BUFFERING
    straddling = delta(9, 12, bids=[(99, 2)])
    assert book.on_delta(straddling) == ()
    assert book.on_snapshot(snapshot(10)) == (straddling,)
    assert state(book) is LIVE
    assert (book.dropped, book.applied, book.last_id) == (1, 1, 12)
    assert book.top(5).bids == levels([(100, 1), (99, 2)])
    book.check()


def test_snapshot_older_than_the_first_diff_is_asked_for_again() -> None:
    book = spot()
    book.on_delta(delta(20, 25))
    assert book.on_snapshot(snapshot(10)) == ()
    assert book.state is BUFFERING
    assert book.needs_snapshot
    assert len(book.on_snapshot(snapshot(19))) == 1
    assert not book.needs_snapshot


def test_first_spot_diff_must_straddle_the_snapshot() -> None:
    book = spot()
    book.on_snapshot(snapshot(10))
    book.on_delta(delta(12, 13))
    assert (book.state, book.reason, book.gaps) == (RESYNCING, "GAP", 1)


def test_spot_continues_by_the_next_id() -> None:
    book = live_spot()
    assert book.on_delta(delta(13, 20)) != ()
    assert book.on_delta(delta(22, 23)) == ()
    assert book.state is RESYNCING


def test_duplicates_are_dropped_without_harm() -> None:
    book = live_spot()
    assert book.on_delta(delta(11, 12, bids=[(100, 0)])) == ()
    assert book.state is LIVE
    assert book.top(1).bids == levels([(100, 1)])


def test_usdm_first_diff_holds_the_snapshots_id_and_then_prev_decides() -> None:
    book = Book("X", by_prev=True)
    book.on_delta(delta(1, 9, 0))
    book.on_delta(delta(10, 14, 9))
    assert len(book.on_snapshot(snapshot(12))) == 1
    assert book.on_delta(delta(90, 95, 14)) != ()  # ids may jump
    assert book.on_delta(delta(96, 99, 90)) == ()
    assert book.state is RESYNCING


def test_usdm_diff_that_ends_at_the_snapshot_is_applied() -> None:
    book = Book("X", by_prev=True)
    book.on_snapshot(snapshot(12))
    assert book.on_delta(delta(10, 12, 9)) != ()


def test_the_diff_after_a_gap_is_kept_for_the_next_snapshot() -> None:
    book = live_spot()
    after_gap = delta(22, 23)
    book.on_delta(after_gap)
    assert book.on_snapshot(snapshot(21)) == (after_gap,)
    assert book.state is LIVE


def test_crossed_top_invalidates() -> None:
    book = live_spot()
    assert book.on_delta(delta(13, 13, bids=[(101, 5)])) == ()
    assert (book.state, book.reason, book.crossings) == (RESYNCING, "CROSSED", 1)


def test_crossed_snapshot_is_not_believed() -> None:
    book = spot()
    book.on_snapshot(snapshot(10, bids=[(102, 1)]))
    assert book.state is RESYNCING


def test_live_book_ignores_further_snapshots() -> None:
    book = live_spot()
    book.on_snapshot(snapshot(500))
    assert book.last_id == 12


def test_deleting_an_unknown_level_is_legal() -> None:
    book = live_spot()
    assert book.on_delta(delta(13, 13, bids=[(50, 0)], asks=[(500, 0)])) != ()
    book.check()


def test_lost_connection_makes_it_wait_for_a_snapshot() -> None:
    book = live_spot()
    book.invalidate("CLOSED")
    assert (book.state, book.needs_snapshot) == (RESYNCING, True)


def test_buffer_is_bounded_and_keeps_the_newest() -> None:
    book = Book("X", by_prev=False, buffer_diffs=2)
    for first in range(1, 6):
        book.on_delta(delta(first, first))
    assert book.on_snapshot(snapshot(2)) == ()  # diff 3 fell out
    assert len(book.on_snapshot(snapshot(3))) == 2


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), max_size=80))
def test_ladder_is_a_sorted_dictionary(changes: Levels) -> None:
    ladder, plain = Ladder(), dict[Decimal, Decimal]()
    for price, quantity in levels(changes):
        ladder.apply([(price, quantity)])
        plain[price] = quantity
    held = sorted((price, quantity) for price, quantity in plain.items() if quantity)
    assert list(ladder.lowest(100)) == held
    assert list(ladder.highest(5)) == held[::-1][:5]


@pytest.mark.parametrize("by_prev", [False, True])
@given(data=st.data())
def test_whatever_arrives_a_live_book_keeps_its_invariants(
    by_prev: bool, data: st.DataObject
) -> None:
    book = Book("X", by_prev=by_prev, buffer_diffs=4)
    number = st.integers(0, 12)
    side = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=3)
    for _ in range(data.draw(st.integers(0, 12))):
        if data.draw(st.booleans()):
            first, last, prev = (data.draw(number) for _ in range(3))
            book.on_delta(delta(first, last, prev, data.draw(side), data.draw(side)))
        else:
            book.on_snapshot(snapshot(data.draw(number), data.draw(side), data.draw(side)))
        book.check()
