"""What the tests of the journal share: records, outcomes, deadlines."""

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from mesh.errors import StorageError
from mesh.storage.journal import Applied, Group, Journal, Retention, Stored

ROOT = Path(__file__).parents[4]
PATIENCE_S = 10.0
ALL = Retention(max_bytes=1 << 40, keep_s=0.0)  # deletes whatever everybody has

Open = Callable[..., Journal]


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
