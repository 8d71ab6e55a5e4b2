"""When a batch is due, and that nothing is lost on the way through it."""

from nodes.recorder.batch import Batch

ROW = ("insert", (1,))
A, B = ("execution", "log"), ("risk", "log")


def batch() -> Batch:
    return Batch(rows_max=3, age_s=0.5)


def test_an_empty_batch_is_never_due() -> None:
    assert batch().due_at() is None


def test_it_is_due_when_its_first_event_is_old() -> None:
    waiting = batch()
    waiting.add([ROW], A, 1, 10.0)
    waiting.add([ROW], A, 2, 10.4)
    assert waiting.due_at() == 10.5


def test_it_is_due_at_once_when_full() -> None:
    waiting = batch()
    waiting.add([ROW] * 3, A, 1, 10.0)
    assert waiting.full
    assert waiting.due_at() == 0.0


def test_offsets_wait_for_their_rows_and_never_fall() -> None:
    waiting = batch()
    waiting.add([ROW], A, 7, 0.0)
    waiting.add([], A, 6, 0.0)
    waiting.add([], B, 1, 0.0)
    assert waiting.take() == ([ROW], {A: 7, B: 1})
    assert waiting.take() == ([], {})
    assert waiting.due_at() is None
