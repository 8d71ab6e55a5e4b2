"""PrivateDirectory: files of one directory that nobody else can plant, replace or watch.

All names are relative to a handle of the directory and no symlink is followed, so what was
checked is what is used. Files are written whole: they survive a power cut, or never were.

Never here: what is in the files, which are wanted.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mesh.errors import StorageError, Unavailable
from mesh.storage.files import sync_directory

__all__ = ["PrivateDirectory", "Unfit", "translated"]

_SAFE: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | _SAFE
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_UNREADABLE: Final = {  # says something of this one file, not of disk or process
    errno.ELOOP: "is a symlink",
    errno.EACCES: "may not be read",
    errno.ENXIO: "is no regular file",
    errno.EIO: "cannot be read from the disk",
}


class Unfit(Exception):
    """A file that is not what it should be; the message says why."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn an OSError of the block into Unavailable if the disk is full, else StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable(f"{what}: the disk is full") from error
        raise StorageError(f"{what}: {error}") from error


class PrivateDirectory:
    """An open directory of ours; close it. All methods but the first raise OSError.

    Opening makes the directory (0700) if *make*. Raises FileNotFoundError without that, and
    StorageError for a symlink, a foreign owner, or one that others may write to.
    """

    def __init__(self, path: Path, *, make: bool) -> None:
        if make and not path.is_symlink():
            _made(path)
        try:
            self._handle = os.open(path, _DIRECTORY)
        except NotADirectoryError as error:  # what O_DIRECTORY says of a symlink as well
            raise StorageError(f"{path} is no directory, or a symlink") from error
        found = os.fstat(self._handle)
        if reason := _distrusted(found):
            self.close()
            raise StorageError(f"{path} {reason}: it must be ours alone, mode 0700")

    def close(self) -> None:
        """Let go of the handle."""
        os.close(self._handle)

    def names(self) -> list[str]:
        """Return the names of what is there."""
        return os.listdir(self._handle)

    def read(self, name: str, bytes_max: int) -> bytes:
        """Return the content of a regular file of ours. Raises Unfit for anything else."""
        try:
            # Without O_NONBLOCK a planted FIFO would hold us for ever.
            handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=self._handle)
            try:
                if reason := _unfit(os.fstat(handle), bytes_max):
                    raise Unfit(reason)
                with os.fdopen(handle, "rb", closefd=False) as file:
                    return file.read(bytes_max)
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno in _UNREADABLE:
                raise Unfit(_UNREADABLE[error.errno]) from error
            raise

    def write(self, name: str, content: bytes, *, fresh: str) -> None:
        """Write *content* to a new file *fresh*, then call it *name*; durable on return.

        A file *fresh* that a crash left is replaced: have one writer for it. On failure the
        old file *name* is still there, unless the sync of the directory failed.
        """
        self.remove(fresh)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
        try:
            handle = os.open(fresh, flags, 0o600, dir_fd=self._handle)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._renamed(fresh, name)
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                self.remove(fresh)
            raise
        os.fsync(self._handle)

    def rename(self, old: str, new: str) -> None:
        """Call *old* *new*, replacing what has that name; durable on return."""
        self._renamed(old, new)
        os.fsync(self._handle)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._handle)

    def lock(self, name: str) -> int:
        """Return the open lock file *name*: held until closed. BlockingIOError: another's."""
        handle = os.open(name, os.O_RDWR | os.O_CREAT | _SAFE, 0o600, dir_fd=self._handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle

    def _renamed(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._handle, dst_dir_fd=self._handle)


def _distrusted(found: os.stat_result) -> str:
    """Return why what was found is not to be trusted; nothing if it is."""
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}"
    if found.st_mode & _OTHERS_WRITE:
        return f"may be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _unfit(found: os.stat_result, bytes_max: int) -> str:
    """Return why a file is not to be read; nothing if it is."""
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_size > bytes_max:
        return f"has {found.st_size} bytes, {bytes_max} are allowed"
    return _distrusted(found)


def _made(path: Path) -> None:
    """Make the directory and those above it; their names survive a power cut as well."""
    if path.is_dir():
        return
    _made(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)
