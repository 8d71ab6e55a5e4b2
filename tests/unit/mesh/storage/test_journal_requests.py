"""Requests with a key in a journal: stored with the effect, forgotten, sealed, kept on upgrade."""

import sqlite3
from pathlib import Path

import pytest

from mesh.errors import StorageError
from mesh.protocol.commits import Group, Stored
from mesh.protocol.once import Key, Row
from mesh.storage.journal import Journal

BEGUN = Row("risk", b"1" * 16, b"d" * 16)
ANSWERED = Row("risk", b"2" * 16, b"d" * 16, b"reply")


def rows_of(path: Path) -> list[Row]:
    journal = Journal(path)
    try:
        return journal.rows()
    finally:
        journal.close()


def test_row_lies_in_the_transaction_of_its_effect_and_a_newer_one_replaces_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.sqlite3"
    journal = Journal(path)
    journal.append(Group((Stored(1, "x.a", 0, b"frame"),), rows=(BEGUN, ANSWERED)))
    done = Row(BEGUN.node, BEGUN.idem, BEGUN.digest, b"")
    journal.append(Group(rows=(done,)))
    journal.close()
    assert sorted(rows_of(path), key=lambda row: row.idem) == [done, ANSWERED]


def test_forgotten_key_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    journal = Journal(path)
    journal.append(Group(rows=(BEGUN, ANSWERED)))
    journal.append(Group(forgotten=(Key("risk", BEGUN.idem), Key("nobody", BEGUN.idem))))
    journal.close()
    assert rows_of(path) == [ANSWERED]


@pytest.mark.parametrize(
    "damage",
    ["reply = x'00'", "reply = null", "digest = x'00'", "ts_ns = ts_ns + 1", "node = 'other'"],
)
def test_row_that_is_not_what_was_written_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.sqlite3"
    journal = Journal(path)
    journal.append(Group(rows=(ANSWERED,)))
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute(f"update once set {damage}")  # of the list above
    db.close()
    with pytest.raises(StorageError, match="damaged"):
        Journal(path)


def test_journal_of_version_1_goes_on_with_its_records(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite3"
    journal = Journal(path)
    journal.append(Group((Stored(1, "x.a", 0, b"frame"),)))
    log_id = journal.log_id
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("drop table once")
        db.execute("pragma user_version=1")
    db.close()
    journal = Journal(path)
    journal.append(Group(rows=(ANSWERED,)))
    assert (journal.log_id, journal.last) == (log_id, 1)
    journal.close()
    assert rows_of(path) == [ANSWERED]
