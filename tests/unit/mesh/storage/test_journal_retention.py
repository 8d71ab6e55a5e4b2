"""Journal: what nobody needs any more goes, what somebody needs stays; the disk is bounded."""

import sqlite3

import pytest

from mesh.errors import NotFound
from mesh.storage.journal import (
    Applied,
    Group,
    Journal,
    Retention,
)
from tests.unit.mesh.storage.journals import ALL, Open, Outcomes, ack, append, records, until

# --- retention ---


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
