"""Logs: app.log, error.log, performance.log; JSON lines that many processes append to.

Each line is one write of at most 8 KiB on a descriptor opened for appending, so lines of
several processes never mix. Whoever finds a file too long renames it under a lock; the
others notice that the inode changed and open the new one.

Never here: others' log calls, trading words.
"""

import fcntl
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import msgspec

from mesh.clock import wall_ns
from mesh.transport.handled import cause_now

LINE_MAX_BYTES: Final = 8 * 1024
FIELD_MAX_CHARS: Final = 2 * 1024
LEVELS: Final = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_CREDENTIALS: Final = re.compile(r"(://[^/\s:@]*):[^@\s]*@")
_TOKEN: Final = re.compile(r"(?i)((?:token|secret|password|api_?key)[\"'=:\s]+)[^\s\"',&]+")


class LogFile:
    """One shared file of lines. A full disk stops the log, never the node."""

    def __init__(self, path: Path, rotate_bytes: int, kept: int) -> None:
        self.path, self._rotate_bytes, self._kept = path, rotate_bytes, kept
        self._descriptor = -1
        self.lost = 0

    def write(self, line: bytes) -> None:
        """Append *line* and its newline in one write."""
        try:
            self._reopen()
            os.write(self._descriptor, line[: LINE_MAX_BYTES - 1] + b"\n")
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the descriptor. Closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _reopen(self) -> None:
        if self._descriptor >= 0:
            mine = os.fstat(self._descriptor)
            try:
                same = self.path.stat().st_ino == mine.st_ino
            except FileNotFoundError:
                same = False
            if same and mine.st_size < self._rotate_bytes:
                return
            if same:
                self._rotate(mine.st_ino)
            self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o640)

    def _rotate(self, inode: int) -> None:
        lock = os.open(
            self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.stat().st_ino == inode:
                for n in range(self._kept - 1, 0, -1):
                    older = self.path.with_name(f"{self.path.name}.{n}")
                    if older.exists():
                        older.replace(self.path.with_name(f"{self.path.name}.{n + 1}"))
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        except (BlockingIOError, FileNotFoundError):
            return  # another process is doing it
        finally:
            os.close(lock)


class Logs:
    """The three logs of one node. event names are constants; all else is data, redacted."""

    def __init__(
        self, directory: Path, node: str, epoch: int, *, level: str, rotate_bytes: int, kept: int
    ) -> None:
        self.node, self.epoch = node, epoch
        self._level = LEVELS.get(level.upper(), LEVELS["INFO"])
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._app, self._error, self._performance = (
            LogFile(directory / f"{name}.log", rotate_bytes, kept)
            for name in ("app", "error", "performance")
        )
        self._echo = sys.stderr.isatty()

    def debug(self, event: str, **fields: object) -> None:
        """Log for the author of a node."""
        self._write("DEBUG", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Log what an operator may want to read."""
        self._write("INFO", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Log what was mended."""
        self._write("WARNING", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log what a person must look at."""
        self._write("ERROR", event, fields)

    def failure(self, event: str, error: BaseException, **fields: object) -> None:
        """Log what a person must look at, with the traceback of *error*."""
        trace = "".join(traceback.format_exception(error))[-FIELD_MAX_CHARS:]
        self._write("ERROR", event, {**fields, "error": repr(error), "traceback": trace})

    def performance(self, **figures: float | str) -> None:
        """Log the figures of the last ten seconds."""
        self._performance.write(self._line("INFO", "performance", figures))

    def close(self) -> None:
        """Close the files."""
        for file in (self._app, self._error, self._performance):
            file.close()

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._level:
            return
        line = self._line(level, event, fields)
        self._app.write(line)
        if LEVELS[level] >= LEVELS["WARNING"]:
            self._error.write(line)
        if self._echo:
            sys.stderr.write(line.decode() + "\n")

    def _line(self, level: str, event: str, fields: "dict[str, Any]") -> bytes:
        head: dict[str, object]
        head = {"ts": wall_ns(), "node": self.node, "epoch": self.epoch, "level": level}
        if (cause := cause_now()) is not None:
            head["trace"] = cause.text
        body = {key: _safe(value) for key, value in fields.items()}
        line = msgspec.json.encode({**head, "event": event, "fields": body})
        if len(line) < LINE_MAX_BYTES:
            return line
        return msgspec.json.encode({**head, "event": event, "fields": {"truncated": len(line)}})


def redact(text: str) -> str:
    """Return *text* without the credentials of URLs and what stands behind secret words."""
    return _TOKEN.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", text))


def _safe(value: object) -> object:
    if isinstance(value, bool | int | float) or value is None:
        return value
    return redact(str(value)[:FIELD_MAX_CHARS])
