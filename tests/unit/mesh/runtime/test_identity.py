"""Identity: one process holds the lock; epochs only grow, also over lost files."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from mesh.errors import AlreadyRunning, ConfigError
from mesh.runtime.identity import RunLock, RunLocks, check_name, next_epoch

Hold: TypeAlias = "Callable[..., subprocess.Popen[str]]"
HOLD = (
    "import sys, pathlib\nfrom mesh.runtime.identity import RunLock\n"
    "for name in sys.argv[2:]:\n"
    "    RunLock(pathlib.Path(sys.argv[1], name)).acquire()\n"
    "print('held', flush=True)\ninput()"
)


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    holders: list[subprocess.Popen[str]] = []

    def start(*names: str) -> "subprocess.Popen[str]":
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path), *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_second_process_is_refused_and_told_the_pid(tmp_path: Path, hold: Hold) -> None:
    holder = hold("risk.lock")
    lock = RunLock(tmp_path / "risk.lock")
    with pytest.raises(AlreadyRunning, match=str(holder.pid)):
        lock.acquire()
    holder.kill()
    holder.communicate()
    lock.acquire()  # the kernel freed it
    lock.release()
    assert not (tmp_path / "risk.lock").exists()


def test_epochs_grow_also_when_the_clock_went_back(tmp_path: Path) -> None:
    path = tmp_path / "risk"
    first = next_epoch(path)
    path.write_text(str(first + 10**9))  # as if the clock had been far ahead
    assert next_epoch(path) == first + 10**9 + 1
    path.write_text("garbage")
    assert next_epoch(path) >= first


@pytest.mark.parametrize("name", ["", "A", "a/b", ".a", "x" * 49])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


def test_place_that_vanishes_while_we_come_is_made_again(tmp_path: Path) -> None:
    made = 0

    def make() -> None:
        nonlocal made
        made += 1
        if made == 2:  # the first time the last node to leave was faster
            (tmp_path / "run").mkdir()

    lock = RunLock(tmp_path / "run" / "risk.lock")
    lock.acquire(make)
    assert made == 2
    lock.release()


def test_place_that_cannot_be_kept_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vanishes"):
        RunLock(tmp_path / "run" / "risk.lock").acquire()


def test_holder_of_a_pid_is_the_node_whose_held_lock_records_it(
    tmp_path: Path, hold: Hold
) -> None:
    locks = RunLocks(tmp_path)
    risk, strategy = hold("risk.lock"), hold("strategy.ema.lock")
    assert locks.holder_of(risk.pid) == "risk"
    assert locks.holder_of(strategy.pid) == "strategy.ema"
    assert locks.holder_of(os.getpid()) is None
    risk.kill()
    risk.communicate()
    assert (tmp_path / "risk.lock").exists()  # with the pid of the dead in it
    assert locks.holder_of(risk.pid) is None
    again = hold("risk.lock")
    assert locks.holder_of(again.pid) == "risk"
    assert locks.holder_of(risk.pid) is None


def test_a_pid_written_into_a_lock_that_nobody_holds_is_nobody(tmp_path: Path) -> None:
    (tmp_path / "risk.lock").write_text(f"{os.getpid()} 1\n")
    (tmp_path / "api.lock").write_text("garbage")
    (tmp_path / "nodes").mkdir()
    assert RunLocks(tmp_path).holder_of(os.getpid()) is None
    assert RunLocks(tmp_path).holder_of(0) is None


def test_a_process_with_several_locks_is_none_of_these_nodes(tmp_path: Path, hold: Hold) -> None:
    holder = hold("risk.lock", "api.lock")
    assert RunLocks(tmp_path).holder_of(holder.pid) is None


def test_our_own_lock_is_seen_and_kept_by_looking(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "risk.lock")
    lock.acquire()
    lock.note(1234567890123)
    assert lock.path.read_text() == f"{os.getpid()} 1234567890123\n"
    for _ in range(2):
        assert RunLocks(tmp_path).holder_of(os.getpid()) == "risk"
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        RunLock(lock.path).acquire()
    lock.release()
    assert RunLocks(tmp_path).holder_of(os.getpid()) is None


def test_somebody_who_only_looks_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "risk.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        looking = threading.Timer(0.02, fcntl.flock, (file, fcntl.LOCK_UN))
        looking.start()
        lock = RunLock(path)
        lock.acquire()
        looking.join()
    lock.release()
