"""Premises: are the files by which others find this run still the ones it made?

Somebody may delete the run directory, or put a socket of his own where ours was: who is
connected stays so, but nobody else finds us any more, or finds him.

Never here: what is done about it (runner), the content of the files.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mesh.runtime.identity import RunLock


class Premises:
    """Compare the run lock, the record and the sockets of a run with what lies in their places."""

    def __init__(self, lock: RunLock, record: Path, endpoints: Mapping[str, str]) -> None:
        self._lock = lock
        sockets = (Path(address.removeprefix("ipc://")) for address in endpoints.values())
        self._paths = [record, *sockets]
        self._inodes: dict[Path, int] = {}

    def note(self) -> None:
        """Remember what lies there now as ours: it was just written and bound."""
        self._inodes = dict(self._found(self._paths))

    def lost(self) -> list[str]:
        """Return the names of files that are gone or another's, sorted; usually none."""
        found = dict(self._found(self._paths))
        strange = [
            path.name for path in self._paths if found.get(path, 0) != self._inodes.get(path)
        ]
        if not self._lock.is_current:
            strange.append(self._lock.path.name)
        return sorted(strange)

    @staticmethod
    def _found(paths: Iterable[Path]) -> Iterable[tuple[Path, int]]:
        for path in paths:
            try:
                yield path, path.lstat().st_ino
            except OSError:
                continue
