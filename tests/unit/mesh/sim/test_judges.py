"""Judges: every promise has a bad history that its judge must condemn, beside a good one."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from mesh.protocol.catchup import Ahead, Gone, Reset
from mesh.protocol.sequence import Gap
from mesh.sim.judges import Ear, Reader, Screen, Truth, heard, inside
from mesh.sim.world import Violation

MD = ("md.",)
LOG = [("ord.0", b"a"), ("aud.0", b"b"), ("ord.0", b"c"), ("ord.1", b"d")]

Bad: TypeAlias = Callable[[], object]


def ear() -> Ear:
    """Return an ear that heard sequence 3 of md.0 in run 5, and hears all of md."""
    made = Ear("s0<p0")
    made.head(5, {"md.0": 2}, MD)
    made.delivered(5, "md.0", 3)
    return made


def screen() -> Screen:
    made = Screen("s0<p0")
    made.show("lv.0", 5, 2)
    return made


def truth() -> Truth:
    made = Truth()
    made.kept("L", LOG)
    made.acknowledged("L", 3)
    return made


def reader(prefixes: tuple[str, ...] = ("ord.",), done: int = 0) -> Reader:
    made = Reader("s0<p0", prefixes, truth())
    made.resume("L", done)
    return made


def halted() -> Reader:
    made = reader(done=4)
    made.notice(Ahead(4, 2))
    return made


def cut() -> Reader:
    made = reader(done=4)
    made.truth.restored("L", 2)
    return made


EVENTS: dict[str, tuple[str, Bad]] = {
    "a HEAD of a former run": ("old-epoch", lambda: ear().head(4, {}, MD)),
    "a frame of a former run": ("old-epoch", lambda: ear().delivered(4, "md.0", 4)),
    "a frame before the HEAD of its run": ("early", lambda: ear().delivered(6, "md.0", 1)),
    "a frame twice": ("twice", lambda: ear().delivered(5, "md.0", 3)),
    "a frame that HEAD counted": ("twice", lambda: ear().delivered(5, "md.0", 2)),
    "a hole without a gap": ("hole", lambda: ear().delivered(5, "md.0", 5)),
    "a late first frame without a gap": ("hole", lambda: ear().delivered(5, "md.9", 2)),
    "a gap that begins too late": ("hole", lambda: ear().gap(Gap("md.0", 5, 6))),
    "a gap over what was delivered": ("false-gap", lambda: ear().gap(Gap("md.0", 3, 4))),
    "a gap of a topic nobody hears": ("false-gap", lambda: ear().gap(Gap("lv.0", 1, 4))),
    "a tail that nobody told of": ("tail", lambda: ear().end(5, {"md.0": 4}, MD)),
    "a topic that nobody told of": ("tail", lambda: ear().end(5, {"md.0": 3, "md.7": 1}, MD)),
    "a run that is not heard": ("not-live", lambda: ear().end(6, {}, MD)),
    "a prefix that is not heard": ("not-live", lambda: ear().end(5, {}, ("md.", "lv."))),
    "an older value after a newer one": ("older-value", lambda: screen().show("lv.0", 5, 1)),
    "a value of a former run": ("older-value", lambda: screen().show("lv.0", 4, 9)),
    "a value that is missing": ("last-value", lambda: screen().end({}, {"lv.0": (5, 2)})),
    "a value that was deleted": ("last-value", lambda: screen().end({"lv.0": (5, 2)}, {})),
}

RECORDS: dict[str, tuple[str, Bad]] = {
    "told to be stored and not on disk": (
        "ack-before-commit",
        lambda: truth().acknowledged("L", 5),
    ),
    "told to be stored and lost by a crash": ("lost", lambda: truth().recovered("L", 2)),
    "a record that was never stored": ("phantom", lambda: reader().apply("L", 5, "ord.0", b"x")),
    "a record of another journal": ("phantom", lambda: reader().apply("K", 1, "ord.0", b"a")),
    "another record at its offset": ("phantom", lambda: reader().apply("L", 1, "ord.0", b"x")),
    "a record twice": ("twice", lambda: reader(done=1).apply("L", 1, "ord.0", b"a")),
    "a record skipped": ("skipped", lambda: reader().apply("L", 3, "ord.0", b"c")),
    "a record confirmed and not applied": ("skipped", lambda: reader().passed(2)),
    "a Reset to the same journal": ("false-notice", lambda: reader().notice(Reset("L", "L"))),
    "a Gone of what is kept": ("false-notice", lambda: reader().notice(Gone(0, 3))),
    "an Ahead that is not": ("false-notice", lambda: reader().notice(Ahead(2, 2))),
    "an effect twice on disk": ("twice", lambda: reader(done=3).stored([1, 1, 3])),
    "effects out of order on disk": ("twice", lambda: reader(done=3).stored([3, 1])),
    "an effect without its offset": ("torn", lambda: reader(done=1).stored([1, 3])),
    "an offset without its effect": ("torn", lambda: reader(done=3).stored([1])),
    "records missing in the end": ("behind", lambda: reader(done=3).end("L")),
    "an old journal in the end": ("behind", lambda: reader(done=4).end("K")),
    "an old copy that goes unnoticed": ("silent", lambda: cut().end("L")),
}


@pytest.mark.parametrize("history", [*EVENTS, *RECORDS])
def test_condemned(history: str) -> None:
    invariant, happens = {**EVENTS, **RECORDS}[history]
    with pytest.raises(Violation) as caught:
        happens()
    assert caught.value.invariant == invariant


def test_gaps_and_what_follows_them_are_fine() -> None:
    made = ear()
    made.gap(Gap("md.0", 4, 6))
    made.delivered(5, "md.0", 7)
    made.delivered(5, "md.1", 1)
    made.end(5, {"md.0": 7, "md.1": 1, "lv.0": 9}, MD)


def test_a_new_run_begins_with_its_head() -> None:
    made = ear()
    made.head(6, {"md.0": 8}, MD)
    made.delivered(6, "md.0", 9)
    made.end(6, {"md.0": 9}, MD)


def test_what_is_heard_no_longer_is_not_due_and_begins_anew_when_it_is() -> None:
    made = ear()
    made.narrowed(("md.1\0",))
    made.end(5, {"md.0": 30}, ("md.1\0",))
    made.head(5, {"md.0": 30}, ("md.1\0", "md.0\0"))
    made.delivered(5, "md.0", 31)


def test_a_value_may_be_shown_again_and_forgotten() -> None:
    made = screen()
    made.show("lv.0", 5, 2)
    made.forget(("lv.1",))
    made.show("lv.0", 5, 1)
    made.end({"lv.0": (5, 2)}, {"lv.0": (5, 2)})


def test_records_applied_in_order_are_fine_whatever_others_hear() -> None:
    made = reader()
    for offset in (1, 3, 4):
        made.apply("L", offset, *LOG[offset - 1])
    made.stored([1, 3, 4])
    made.end("L")


def test_what_retention_took_is_not_due_once_it_was_told() -> None:
    made = reader(("",))
    made.truth.retained("L", 3)
    made.notice(Gone(0, 3))
    made.apply("L", 3, *LOG[2])
    made.apply("L", 4, *LOG[3])
    made.stored([3, 4])
    made.end("L")


def test_a_new_journal_begins_at_its_first_record() -> None:
    made = reader(done=4)
    made.truth.kept("K", LOG[:1])
    made.notice(Reset("L", "K"))
    made.apply("K", 1, *LOG[0])
    made.end("K")


def test_an_old_copy_that_was_noticed_is_fine() -> None:
    made = halted()
    made.truth.restored("L", 2)
    made.truth.recovered("L", 2)
    made.end("L")


@pytest.mark.parametrize(
    ("prefix", "other", "expected"),
    [
        ("md.1", "md.", True),
        ("md.1\0", "md.1", True),
        ("md.", "md.1", False),
        ("md.12", "md.1\0", False),
        ("md.1\0", "md.1\0", True),
    ],
)
def test_a_prefix_lies_inside_another(prefix: str, other: str, expected: bool) -> None:
    assert inside(prefix, other) is expected


def test_a_topic_is_heard_by_any_prefix() -> None:
    assert heard(("lv.", "md.1\0"), "md.1")
    assert not heard(("lv.", "md.1\0"), "md.12")
