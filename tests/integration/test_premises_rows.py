"""Rows about the files by which a run is found: deleted or replaced while it lives."""

import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.runtime.identity import RunLock
from tests.chaos.process.homes import Home, until

pytestmark = pytest.mark.system

PER_S = 50


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def place(home: Home, name: str) -> Path:
    """Return where a file of the run directory lies."""
    return home.run / "genesis" / name


def joins(home: Home, node: str) -> None:
    """Start a node that applies numbers; wait until it has the newest."""
    home.up(node, "applier")
    newest = home.newest("speaker")
    assert newest > 0
    until(lambda: home.newest(node) >= newest)


def test_f37_deleted_run_directory_is_made_again_and_told_of(home: Home) -> None:
    home.up("speaker", "counter", per_s=PER_S)
    joins(home, "early")
    shutil.rmtree(home.run.rename(home.path / "gone"))  # at once, whoever looks meanwhile
    until(lambda: all(place(home, f"{node}.e").exists() for node in ("speaker", "early")))
    joins(home, "late")
    newest = home.newest("speaker")
    until(lambda: min(home.newest("early"), home.newest("late")) > newest)
    early = home.recorded("early")  # once: it grows
    assert early == sorted(set(early))
    told = (home.path / "logs/error.log").read_text()
    assert told.count("premises_lost") == 2
    assert '"speaker.d, speaker.e, speaker.json, speaker.lock, speaker.r"' in told
    assert [home.stop(node) for node in ("early", "late", "speaker")] == [0, 0, 0]
    assert not home.run.exists()


def test_a28_socket_put_in_place_of_ours_is_removed_and_told_of(home: Home) -> None:
    home.up("speaker", "counter", per_s=PER_S)
    joins(home, "early")
    path = place(home, "speaker.d")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as thief:
        thief.bind(str(path))
        thief.listen()
        his = path.stat().st_ino
        until(lambda: path.exists() and path.stat().st_ino != his)
        joins(home, "late")
    assert "premises_lost" in (home.path / "logs/error.log").read_text()
    newest = home.newest("speaker")
    until(lambda: home.newest("early") > newest)


def test_record_that_was_deleted_is_written_again_and_links_stay(home: Home) -> None:
    home.up("speaker", "counter", per_s=PER_S)
    joins(home, "early")
    record = place(home, "nodes/speaker.json")
    record.unlink()
    until(record.exists)
    joins(home, "late")
    newest = home.newest("speaker")
    until(lambda: min(home.newest("early"), home.newest("late")) > newest)
    assert '"files":"speaker.json"' in (home.path / "logs/error.log").read_text()


def test_run_directory_opened_to_others_is_closed_again(home: Home) -> None:
    home.up("speaker", "counter", per_s=PER_S)
    places = home.run, home.run / "genesis"
    for path in places:
        path.chmod(0o777)
    until(lambda: {stat.S_IMODE(path.stat().st_mode) for path in places} == {0o700})
    assert home.stop("speaker") == 0


def test_run_whose_name_was_taken_ends_and_takes_nothing_with_it(home: Home) -> None:
    node = home.up("speaker", "counter", per_s=PER_S)
    lock = RunLock(place(home, "speaker.lock"))
    with home.frozen("speaker"):
        lock.path.unlink()
        lock.acquire()
    assert node.wait(10) == 75
    assert lock.is_current
    assert place(home, "nodes/speaker.json").exists()
    lock.release()
