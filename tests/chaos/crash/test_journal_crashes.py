"""Crashes of a journal: at any byte of its write-ahead log, at any line of its code.

What was acknowledged is there, nothing is there in part, and the log goes on.
"""

import os
import random
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import NamedTuple

import pytest

import mesh.storage
from mesh.storage.journal import Applied, DeadLetter, Group, Journal, Retention, Stored

PATIENCE_S = 10
SIZES = (1, 3, 20, 2)  # records per group; 20 takes more than one statement
NOTHING_STAYS = Retention(max_bytes=0, keep_s=0.0)


def group(journal: Journal, number: int, size: int, frame_bytes: int = 200) -> Group:
    """Return the group with that number; its offsets, cause and dead letter tell each other."""
    offsets = range(journal.last + 1, journal.last + 1 + size)
    return Group(
        tuple(Stored(n, f"a.{n}", n % 7, frame(n, frame_bytes)) for n in offsets),
        applied=(Applied("venue", "log", offsets[-1]),),
        dead=(DeadLetter("venue", "log", number, "a", "why", 1, b"frame"),),
        acks=(Applied("recorder", journal.log_id, journal.last),),
    )


def frame(offset: int, size: int) -> bytes:
    return random.Random(offset).randbytes(size)


class State(NamedTuple):
    """What a journal holds, as far as a crash may change it."""

    first: int
    last: int


def reopened(path: Path) -> State:
    """Open what a crash left, assert that it is whole and goes on; return what it held."""
    journal = Journal(path)
    state = State(journal.first, journal.last)
    rows = list(journal.read())
    assert [row.offset for row in rows] == list(range(state.first, state.last + 1))
    for row in rows:
        assert row == (
            row.offset,
            f"a.{row.offset}",
            row.offset % 7,
            frame(row.offset, len(row.frame)),
        )
    cause = journal.applied("venue")
    assert (cause.offset if cause else 0) == state.last, "records and cause are one transaction"
    numbers = [letter.offset for letter in journal.dead_letters()]
    assert numbers == list(range(1, len(numbers) + 1))
    journal.append(group(journal, len(numbers) + 1, 1))
    assert journal.last == state.last + 1
    journal.close()
    return state


# --- power cuts ---

WAL_HEADER, FRAME_HEADER, PAGE = 32, 24, 4_096


def frame_ends(wal: bytes) -> Iterator[int]:
    """Yield where each valid frame of the write-ahead log ends (SQLite file format, 4.2)."""
    salts, end = wal[16:24], WAL_HEADER
    while wal[end + 8 : end + 16] == salts and len(wal) >= end + FRAME_HEADER + PAGE:
        end += FRAME_HEADER + PAGE
        yield end


class Recording:
    """A journal, and after each commit how long its write-ahead log was and what it held."""

    def __init__(self, place: Path) -> None:
        self.path = place / "recorded.sqlite3"
        self.wal_path = place / "recorded.sqlite3-wal"
        self.journal = Journal(self.path, keep=NOTHING_STAYS)
        self.commits: list[tuple[int, State]] = []
        self.number = 0

    def grow(self, groups: int) -> None:
        dice = random.Random(groups)
        for _ in range(groups):
            self.number += 1
            size, frame_bytes = dice.choice(SIZES), dice.choice((50, 200, 6_000))
            self.journal.append(group(self.journal, self.number, size, frame_bytes))
            self.note()

    def trim(self, floor: int) -> None:
        self.journal.floor = floor
        self.journal._retain()
        self.note()

    def note(self) -> None:
        end = max(frame_ends(self.wal_path.read_bytes()), default=0)
        self.commits.append((end, State(self.journal.first, self.journal.last)))

    def restart_log(self) -> None:
        """Write all back, so that the next commit begins the write-ahead log anew."""
        self.journal._gauge.wrote(1, 0)
        self.journal._gauge.checkpoint(self.journal._db, idle=True)
        self.commits = [(0, self.commits[-1][1])]

    def promised(self, cut: int) -> State:
        """Return what was committed once the first *cut* bytes were on disk."""
        return [state for end, state in self.commits if end <= cut][-1]


def cuts(wal: bytes) -> Iterator[int]:
    """Yield places before, in and behind each header and frame."""
    yield from (0, 1, 16, WAL_HEADER - 1, WAL_HEADER)
    for end in frame_ends(wal):
        start = end - PAGE - FRAME_HEADER
        yield from (start + 7, start + FRAME_HEADER, end - PAGE // 2, end - 1, end)


@pytest.mark.timeout(60)  # hundreds of files are opened and synced
@pytest.mark.parametrize("restarted", [False, True], ids=["grown log", "restarted log"])
def test_f22_power_cut_at_any_byte_keeps_every_acknowledged_row(
    tmp_path: Path, restarted: bool
) -> None:
    recording = Recording(tmp_path)
    recording.commits.append((0, State(1, 0)))
    recording.grow(6)
    if restarted:
        recording.restart_log()
    before = recording.wal_path.read_bytes()
    recording.grow(4)
    recording.trim(9)
    recording.grow(3)
    base, wal = recording.path.read_bytes(), recording.wal_path.read_bytes()
    old = before if restarted else b""
    path = tmp_path / "cut.sqlite3"
    wal_path = tmp_path / "cut.sqlite3-wal"
    points = 0
    for number, cut in enumerate(cuts(wal)):
        behind = len(wal) - cut
        tail = (b"", old[cut:], bytes(behind), random.Random(cut).randbytes(behind))[number % 4]
        path.write_bytes(base)
        wal_path.write_bytes(wal[:cut] + tail)
        assert reopened(path) == recording.promised(cut), f"cut at {cut}, tail {number % 4}"
        points += 1
    recording.journal.close()
    assert points > 150


def test_f22_sectors_of_the_last_commit_that_miss_take_it_alone(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    recording.grow(5)
    synced = recording.commits[-2][0]
    base, wal = recording.path.read_bytes(), recording.wal_path.read_bytes()
    path = tmp_path / "cut.sqlite3"
    for seed in range(60):
        dice, torn = random.Random(seed), bytearray(wal)
        for sector in range(synced, len(wal), 512):
            if dice.random() < 0.2:
                torn[sector : sector + 512] = bytes(len(torn[sector : sector + 512]))
        path.write_bytes(base)
        path.with_name("cut.sqlite3-wal").write_bytes(torn)
        whole = bytes(torn) == wal
        assert reopened(path) == recording.commits[-1 if whole else -2][1], f"seed {seed}"
    recording.journal.close()


def test_f22_power_cut_in_a_checkpoint_loses_nothing(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    recording.grow(6)
    before, wal = recording.path.read_bytes(), recording.wal_path.read_bytes()
    recording.restart_log()
    after = recording.path.read_bytes()
    assert len(after) > len(before)
    expected = recording.commits[-1][1]
    path = tmp_path / "cut.sqlite3"
    for seed in range(60):
        dice, torn = (
            random.Random(seed),
            bytearray(after[: random.Random(seed).randrange(len(after))]),
        )
        for sector in range(0, len(torn), 512):
            if dice.random() < 0.5:
                old = before[sector : sector + 512] or dice.randbytes(512)
                torn[sector : sector + len(old)] = old
        path.write_bytes(torn if len(torn) > len(before) else before)
        path.with_name("cut.sqlite3-wal").write_bytes(wal)
        assert reopened(path) == expected, f"seed {seed}"
    recording.journal.close()


# --- a crash at every line ---

CODE = str(Path(mesh.storage.__file__).parent)
Say = Callable[[object], None]


def appending(path: Path, say: Say) -> None:
    """Live a short life without the writer thread, with retention and checkpoints."""
    journal = Journal(path, keep=NOTHING_STAYS)
    for number, size in enumerate(SIZES, 1):
        journal.append(group(journal, number, size))
        say(journal.last)
    journal.floor = 4
    journal._upkeep(idle=True)
    journal.close()


def threaded(path: Path, say: Say) -> None:
    """Live the same life with the writer thread."""
    journal = Journal(path, keep=NOTHING_STAYS)
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    journal.start(lambda _, error: done.put(error))
    for number, size in enumerate(SIZES, 1):
        journal.write(group(journal, number, size))
        assert done.get(timeout=PATIENCE_S) is None
        say(journal.last)
    journal.close()


def migrating(path: Path, say: Say) -> None:
    """Open a journal of the first version."""
    Journal(path).close()
    say(3)


def first_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("""
        create table log ("offset" integer primary key, topic text not null,
          schema integer not null, frame blob not null) strict;
        create table meta (key text primary key, value text not null) strict;
        create table applied (node text primary key, log_id text not null,
          "offset" integer not null) strict;
        insert into meta values ('log_id', 'abc');
        insert into applied values ('venue', 'log', 3);
    """)
    rows = ((n, f"a.{n}", n % 7, frame(n, 50)) for n in (1, 2, 3))
    db.executemany("insert into log values (?, ?, ?, ?)", rows)
    db.commit()
    db.close()


def traced(visit: Callable[[str, int], None]) -> None:
    """Call *visit* at each line of storage code, in this thread and all to come."""

    def line(at: FrameType, event: str, _: object) -> object:
        if event == "line":
            visit(at.f_code.co_filename, at.f_lineno)
        return line

    def call(at: FrameType, _: str, __: object) -> object:
        return line if at.f_code.co_filename.startswith(CODE) else None

    threading.settrace(call)  # type: ignore[arg-type]  # the stubs know no nested tracers
    sys.settrace(call)  # type: ignore[arg-type]  # the same


class Life(NamedTuple):
    """What a child said, and the signal that ended it (0: none)."""

    said: list[str]
    signal: int


def lived(life: Callable[[Say], None], kill_at: int | None) -> Life:
    """Run *life* in a child that kills itself at the line with that number, or tells all lines."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        status = 1
        try:
            signal.alarm(PATIENCE_S)  # nothing waits for ever
            _live(life, kill_at, write_end)
            status = 0
        except BaseException:  # noqa: BLE001  # whatever it is, the child must not return
            os.write(write_end, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        said = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, said
    return Life(said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def _live(life: Callable[[Say], None], kill_at: int | None, pipe: int) -> None:
    lines: list[tuple[str, int]] = []

    def visit(file: str, line: int) -> None:
        lines.append((file, line))
        if len(lines) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    traced(visit)
    life(lambda word: _said(pipe, word))
    sys.settrace(None)
    threading.settrace(None)
    if kill_at is None:
        _said(pipe, "\n".join(["lines", *(f"{file}:{line}" for file, line in lines)]))


def _said(pipe: int, word: object) -> None:
    os.write(pipe, f"{word}\n".encode())  # in the pipe it outlives the child


def crash_points(lines: Iterable[str]) -> list[int]:
    """Return when each line of code ran first and last: what lies between is more of the same."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        first.setdefault(line, number)
        last[line] = number
    return sorted({*first.values(), *last.values()})


@pytest.mark.timeout(120)  # hundreds of processes are started and killed
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("life", [appending, threaded, migrating], ids=lambda life: life.__name__)
def test_f23_crash_at_every_line_of_the_journal(
    tmp_path: Path, life: Callable[[Path, Say], None]
) -> None:
    whole = [sum(SIZES[:n]) for n in range(len(SIZES) + 1)]

    def crash(kill_at: int | None) -> Life:
        path = tmp_path / str(kill_at) / "j.sqlite3"
        path.parent.mkdir()
        if life is migrating:
            first_version(path)
        return lived(lambda say: life(path, say), kill_at)

    undisturbed = crash(None)
    assert undisturbed.signal == 0
    told, lines = undisturbed.said, undisturbed.said.index("lines") + 1
    points = crash_points(told[lines:])
    assert len(points) > 100
    crashed = 0
    for point in points:
        ended = crash(point)
        crashed += ended.signal == signal.SIGKILL
        acknowledged = int(ended.said[-1]) if ended.said else 0
        state = reopened(tmp_path / str(point) / "j.sqlite3")
        if life is migrating:
            assert state == State(1, 3), f"line {told[lines + point - 1]}"
            continue
        assert state.last in whole, f"line {told[lines + point - 1]}"
        assert state.last >= acknowledged, f"line {told[lines + point - 1]}"
        assert state.first in (1, 5)
    sys.stdout.write(f"{crashed} of {len(points)} crash points\n")
    assert crashed > 0.9 * len(points)  # threads may take turns another way: some ran to the end
