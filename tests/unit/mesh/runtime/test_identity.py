"""Identity: one process holds the lock; epochs only grow, also over lost files."""

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import AlreadyRunning, ConfigError
from mesh.runtime.identity import RunLock, check_name, next_epoch


def test_second_process_is_refused_and_told_the_pid(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom mesh.runtime.identity import RunLock\n"
        "RunLock(pathlib.Path(sys.argv[1])).acquire()\nprint('held', flush=True)\ninput()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "risk.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
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
