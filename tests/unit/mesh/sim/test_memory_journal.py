"""MemoryJournal answers as the Journal on disk does."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mesh.errors import LocalProtocolError
from mesh.protocol.commits import Applied, DeadLetter, Group, Stored
from mesh.protocol.once import Key, Row
from mesh.sim.memory.disk import Disk, Log, MemoryJournal
from mesh.storage.journal import Journal

ROW = Row("a", b"1" * 16, b"d" * 8, None)
DONE = Row("a", b"1" * 16, b"d" * 8, b"reply")
OTHER = Row("b", b"2" * 16, b"d" * 8, b"reply")


def records(first: int, count: int, topic: str = "x.a", size: int = 10) -> tuple[Stored, ...]:
    return tuple(Stored(first + n, topic, 7, bytes(size)) for n in range(count))


def groups(log_id: str) -> list[Group]:
    return [
        Group(records(1, 3), applied=(Applied("n", "l", 5), Applied("m", "l", 1)), rows=(ROW,)),
        Group(records(4, 2, "y.b"), applied=(Applied("n", "l", 4),), rows=(OTHER, DONE)),
        Group(applied=(Applied("m", "other", 1),), acks=(Applied("c", log_id, 4),)),
        Group(acks=(Applied("c", "another", 9), Applied("d", log_id, 2))),
        Group(dead=(DeadLetter("n", "l", 3, "t", "why", 1, b"frame"),)),
        Group(records(6, 600, "x.c"), forgotten=(Key("b", b"2" * 16),)),
        Group(records(606, 3, "x.d", size=60_000)),
    ]


def told(journal: Journal) -> list[Any]:
    """Return all that a journal says of what is in it."""
    for group in groups(journal.log_id):
        journal.append(group)
    with pytest.raises(LocalProtocolError, match="offset 900 where 609 is due"):
        journal.append(Group(records(900, 1)))
    acked = [(node, entry.offset) for node, entry in sorted(journal.acked().items())]
    pages = [
        journal.page(after, to, prefixes)
        for after, to in ((0, 608), (2, 4), (100, 608), (605, 608), (608, 700))
        for prefixes in (("",), ("x.",), ("y.", "x.d"), ())
    ]
    return [
        journal.first,
        journal.last,
        list(journal.read(after=3)),
        [journal.applied(node) for node in ("n", "m", "nobody")],
        acked,
        journal.rows(),
        journal.dead_letters(),
        pages,
    ]


def in_memory(path: Path) -> Journal:
    def never(delay_s: float, act: Callable[[], None]) -> None:
        """Only append is used here."""

    return MemoryJournal(Disk(Log("0" * 16)), path, never, Random(1))


def test_it_answers_as_the_one_on_disk(tmp_path: Path) -> None:
    real = Journal(tmp_path / "a.sqlite3")
    try:
        expected = told(real)
    finally:
        real.close()
    assert told(in_memory(tmp_path)) == expected
