"""Journals that are closed when a test ends."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mesh.storage.journal import (
    Journal,
    Retention,
)
from tests.unit.mesh.storage.journals import Open


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
