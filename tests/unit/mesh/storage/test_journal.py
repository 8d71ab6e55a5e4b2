"""Journal: offsets are dense, effects and causes are stored together, reopening loses nothing."""

import sqlite3
from pathlib import Path

import pytest

from mesh.errors import StorageError
from mesh.storage.journal import Applied, Journal


def append(journal: Journal, *topics: str, applied: Applied | None = None) -> list[int]:
    rows = [(topic, 7, lambda offset: str(offset).encode()) for topic in topics]
    return [stored.offset for stored in journal.append(rows, applied)]


def test_story(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    journal = Journal(path)
    assert append(journal, "a.1", "b.1") == [1, 2]
    assert append(journal, "a.2", applied=Applied("venue", "log", 9)) == [3]
    journal.close()
    again = Journal(path)
    assert again.log_id == journal.log_id
    assert again.last == 3
    assert again.applied("venue") == Applied("venue", "log", 9)
    assert again.applied("nobody") is None
    assert [(s.offset, s.topic, s.schema, s.frame) for s in again.read(1)] == [
        (2, "b.1", 7, b"2"),
        (3, "a.2", 7, b"3"),
    ]
    again.close()


def test_page_looks_past_what_does_not_match(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    append(journal, "a", "b", "b", "a", "b")
    assert journal.page(0, ("a",)) == ((b"1", b"4"), 5)
    assert journal.page(5, ("a",)) == ((), 5)
    journal.close()


def test_pages_are_bounded_and_together_complete(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    journal.append([("a", 0, lambda n: bytes(3_000))] * 1_200)
    seen, after, pages = 0, 0, 0
    while after < journal.last:
        page = journal.page(after, ("a",))
        assert sum(map(len, page.frames)) <= 128 * 1024
        seen, after, pages = seen + len(page.frames), page.through, pages + 1
    assert seen == 1_200
    assert pages > 3
    journal.close()


def test_failed_frame_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")

    def fails(offset: int) -> bytes:
        raise OverflowError(offset)

    with pytest.raises(OverflowError):
        journal.append([("a", 0, fails)])
    assert append(journal, "a") == [1]
    journal.close()


def test_file_that_is_no_journal_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    path.write_bytes(b"this is not a database, but it is long enough to be read as one" * 20)
    with pytest.raises(StorageError, match="journal"):
        Journal(path)


def test_every_commit_is_synced(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    append(journal, "a")
    with sqlite3.connect(f"file:{journal.path}?mode=ro", uri=True) as reader:
        assert reader.execute("select count(*) from log").fetchone() == (1,)
    reader.close()
    assert journal._db.execute("pragma synchronous").fetchone() == (2,)  # FULL
    journal.close()
