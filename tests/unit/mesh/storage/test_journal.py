"""Journal: a group is stored whole or not at all, and what was reported stored stays."""

import random
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from mesh.errors import LocalProtocolError, StorageError
from mesh.storage.journal import (
    PAGE_BYTES,
    PAGE_ROWS,
    Applied,
    DeadLetter,
    Group,
    Journal,
    Stored,
)
from mesh.storage.reader import Reader
from tests.unit.mesh.storage.journals import (
    PATIENCE_S,
    Open,
    Outcomes,
    ack,
    append,
    opened_or_refused,
    records,
)

# --- what is stored ---


def test_story(opened: Open) -> None:
    journal = opened()
    assert (journal.first, journal.last) == (1, 0)
    outcomes = Outcomes(journal)
    assert outcomes.of(Group(records(journal, "a.1", "b.1"))) is None
    effects = Group(records(journal, "a.2"), applied=(Applied("venue", "log", 9),))
    assert outcomes.of(effects) is None
    assert journal.last == 3
    journal.close()
    assert "1..3" in repr(journal)

    again = opened()
    assert again.log_id == journal.log_id
    assert (again.first, again.last) == (1, 3)
    assert again.applied("venue") == Applied("venue", "log", 9)
    assert again.applied("nobody") is None
    assert list(again.read(1)) == [Stored(2, "b.1", 7, b"2"), Stored(3, "a.2", 7, b"3")]


def test_cause_effects_acks_and_dead_letters_are_one_transaction(opened: Open) -> None:
    journal = opened()
    letter = DeadLetter("venue", "log", 4, "venue.report.x", "Invalid: price", 5, b"frame")
    group = Group(
        records(journal, "a"),
        applied=(Applied("venue", "log", 4),),
        dead=(letter,),
        acks=(Applied("recorder", journal.log_id, 0),),
    )
    seen: list[tuple[object, ...]] = []

    def look(statement: str) -> None:
        seen.append((journal._reader.applied("venue"), journal.dead_letters(), journal.acked()))

    journal._db.set_trace_callback(look)  # between any two statements of the transaction
    journal.append(group)
    journal._db.set_trace_callback(None)
    assert len(seen) > 4
    assert set(map(str, seen)) == {str((None, (), {}))}
    assert journal.applied("venue") == Applied("venue", "log", 4)
    assert journal.dead_letters() == (letter,)
    assert journal.acked() == {"recorder": Applied("recorder", journal.log_id, 0)}


def test_applied_offset_never_goes_back_within_a_log(opened: Open) -> None:
    """What was decided earlier may be written later, and an event would be applied twice."""
    journal = opened()
    for log_id, offset, stands in (("a", 11, 11), ("a", 10, 11), ("a", 12, 12), ("b", 3, 3)):
        journal.append(Group(applied=(Applied("venue", log_id, offset),)))
        assert journal.applied("venue") == Applied("venue", log_id, stands)


def test_group_that_cannot_be_stored_leaves_nothing(opened: Open) -> None:
    journal = opened()
    append(journal, "a")
    unstorable = DeadLetter("venue", "log", 1, "a", "why", 1 << 70, b"")
    broken = Group(records(journal, "a", "a"), (Applied("venue", "log", 1),), (unstorable,))
    with pytest.raises(OverflowError):
        journal.append(broken)
    with pytest.raises(StorageError):
        append(journal, "a")
    journal.close()
    again = opened()
    assert [row.offset for row in again.read()] == [1]
    assert again.applied("venue") is None


def test_dead_letters_are_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.storage.journal.DEAD_KEPT", 3)
    journal = opened()
    for offset in range(1, 6):
        journal.append(Group(dead=(DeadLetter("venue", "log", offset, "a", "why", 1, b""),)))
    assert [letter.offset for letter in journal.dead_letters()] == [3, 4, 5]


def test_every_size_of_group_is_stored_whole(opened: Open) -> None:
    journal = opened()
    for size in (1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 200):
        append(journal, *["a"] * size)
    assert [int(row.frame) for row in journal.read()] == list(range(1, journal.last + 1))


def test_every_commit_is_synced_and_seen_by_others(opened: Open) -> None:
    journal = opened()
    append(journal, "a")
    assert journal._db.execute("pragma synchronous").fetchone() == (2,)  # FULL
    assert not journal._db.in_transaction
    other = Reader(journal.path)
    assert [row.topic for row in other.read()] == ["a"]
    other.close()


# --- how it is called ---


def test_offsets_that_do_not_follow_are_our_bug(opened: Open) -> None:
    journal = opened()
    with pytest.raises(LocalProtocolError, match="offset 2 where 1 is due"):
        journal.append(Group((Stored(2, "a", 7, b""),)))
    append(journal, "a")
    with pytest.raises(LocalProtocolError, match="offset 1 where 2 is due"):
        journal.append(Group((Stored(1, "a", 7, b""),)))


def test_f19_slow_fsync_does_not_block_the_caller(opened: Open) -> None:
    committing, disk = threading.Event(), threading.Event()

    class SlowDisk(Journal):
        def _store(self, group: Group) -> None:
            committing.set()
            assert disk.wait(PATIENCE_S)
            super()._store(group)

    journal = opened(kind=SlowDisk)
    outcomes = Outcomes(journal)
    group = Group(records(journal, "a"))
    journal.write(group)  # returns, although the disk does not
    assert committing.wait(PATIENCE_S)
    assert journal.last == 0
    assert list(journal.read()) == []
    with pytest.raises(LocalProtocolError, match="already in flight"):
        journal.write(group)
    disk.set()
    assert outcomes.next(group) is None
    assert journal.last == 1


def test_close_finishes_the_group_in_flight(opened: Open) -> None:
    journal = opened()
    outcomes = Outcomes(journal)
    group = Group(records(journal, "a"))
    journal.write(group)
    journal.close()
    journal.close()
    assert outcomes.next(group) is None
    assert not [t for t in threading.enumerate() if t.name.startswith("journal")]
    assert [row.offset for row in opened().read()] == [1]
    with pytest.raises(LocalProtocolError, match="closed"):
        journal.write(group)


def test_close_says_when_the_disk_does_not_finish(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = threading.Event()

    class StuckDisk(Journal):
        def _store(self, group: Group) -> None:
            assert disk.wait(PATIENCE_S)
            super()._store(group)

    monkeypatch.setattr("mesh.storage.journal.CLOSE_S", 0.01)
    journal = opened(kind=StuckDisk)
    outcomes = Outcomes(journal)
    group = Group(records(journal, "a"))
    journal.write(group)
    with pytest.raises(StorageError, match="still writing"):
        journal.close()
    disk.set()
    assert outcomes.next(group) is None
    monkeypatch.undo()


def test_only_one_writer_at_a_time(opened: Open) -> None:
    journal = opened()
    with pytest.raises(LocalProtocolError, match="does not run"):
        journal.write(Group())
    with pytest.raises(StorageError, match="already open"):
        opened()
    Outcomes(journal)
    with pytest.raises(LocalProtocolError, match="hand it the group"):
        journal.append(Group())
    with pytest.raises(LocalProtocolError, match="already running"):
        Outcomes(journal)


def test_closing_leaves_one_file(opened: Open, tmp_path: Path) -> None:
    journal = opened()
    append(journal, "a")
    journal.close()
    assert [path.name for path in tmp_path.iterdir()] == ["j.sqlite3"]
    assert journal.path.stat().st_mode & 0o777 == 0o600


# --- pages ---


def test_page_looks_past_what_does_not_match_and_never_past_its_end(opened: Open) -> None:
    journal = opened()
    append(journal, "a", "b", "b", "a", "b", "a")
    assert journal.page(0, 5, ("a",)) == ((b"1", b"4"), 5)
    assert journal.page(1, 6, ("a",)) == ((b"4", b"6"), 6)
    assert journal.page(0, 1, ("a", "b")) == ((b"1",), 1)
    assert journal.page(6, 6, ("a",)) == ((), 6)


def test_pages_are_bounded_and_together_complete(opened: Open) -> None:
    journal = opened()
    append(journal, *["a"] * 200, size=3_000)
    append(journal, *["a", "b"] * 600)
    frames: list[bytes] = []
    after = 0
    while after < journal.last:
        page = journal.page(after, journal.last, ("a",))
        assert sum(map(len, page.frames)) <= PAGE_BYTES
        assert 0 < page.through - after <= PAGE_ROWS
        frames, after = [*frames, *page.frames], page.through
    assert len(frames) == 800


def test_frame_larger_than_a_page_is_a_page(opened: Open) -> None:
    journal = opened()
    append(journal, "a", "a", size=2 * PAGE_BYTES)
    assert journal.page(0, 2, ("a",)).through == 1


# --- files that are not what was written ---


def test_f15_deleted_journal_begins_a_new_log(opened: Open) -> None:
    journal = opened()
    append(journal, "a")
    wal = journal.path.with_name("j.sqlite3-wal")
    left = wal.read_bytes()
    journal.close()
    journal.path.unlink()
    wal.write_bytes(left)  # whoever deletes a journal may well forget the file beside it
    again = opened()
    assert again.log_id != journal.log_id
    assert (again.first, again.last) == (1, 0)


def test_f16_old_backup_has_fewer_offsets_same_log_id(opened: Open, tmp_path: Path) -> None:
    journal = opened()
    append(journal, "a", "a")
    journal.close()
    shutil.copy(journal.path, tmp_path / "backup")
    journal = opened()
    append(journal, "a")
    journal.close()
    shutil.copy(tmp_path / "backup", journal.path)
    restored = opened()
    assert restored.log_id == journal.log_id
    assert restored.last == 2 < journal.last
    # A consumer that applied the lost offset says so: it stays visible that it is ahead.
    ack(restored, "recorder", 3)
    assert restored.acked()["recorder"].offset > restored.last


def test_f16_old_backup_under_a_newer_write_ahead_log_is_refused_or_whole(
    opened: Open, tmp_path: Path
) -> None:
    journal = opened()
    append(journal, *["a"] * 100, size=200)
    journal.close()
    shutil.copy(journal.path, tmp_path / "backup")
    journal = opened()
    append(journal, *["a"] * 100, size=200)
    journal._gauge.checkpoint(journal._db, idle=True)
    append(journal, *["a"] * 10, size=200)
    shutil.copy(tmp_path / "backup", tmp_path / "mixed.sqlite3")
    shutil.copy(tmp_path / "j.sqlite3-wal", tmp_path / "mixed.sqlite3-wal")
    with pytest.raises(StorageError, match="damaged"):
        opened("mixed.sqlite3")


def test_f21_flipped_byte_is_found(opened: Open, tmp_path: Path) -> None:
    """Wherever a byte flips, the journal is refused or holds exactly what was written."""
    journal = opened("good.sqlite3")
    append(journal, *["order.fill.x"] * 40, size=150)
    letter = DeadLetter("venue", "log", 4, "a", "why", 5, b"frame")
    journal.append(Group((), (Applied("venue", "log", 4),), (letter,)))
    ack(journal, "recorder", 3)

    def content(journal: Journal) -> tuple[object, ...]:
        applied = journal.applied("venue"), journal.acked()
        return journal.log_id, journal.first, journal.last, applied, list(journal.read())

    expected = content(journal)
    journal.close()
    good = journal.path.read_bytes()
    path = tmp_path / "flipped.sqlite3"
    dice = random.Random(21)
    refused = 0
    for position in sorted(dice.sample(range(len(good)), 400)):
        flipped = bytearray(good)
        flipped[position] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        if (found := opened_or_refused(path)) is None:
            refused += 1
            continue
        assert content(found) == expected, f"byte {position}"
        found.close()
    assert refused > 20


def test_f21_every_column_of_a_record_is_covered(opened: Open) -> None:
    for assignment in (
        '"offset" = 9 where "offset" = 3',
        "topic = 'b' where \"offset\" = 2",
        'schema = 8 where "offset" = 2',
        'ts_ns = ts_ns + 1 where "offset" = 2',
        'crc = crc + 1 where "offset" = 3',
        "frame = x'00' where \"offset\" = 1",
    ):
        journal = opened()
        append(journal, "a", "a", "a")
        journal._db.execute(f"update log set {assignment}")
        with pytest.raises(StorageError, match="not what was written"):
            list(journal.read())
        journal.close()
        with pytest.raises(StorageError, match=r"damaged: offset \d .*move it away"):
            opened()
        journal.path.unlink()


def test_f21_damaged_head_tail_and_cause_are_found(opened: Open) -> None:
    for damage in (
        'delete from log where "offset" = 1',
        'delete from log where "offset" = 2',
        'update applied set "offset" = 5',
        "update meta set value = '1' where key = 'before_crc'",
        "update meta set value = 'x' where key = 'before'",
        "delete from meta where key = 'log_id'",
        "drop table applied",
    ):
        journal = opened()
        append(journal, "a", "a", "a")
        journal.append(Group(applied=(Applied("venue", "log", 4),)))
        journal._db.execute(damage)
        journal.close()
        with pytest.raises(StorageError, match=r"damaged.*move it away"):
            opened()
        journal.path.unlink()


def test_file_that_is_no_journal_is_a_storage_error(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    path.write_bytes(b"this is not a database, but it is long enough to be read as one" * 20)
    with pytest.raises(StorageError, match="move it away"):
        opened()
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        opened()
    with pytest.raises(StorageError, match="cannot be opened"):
        opened("nowhere/j.sqlite3")


def test_journal_of_another_version_is_refused(opened: Open) -> None:
    journal = opened()
    journal._db.execute("pragma user_version=9")
    journal.close()
    with pytest.raises(StorageError, match="another version"):
        opened()


def test_database_of_something_else_is_refused(opened: Open, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "j.sqlite3")
    other.executescript("create table log (line text)")
    other.close()
    with pytest.raises(StorageError, match="another version"):
        opened()


def test_journal_of_the_first_version_is_brought_up_to_date(opened: Open, tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "j.sqlite3")
    old.executescript("""
        create table log ("offset" integer primary key, topic text not null,
          schema integer not null, frame blob not null) strict;
        create table meta (key text primary key, value text not null) strict;
        create table applied (node text primary key, log_id text not null,
          "offset" integer not null) strict;
        insert into meta values ('log_id', 'abc');
        insert into log values (1, 'a', 7, x'31'), (2, 'b', 8, x'32');
        insert into applied values ('venue', 'log', 9);
    """)
    old.close()
    for _ in range(2):
        journal = opened()
        assert (journal.log_id, journal.first, journal.last) == ("abc", 1, 2)
        assert list(journal.read()) == [Stored(1, "a", 7, b"1"), Stored(2, "b", 8, b"2")]
        assert journal.applied("venue") == Applied("venue", "log", 9)
        journal.close()
