"""Replay: frames out of capture files, gz or plain, lines of `<receive time> <JSON>`.

Never here: parsing of messages, pacing.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import IO

from mesh.errors import ConfigError
from nodes.market_data.frame import Frame

GZIP_MAGIC = b"\x1f\x8b"
LINE_MOST = 4 * 1024 * 1024  # bytes; the largest seen is 64 KiB
SCALES = ((10**17, 1), (10**14, 1_000), (10**11, 1_000_000))  # from this number on: ns, us, ms


def read_captures(paths: Iterable[Path]) -> Iterator[Frame]:
    """Yield the frames of all files by receive time, of equal ones by file name and line.

    Raises ConfigError with one line where a file cannot be read or is no capture.
    """
    files = sorted(paths, key=lambda path: (path.name, str(path)))
    return merge(*(read_capture(path) for path in files), key=itemgetter(0))


def read_capture(path: Path) -> Iterator[Frame]:
    """Yield the frames of one file. Raises ConfigError."""
    try:
        with _open(path) as lines:
            yield from _frames(lines, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path}: corrupt capture: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _frames(lines: IO[bytes] | gzip.GzipFile, path: Path) -> Iterator[Frame]:
    scale = 0
    for number, line in enumerate(iter(partial(lines.readline, LINE_MOST + 1), b""), 1):
        stamp, _, raw = line.rstrip().partition(b" ")
        if len(line) > LINE_MOST or not raw or not stamp.isdigit() or len(stamp) > 19:
            raise ConfigError(f"{path}: line {number} is not `<receive time> <JSON>`")
        scale = scale or _scale(int(stamp), path)
        yield Frame(int(stamp) * scale, raw, str(path))
    if not scale:
        raise ConfigError(f"{path}: empty capture")


def _scale(stamp: int, path: Path) -> int:
    """Return ns per unit, by magnitude: constant within a file."""
    for least, scale in SCALES:
        if stamp >= least:
            return scale
    raise ConfigError(f"{path}: receive time {stamp} is neither ns, us nor ms")
