"""Identity: the run lock that makes a node single, and the epoch that numbers its runs.

Never here: records of other nodes, sockets.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mesh.clock import wall_ns
from mesh.errors import AlreadyRunning, ConfigError
from mesh.storage.files import write_durably

NAME_MAX: Final = 48
PLACE_TRIES: Final = 10


def check_name(node: str) -> str:
    """Return *node* if it is a node name: <role>[.<instance>]. Raises ConfigError."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
    if not node or len(node) > NAME_MAX or not set(node) <= allowed or node.startswith("."):
        raise ConfigError(f"not a node name: {node[:60]!r}; use a-z, 0-9, _ . - and at most 48")
    return node


class RunLock:
    """Hold the lock file of a node for life; the kernel frees it when the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, make_place: Callable[[], None] = lambda: None) -> None:
        """Take the lock, in a place made first. Raises AlreadyRunning if another holds it.

        The place may vanish while we come, with the last node that leaves: it is made again.
        """
        for _ in range(PLACE_TRIES):
            make_place()
            with suppress(FileNotFoundError):
                self._take()
                return
        raise ConfigError(f"{self.path.parent} vanishes again and again; see who removes it")

    def _take(self) -> None:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace").split()
                os.close(descriptor)
                pid = holder[0] if holder else "unknown"
                raise AlreadyRunning(f"{self.path.stem} already runs as pid {pid}") from None
            if self._is_current(descriptor):  # not a file that its holder has just removed
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the file and free the lock. Releasing twice is fine."""
        if self._descriptor >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False


def next_epoch(path: Path) -> int:
    """Return a number above that of every earlier run, on disk before it is returned."""
    try:
        persisted = int(path.read_text())
    except (FileNotFoundError, ValueError):
        persisted = 0
    epoch = max(persisted + 1, wall_ns() // 1_000_000)
    write_durably(path, str(epoch).encode())
    return epoch
