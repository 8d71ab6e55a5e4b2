"""Identity: the run lock that makes a node single, who holds which, and the epoch of a run.

A lock file reads "<pid> <epoch>" and is held twice: by flock, which keeps a second process
out, and by an OFD lock, whose holding can be asked without taking anything from anybody.

Never here: records of other nodes, sockets.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mesh.clock import wall_ns
from mesh.errors import AlreadyRunning, ConfigError
from mesh.storage.files import write_durably

NAME_MAX: Final = 48
PLACE_TRIES: Final = 10
PROBE_TRIES: Final = 20
PROBE_PAUSE_S: Final = 0.005  # whoever looks by flock whether we run holds it for microseconds
LOCK_BYTES_MAX: Final = 64
_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


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

    def note(self, epoch: int) -> None:
        """Write the epoch of this run beside the pid; the lock must be held."""
        os.pwrite(self._descriptor, f"{os.getpid()} {epoch}\n".encode(), 0)

    def _take(self) -> None:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _locked(descriptor):
                pid = _pid_in(descriptor) or "unknown"
                os.close(descriptor)
                raise AlreadyRunning(f"{self.path.stem} already runs as pid {pid}")
            if _lies_at(self.path, descriptor):  # not a file that its holder has just removed
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)  # before it counts as held: the pid of the last run is void
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole(fcntl.F_WRLCK))
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    @property
    def is_current(self) -> bool:
        """Say whether the file at our path is still the one we hold."""
        return self._descriptor >= 0 and _lies_at(self.path, self._descriptor)

    def renew(self, epoch: int, make_place: Callable[[], None]) -> None:
        """Take the lock anew if its file was removed or replaced; else nothing.

        Raises AlreadyRunning if another run took the name meanwhile: then this one must end.
        """
        if self.is_current:
            return
        before = self._descriptor
        self.acquire(make_place)
        self.note(epoch)
        os.close(before)

    def release(self) -> None:
        """Remove the file and free the lock. Releasing twice is fine."""
        if self._descriptor >= 0:
            if self.is_current:  # not that of a run that took the name from us
                self.path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1


class RunLocks:
    """The run locks of one mesh, as others see them."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def holder_of(self, pid: int) -> str | None:
        """Return the node whose held lock records *pid*, None if there is none or several.

        Nothing is remembered: a pid is used again, and looking costs some ten microseconds
        a node. Raises OSError if the locks cannot be read.
        """
        base = os.fspath(self._base)  # os alone: Path takes longer than the system calls
        held = [
            name.removesuffix(".lock")
            for name in os.listdir(base)
            if name.endswith(".lock") and _records(f"{base}/{name}", pid)
        ]
        return held[0] if len(held) == 1 else None


def next_epoch(path: Path) -> int:
    """Return a number above that of every earlier run, on disk before it is returned."""
    try:
        persisted = int(path.read_text())
    except (FileNotFoundError, ValueError):
        persisted = 0
    epoch = max(persisted + 1, wall_ns() // 1_000_000)
    write_durably(path, str(epoch).encode())
    return epoch


def _locked(descriptor: int) -> bool:
    """Take the flock; False if a node has it. Somebody who only looks is waited for."""
    for _ in range(PROBE_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if _is_held(descriptor):
            return False
        time.sleep(PROBE_PAUSE_S)
    return False


def _records(path: str, pid: int) -> bool:
    """Say whether the lock at *path* is held by a run that wrote *pid* into it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its node has just left
        return False
    try:
        return _pid_in(descriptor) == pid and _is_held(descriptor)
    finally:
        os.close(descriptor)


def _lies_at(path: Path, descriptor: int) -> bool:
    """Say whether *descriptor* is of the file that lies at *path* now."""
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _pid_in(descriptor: int) -> int:
    """Return the pid that a lock file records, 0 without one."""
    words = os.pread(descriptor, LOCK_BYTES_MAX, 0).split()
    return int(words[0]) if words and words[0].isdigit() else 0


def _is_held(descriptor: int) -> bool:
    """Say whether somebody else has the OFD lock; F_OFD_GETLK takes none, so it disturbs none."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole(fcntl.F_WRLCK))
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def _whole(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)
