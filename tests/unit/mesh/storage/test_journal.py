"""Journal: a group is stored whole or not at all, and what was reported stored stays."""

import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

import pytest

from mesh.clock import wall_ns
from mesh.errors import LocalProtocolError, NotFound, StorageError, Unavailable
from mesh.storage.journal import (
    PAGE_BYTES,
    PAGE_ROWS,
    Applied,
    DeadLetter,
    Group,
    Journal,
    Retention,
    Stored,
)
from mesh.storage.reader import Reader

ROOT = Path(__file__).parents[4]
PATIENCE_S = 10.0

Open = Callable[..., Journal]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open journals in tmp_path; all are closed when the test ends."""
    with ExitStack() as journals:

        def open_journal(
            name: str = "j.sqlite3", keep: Retention | None = None, kind: type[Journal] = Journal
        ) -> Journal:
            journal = kind(tmp_path / name, keep=keep)
            journals.callback(journal.close)
            return journal

        yield open_journal


def records(journal: Journal, *topics: str, size: int = 0) -> tuple[Stored, ...]:
    """Return records that follow; each frame says its offset."""
    return tuple(
        Stored(offset, topic, 7, str(offset).encode() + bytes(size))
        for offset, topic in enumerate(topics, journal.last + 1)
    )


def append(journal: Journal, *topics: str, size: int = 0) -> None:
    journal.append(Group(records(journal, *topics, size=size)))


def ack(journal: Journal, node: str, offset: int) -> None:
    journal.append(Group(acks=(Applied(node, journal.log_id, offset),)))


class Outcomes:
    """What the writer thread reported, in order."""

    def __init__(self, journal: Journal) -> None:
        self._reported: SimpleQueue[tuple[Group, BaseException | None]] = SimpleQueue()
        self.journal = journal
        journal.start(lambda group, error: self._reported.put((group, error)))

    def of(self, group: Group) -> BaseException | None:
        """Write *group* and wait for its outcome."""
        self.journal.write(group)
        return self.next(group)

    def next(self, group: Group) -> BaseException | None:
        reported, error = self._reported.get(timeout=PATIENCE_S)
        assert reported is group
        return error


def opened_or_refused(path: Path) -> Journal | None:
    """Open a file that may be damaged; if it is refused, then in one line that names it."""
    try:
        return Journal(path)
    except StorageError as error:
        told = str(error)
    assert str(path) in told
    assert len(told.splitlines()) == 1
    return None


def until(condition: Callable[[], object]) -> None:
    """Return once *condition* holds, looked at between turns of other threads."""
    turn = threading.Event()
    for _ in range(int(PATIENCE_S / 0.005)):
        if condition():
            return
        turn.wait(0.005)
    raise TimeoutError


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


# --- retention ---

ALL = Retention(max_bytes=1 << 40, keep_s=0.0)


def retain(journal: Journal) -> None:
    journal._upkeep(idle=True)


def test_f17_nothing_is_deleted_above_the_floor(opened: Open) -> None:
    journal = opened(keep=Retention(max_bytes=0, keep_s=0.0))
    append(journal, *["a"] * 10)
    retain(journal)
    assert journal.first == 1
    journal.floor = 4
    retain(journal)
    assert journal.first == 5
    assert [row.offset for row in journal.read()] == [5, 6, 7, 8, 9, 10]


def test_f17_retention_waits_for_the_slowest_consumer_and_for_age(opened: Open) -> None:
    journal = opened(keep=ALL)
    append(journal, *["a"] * 10)
    journal.floor = 10
    ack(journal, "recorder", 8)
    ack(journal, "gateway", 3)
    ack(journal, "gateway", 2)  # the newest word counts: it may have lost what it had
    journal.append(Group(acks=(Applied("stranger", "another log", 1),)))
    retain(journal)
    assert journal.first == 3
    assert not journal.lost
    ack(journal, "gateway", 9)
    journal.keep = Retention(ALL.max_bytes, keep_s=3_600.0)
    retain(journal)
    assert journal.first == 3
    journal.keep = ALL
    retain(journal)
    assert journal.first == 9


def test_f17_overtaken_consumer_is_lost_and_told_what_is_gone(opened: Open) -> None:
    journal = opened(keep=Retention(max_bytes=0, keep_s=3_600.0))
    append(journal, *["a"] * 10)
    journal.floor = 6
    ack(journal, "gateway", 2)
    ack(journal, "recorder", 6)
    retain(journal)
    assert list(journal.lost) == ["gateway"]
    assert list(journal.acked()) == ["recorder"]
    with pytest.raises(NotFound, match="offset 3 is gone: the log begins at 7"):
        journal.page(2, journal.last, ("a",))
    assert journal.page(6, journal.last, ("a",)).through == 10
    ack(journal, "gateway", 3)  # still behind: holds nothing, and is not lost twice
    assert list(journal.acked()) == ["recorder"]


def test_f17_no_more_is_deleted_than_is_too_much(opened: Open) -> None:
    journal = opened(keep=Retention(max_bytes=300_000, keep_s=3_600.0))
    append(journal, *["a"] * 400, size=1_000)
    journal.floor = journal.last
    retain(journal)
    kept = journal.last - journal.first + 1
    assert 120 < kept < 220
    retain(journal)  # it is little enough now
    assert journal.last - journal.first + 1 == kept


def test_f17_one_step_deletes_no_more_than_a_group_can_wait_for(opened: Open) -> None:
    journal = opened(keep=Retention(max_bytes=0, keep_s=0.0))
    append(journal, *["a"] * 2_500)
    journal.floor = journal.last
    for first in (1_001, 2_001, 2_501):
        retain(journal)
        assert journal.first == first


def test_f17_emptied_log_goes_on_where_it_was(opened: Open) -> None:
    journal = opened(keep=ALL)
    append(journal, "a", "a", "a")
    journal.floor = 3
    retain(journal)
    assert (journal.first, journal.last) == (4, 3)
    journal.close()
    again = opened()
    assert (again.first, again.last) == (4, 3)
    append(again, "a")
    again.close()
    assert [row.offset for row in opened().read()] == [4]


def test_f17_disk_stays_bounded_under_load(opened: Open) -> None:
    limit = 512 * 1024
    journal = opened(keep=Retention(max_bytes=limit, keep_s=3_600.0))
    wal = journal.path.with_name("j.sqlite3-wal")
    outcomes = Outcomes(journal)
    largest_bytes = 0
    for _ in range(150):
        assert outcomes.of(Group(records(journal, *["a"] * 200, size=300))) is None
        journal.floor = journal.last
        largest_bytes = max(largest_bytes, wal.stat().st_size)
    journal.close()
    assert journal.last * 300 > 16 * limit
    assert largest_bytes < 8 << 20
    assert journal.path.stat().st_size < 2 * limit
    again = opened()
    assert again.last == 30_000
    assert again.first > 28_000


def test_idle_writer_deletes_and_checkpoints(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.storage.journal.IDLE_S", 0.01)
    journal = opened(keep=ALL)
    outcomes = Outcomes(journal)
    assert outcomes.of(Group(records(journal, *["a"] * 10))) is None
    journal.floor = 10
    until(lambda: journal.first == 11)
    until(lambda: not journal._gauge._unsaved_bytes)


def test_appending_without_a_thread_bounds_the_write_ahead_log(opened: Open) -> None:
    journal = opened()
    for _ in range(100):
        append(journal, *["a"] * 64, size=2_000)
    assert journal.path.with_name("j.sqlite3-wal").stat().st_size < 8 << 20


def test_checkpoint_that_met_a_reader_is_completed_when_idle(opened: Open) -> None:
    journal = opened()
    reading = sqlite3.connect(f"file:{journal.path}?mode=ro", uri=True)
    reading.execute("begin")
    assert reading.execute("select count(*) from log").fetchone() == (0,)
    append(journal, *["a"] * 10, size=5_000)
    journal._upkeep(idle=True)
    size = journal.path.stat().st_size
    reading.close()
    journal._upkeep(idle=True)
    assert journal.path.stat().st_size > size + 50_000


def test_reader_in_the_way_delays_a_checkpoint_and_loses_nothing(opened: Open) -> None:
    journal = opened()
    append(journal, *["a"] * 10)
    reading = sqlite3.connect(f"file:{journal.path}?mode=ro", uri=True)
    reading.execute("begin")
    assert reading.execute("select count(*) from log").fetchone() == (10,)
    for _ in range(150):
        append(journal, *["a"] * 64, size=2_000)
    wal = journal.path.with_name("j.sqlite3-wal")
    assert wal.stat().st_size > 16 << 20
    assert reading.execute("select count(*) from log").fetchone() == (10,)
    reading.close()
    journal._upkeep(idle=True)
    assert wal.stat().st_size == 0
    assert sum(1 for _ in journal.read()) == 10 + 150 * 64


# --- disks that fail ---


def test_f18_disk_full_is_unavailable_and_resumes(opened: Open) -> None:
    journal = opened()
    append(journal, "a")
    (pages,) = journal._db.execute("pragma page_count").fetchone()
    journal._db.execute(f"pragma max_page_count={pages + 2}")
    outcomes = Outcomes(journal)
    large = Group(records(journal, "a", "a", size=20_000), (Applied("venue", "log", 9),))
    for _ in range(3):
        error = outcomes.of(large)
        assert isinstance(error, Unavailable)
        assert error.executed == "no"
        assert journal.last == 1
        assert journal.applied("venue") is None
    assert outcomes.of(Group(records(journal, "a"))) is None  # a small one still fits
    journal._db.execute(f"pragma max_page_count={pages + 100}")
    assert outcomes.of(Group(records(journal, "a", size=20_000))) is None
    journal.close()
    assert [row.offset for row in opened().read()] == [1, 2, 3]


FULL_DISK = """
import os, sys
from pathlib import Path
from mesh.errors import Unavailable
from mesh.storage.journal import Applied, Group, Journal, Stored

place = Path(sys.argv[1])
journal = Journal(place / "j.sqlite3")
refused, ballast = 0, place / "ballast"

def append(size):
    global refused
    try:
        record = Stored(journal.last + 1, "a", 7, os.urandom(size))
        journal.append(Group((record,), (Applied("venue", "log", journal.last + 1),)))
        return True
    except Unavailable:
        refused += 1
        return False

append(100)
ballast.write_bytes(bytes(100_000))
while append(5_000):
    pass
while append(10):  # until not one page is left
    pass
kept = journal.last
assert journal.applied("venue").offset == kept == sum(1 for _ in journal.read())
journal._upkeep(idle=True)
assert not journal.failure
ballast.unlink()
assert all(append(5_000) for _ in range(3)), "space came back"
journal._upkeep(idle=True)
journal.close()
again = Journal(place / "j.sqlite3")
assert again.last == kept + 3 == again.applied("venue").offset
again.close()
print(refused)
"""


def in_own_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where mounts end with the process."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script, "sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """Return where a tmpfs can be mounted; skip where it cannot."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount a small disk with")
    if in_own_mounts('mount -t tmpfs none "$1"', str(tmp_path)).returncode:
        pytest.skip("this user may not mount a small disk")
    return tmp_path


def test_f18_really_full_disk_is_unavailable_and_resumes(small_disk: Path) -> None:
    mount = 'mount -t tmpfs -o size=512k none "$2"; exec "$1" -W error -c "$3" "$2"'
    answer = in_own_mounts(mount, sys.executable, str(small_disk), FULL_DISK)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) >= 2


WRITE_ERROR = """
import resource, sys
from pathlib import Path
from mesh.errors import StorageError
from mesh.storage.journal import Group, Journal, Stored

path = Path(sys.argv[1])
journal = Journal(path)
journal.append(Group((Stored(1, "a", 7, b"kept"),)))
size = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for lifted in (False, True):
    if lifted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    try:
        journal.append(Group((Stored(2, "a", 7, b"lost"),)))
    except StorageError as error:
        print(error)
    before = path.read_bytes()
assert journal.failure
journal.close()
assert path.read_bytes() == before, "nothing was checkpointed after the error"
"""


def test_f20_write_error_is_final(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", WRITE_ERROR, str(path)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert answer.returncode == 0, answer.stderr
    first, second = answer.stdout.splitlines()
    assert "I/O error" in first
    assert first == second
    assert path.with_name("j.sqlite3-wal").exists()
    assert [row.frame for row in opened().read()] == [b"kept"]


READ_ONLY_DISK = """
import subprocess, sys
from pathlib import Path
from mesh.errors import StorageError
from mesh.storage.journal import Journal

try:
    Journal(Path(sys.argv[1]) / "j.sqlite3")
except StorageError as error:
    print(error)
"""


def test_f20_read_only_disk_refuses_the_start(small_disk: Path) -> None:
    mount = 'mount -t tmpfs -o ro none "$2"; exec "$1" -W error -c "$3" "$2"'
    answer = in_own_mounts(mount, sys.executable, str(small_disk), READ_ONLY_DISK)
    assert answer.returncode == 0, answer.stderr
    assert "Read-only file system" in answer.stdout


def test_f20_error_of_the_idle_writer_reaches_the_next_write(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.storage.journal.IDLE_S", 0.01)
    journal = opened(keep=ALL)
    append(journal, "a")
    journal._db.execute("drop table consumer")  # what retention asks first
    journal.floor = 1
    outcomes = Outcomes(journal)
    until(lambda: journal.failure)
    with pytest.raises(StorageError, match="consumer"):
        journal.write(Group(records(journal, "a")))
    journal.close()
    assert outcomes.journal.first == 1


def test_age_of_a_record_is_when_it_was_stored(opened: Open) -> None:
    journal, before_ns = opened(), wall_ns()
    append(journal, "a")
    (ts_ns,) = journal._db.execute("select ts_ns from log").fetchone()
    assert before_ns <= ts_ns <= wall_ns()
