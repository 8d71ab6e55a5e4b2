"""Once: a key has one effect; what it became is told until it is forgotten."""

from collections.abc import Iterator
from random import Random

import pytest

from mesh.protocol.once import (
    ANSWERED,
    ASK,
    ATTACH,
    CONFLICT,
    FRESH,
    FULL,
    IN_PROGRESS,
    KEEP_S,
    RESOLVE,
    STORED,
    TRANSITIONS,
    UNRESOLVED,
    Key,
    Once,
    Row,
    Standing,
    Turn,
    digest_of,
)

KEY, OTHER = Key("risk", b"k" * 16), Key("strategy", b"k" * 16)


@pytest.fixture
def once() -> Iterator[Once]:
    once = Once(entries_max=3, bytes_max=100)
    yield once
    once.check()


def answer(once: Once, key: Key, reply: bytes = b"r", now: float = 0.0) -> None:
    assert once.judge(key, 1, b"body", now) is FRESH
    once.answered(key, reply, now)


def test_story(once: Once) -> None:
    """Fresh, attached while it runs, stored when it is answered."""
    assert once.judge(KEY, 1, b"body", 0.0) is FRESH
    assert once.judge(KEY, 1, b"body", 0.1) is ATTACH
    once.answered(KEY, b"reply", 0.2)
    assert once.judge(KEY, 1, b"body", 0.3) is STORED
    assert once.reply(KEY) == b"reply"


def test_a19_a_key_is_of_one_node_and_one_content(once: Once) -> None:
    answer(once, KEY)
    assert once.judge(KEY, 1, b"other", 0.0) is CONFLICT
    assert once.judge(KEY, 2, b"body", 0.0) is CONFLICT
    assert once.judge(OTHER, 1, b"other", 0.0) is FRESH


def test_refused_key_is_free_again(once: Once) -> None:
    once.judge(KEY, 1, b"body", 0.0)
    once.refused(KEY, marked=True)
    assert once.take_forgotten() == (KEY,)
    assert once.judge(KEY, 1, b"changed", 0.0) is FRESH


def test_doubted_key_is_resolved_by_who_asks_next(once: Once) -> None:
    once.judge(KEY, 1, b"body", 0.0)
    once.doubted(KEY, 1.0)
    assert once.judge(KEY, 1, b"body", 2.0) is RESOLVE
    assert once.judge(KEY, 1, b"body", 2.0) is ATTACH
    once.answered(KEY, b"found", 3.0)
    assert once.judge(KEY, 1, b"body", 4.0) is STORED


def test_crash_leaves_answers_and_doubts(once: Once) -> None:
    digest = digest_of(1, b"body")
    once.load(Row("risk", KEY.idem, digest, b"reply"), 100.0)
    once.load(Row("strategy", KEY.idem, digest), 100.0)
    assert once.judge(KEY, 1, b"body", 100.0) is STORED
    assert once.judge(OTHER, 1, b"body", 100.0) is RESOLVE
    once.doubted(OTHER, 101.0)
    assert once.next_deadline() == 100.0 + KEEP_S


def test_row_of_an_effect_says_the_same_after_a_crash(once: Once) -> None:
    once.judge(KEY, 1, b"body", 0.0)
    mark, row = once.row(KEY, None), once.row(KEY, b"reply")
    once.answered(KEY, b"reply", 0.0)
    later = Once()
    later.load(row, 0.0)
    assert (later.judge(KEY, 1, b"body", 0.0), mark.reply) == (STORED, None)


def test_reply_lives_ten_minutes(once: Once) -> None:
    answer(once, KEY, now=5.0)
    once.tick(604.9)
    assert once.judge(KEY, 1, b"body", 604.9) is STORED
    once.tick(605.0)
    assert once.take_forgotten() == (KEY,)
    assert once.judge(KEY, 1, b"body", 605.0) is FRESH


def test_what_is_on_disk_is_bounded_too(once: Once) -> None:
    """A node that never lives for ten minutes would keep all it ever answered."""
    for number in range(5):
        once.load(Row("n", bytes([number]) * 16, b"d", bytes(40)), 0.0)
        once.check()
    assert once.take_forgotten() == tuple(Key("n", bytes([number]) * 16) for number in range(3))


def test_full_forgets_the_oldest_answer_never_what_runs(once: Once) -> None:
    keys = [Key("n", bytes([number]) * 16) for number in range(5)]
    once.judge(keys[0], 1, b"body", 0.0)
    answer(once, keys[1], now=1.0)
    answer(once, keys[2], now=2.0)
    assert once.judge(keys[3], 1, b"body", 3.0) is FRESH
    assert (once.take_forgotten(), once.early) == ((keys[1],), 1)
    assert once.judge(keys[4], 1, b"body", 4.0) is FRESH
    assert once.judge(keys[1], 1, b"body", 5.0) is FULL
    assert len(once) == 3


def test_replies_are_bounded_in_bytes(once: Once) -> None:
    answer(once, KEY, b"x" * 60, now=1.0)
    answer(once, OTHER, b"x" * 60, now=2.0)
    assert once.take_forgotten() == (KEY,)


def test_table_is_total_for_what_can_happen(once: Once) -> None:
    """A walk visits every pair of the table and no other; ends leave it altogether."""
    dice, seen = Random(2), set[tuple[Standing, Turn]]()
    for step in range(400):
        key, now = Key("n", bytes([dice.randrange(4)]) * 16), float(step)
        before = once._entries[key].standing if key in once._entries else None
        verdict = once.judge(key, 1, b"body", now)
        if verdict is RESOLVE:
            seen.add((UNRESOLVED, ASK))
            assert before is UNRESOLVED
        if verdict not in (FRESH, RESOLVE):
            continue
        turn = dice.choice((Turn.ANSWER, Turn.DOUBT, None))
        if turn is None:
            once.refused(key)
            continue
        seen.add((IN_PROGRESS, turn))
        (once.answered(key, b"r", now) if turn is Turn.ANSWER else once.doubted(key, now))
        once.check()
    assert seen == {(state, turn) for state, turns in TRANSITIONS.items() for turn in turns}
    assert not TRANSITIONS[ANSWERED]
