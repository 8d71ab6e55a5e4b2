"""MemoryDirectory and MemoryLogs: how nodes find each other, and what they log, in memory.

Never here: files.
"""

from collections import deque
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from mesh.protocol.control import Record
from mesh.runtime.directory import Directory
from mesh.runtime.logs import Logs

LINES_MAX: Final = 10_000


class Line(NamedTuple):
    """What a node logged."""

    level: str
    event: str
    fields: dict[str, Any]


class MemoryDirectory(Directory):
    """The records of a simulated mesh, in one place for all its nodes."""

    def __init__(self) -> None:
        super().__init__(Path("/loopback"), "mesh")
        self._records: dict[str, Record] = {}

    def make(self) -> None:
        """Need nothing made."""

    def endpoint(self, node: str, plane: str) -> str:
        """Return the address of a node's plane."""
        return f"loopback://{node}.{plane}"

    def publish(self, record: Record) -> None:
        """Write our record; others read a copy, as from a file."""
        self._records[record.node] = msgspec.json.decode(msgspec.json.encode(record), type=Record)

    def withdraw(self, node: str) -> None:
        """Remove our record."""
        self._records.pop(node, None)

    def records(self) -> dict[str, Record]:
        """Return every record, by node."""
        return dict(self._records)


class MemoryLogs(Logs):
    """The newest lines of one run of a node, of every level."""

    def __init__(self, node: str, epoch: int) -> None:
        self.node, self.epoch = node, epoch
        self.lines: deque[Line] = deque(maxlen=LINES_MAX)

    def performance(self, **figures: float | str) -> None:
        """Keep nothing: there is no performance in simulated time."""

    def close(self) -> None:
        """Close nothing."""

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.lines.append(Line(level, event, fields))
