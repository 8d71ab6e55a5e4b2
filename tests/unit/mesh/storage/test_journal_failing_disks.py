"""Journal: a full disk refuses and goes on, any other failure is final."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.clock import wall_ns
from mesh.errors import StorageError, Unavailable
from mesh.storage.journal import (
    Applied,
    Group,
)
from tests.unit.mesh.storage.journals import (
    ALL,
    PATIENCE_S,
    ROOT,
    Open,
    Outcomes,
    append,
    records,
    until,
)

# --- disks that fail ---


def test_f18_disk_full_is_unavailable_and_resumes(opened: Open) -> None:
    journal = opened()
    append(journal, "a")
    (pages,) = journal._db.execute("pragma page_count").fetchone()
    journal._db.execute(f"pragma max_page_count={pages + 2}")
    outcomes = Outcomes(journal)
    large = Group(records(journal, "a", "a", size=20_000), (Applied("venue", "log", 9),))
    for _ in range(3):
        error = outcomes.of(large)
        assert isinstance(error, Unavailable)
        assert error.executed == "no"
        assert journal.last == 1
        assert journal.applied("venue") is None
    assert outcomes.of(Group(records(journal, "a"))) is None  # a small one still fits
    journal._db.execute(f"pragma max_page_count={pages + 100}")
    assert outcomes.of(Group(records(journal, "a", size=20_000))) is None
    journal.close()
    assert [row.offset for row in opened().read()] == [1, 2, 3]


FULL_DISK = """
import os, sys
from pathlib import Path
from mesh.errors import Unavailable
from mesh.storage.journal import Applied, Group, Journal, Stored

place = Path(sys.argv[1])
journal = Journal(place / "j.sqlite3")
refused, ballast = 0, place / "ballast"

def append(size):
    global refused
    try:
        record = Stored(journal.last + 1, "a", 7, os.urandom(size))
        journal.append(Group((record,), (Applied("venue", "log", journal.last + 1),)))
        return True
    except Unavailable:
        refused += 1
        return False

append(100)
ballast.write_bytes(bytes(100_000))
while append(5_000):
    pass
while append(10):  # until not one page is left
    pass
kept = journal.last
assert journal.applied("venue").offset == kept == sum(1 for _ in journal.read())
journal._upkeep(idle=True)
assert not journal.failure
ballast.unlink()
assert all(append(5_000) for _ in range(3)), "space came back"
journal._upkeep(idle=True)
journal.close()
again = Journal(place / "j.sqlite3")
assert again.last == kept + 3 == again.applied("venue").offset
again.close()
print(refused)
"""


def in_own_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where mounts end with the process."""
    return subprocess.run(
        ["unshare", "-rm", "sh", "-ec", script, "sh", *arguments],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """Return where a tmpfs can be mounted; skip where it cannot."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare to mount a small disk with")
    if in_own_mounts('mount -t tmpfs none "$1"', str(tmp_path)).returncode:
        pytest.skip("this user may not mount a small disk")
    return tmp_path


def test_f18_really_full_disk_is_unavailable_and_resumes(small_disk: Path) -> None:
    mount = 'mount -t tmpfs -o size=512k none "$2"; exec "$1" -W error -c "$3" "$2"'
    answer = in_own_mounts(mount, sys.executable, str(small_disk), FULL_DISK)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) >= 2


WRITE_ERROR = """
import resource, sys
from pathlib import Path
from mesh.errors import StorageError
from mesh.storage.journal import Group, Journal, Stored

path = Path(sys.argv[1])
journal = Journal(path)
journal.append(Group((Stored(1, "a", 7, b"kept"),)))
size = path.with_name(path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
for lifted in (False, True):
    if lifted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    try:
        journal.append(Group((Stored(2, "a", 7, b"lost"),)))
    except StorageError as error:
        print(error)
    before = path.read_bytes()
assert journal.failure
journal.close()
assert path.read_bytes() == before, "nothing was checkpointed after the error"
"""


def test_f20_write_error_is_final(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", WRITE_ERROR, str(path)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert answer.returncode == 0, answer.stderr
    first, second = answer.stdout.splitlines()
    assert "I/O error" in first
    assert first == second
    assert path.with_name("j.sqlite3-wal").exists()
    assert [row.frame for row in opened().read()] == [b"kept"]


READ_ONLY_DISK = """
import subprocess, sys
from pathlib import Path
from mesh.errors import StorageError
from mesh.storage.journal import Journal

try:
    Journal(Path(sys.argv[1]) / "j.sqlite3")
except StorageError as error:
    print(error)
"""


def test_f20_read_only_disk_refuses_the_start(small_disk: Path) -> None:
    mount = 'mount -t tmpfs -o ro none "$2"; exec "$1" -W error -c "$3" "$2"'
    answer = in_own_mounts(mount, sys.executable, str(small_disk), READ_ONLY_DISK)
    assert answer.returncode == 0, answer.stderr
    assert "Read-only file system" in answer.stdout


def test_f20_error_of_the_idle_writer_reaches_the_next_write(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.storage.journal.IDLE_S", 0.01)
    journal = opened(keep=ALL)
    append(journal, "a")
    journal._db.execute("drop table consumer")  # what retention asks first
    journal.floor = 1
    outcomes = Outcomes(journal)
    until(lambda: journal.failure)
    with pytest.raises(StorageError, match="consumer"):
        journal.write(Group(records(journal, "a")))
    journal.close()
    assert outcomes.journal.first == 1


def test_age_of_a_record_is_when_it_was_stored(opened: Open) -> None:
    journal, before_ns = opened(), wall_ns()
    append(journal, "a")
    (ts_ns,) = journal._db.execute("select ts_ns from log").fetchone()
    assert before_ns <= ts_ns <= wall_ns()
