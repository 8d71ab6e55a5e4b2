"""Checkpointer: the newest that verifies is restored; a broken one is set aside, and told."""

import asyncio
import errno
import os
import random
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.errors import Invalid, LocalProtocolError, StorageError, Unavailable
from mesh.protocol.commits import Applied
from mesh.storage import image, private
from mesh.storage.checkpoint import KEPT, STATE_MAX_BYTES, Checkpointer, Positions, Upgrade

SAVER = """
import sys
from mesh.storage.checkpoint import Checkpointer
checkpointer = Checkpointer("a", sys.argv[1])
print(checkpointer.save_checkpoint("theirs"), flush=True)
sys.stdin.read()
"""


def names(place: Path) -> list[str]:
    """Return what lies there, without the lock."""
    return sorted(path.name for path in place.iterdir() if path.suffix != ".lock")


def two_saved(place: Path) -> Path:
    """Save "good", then "bad!"; return the file of the second."""
    with closing(Checkpointer("a", place)) as checkpointer:
        checkpointer.save_checkpoint("good")
        checkpointer.save_checkpoint("bad!")
    return place / "a.2.ckpt"


def restored(place: Path, **options: Any) -> tuple[object, list[str]]:
    """Return what a new checkpointer restores, and what it rejected."""
    told: list[str] = []
    checkpointer = Checkpointer("a", place, report=told.append, **options)
    state = checkpointer.restore_checkpoint()
    assert told[-KEPT:] == checkpointer.rejections
    return state, told


def test_story(tmp_path: Path) -> None:
    checkpointer = Checkpointer("strategy.ema", tmp_path)
    assert checkpointer.restore_checkpoint() is None
    assert checkpointer.save_checkpoint({"n": 1}) == 1
    assert checkpointer.save_checkpoint({"n": 2}) == 2
    assert Checkpointer("strategy.ema", tmp_path).restore_checkpoint() == {"n": 2}


def test_positions_and_the_run_that_saved_come_back(tmp_path: Path) -> None:
    at = (Applied("execution", "abc", 7), Applied("venue", "def", 0))
    Checkpointer("a", tmp_path, epoch=41).save_checkpoint([1, None, "x"], at)
    found = Checkpointer("a", tmp_path, epoch=42).restore()
    assert found is not None
    assert (found.state, found.positions) == ([1, None, "x"], at)
    assert (found.epoch, found.generation, found.schema) == (41, 1, 1)


def test_newest_three_are_kept(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    for n in range(6):
        checkpointer.save_checkpoint(n)
    assert names(tmp_path) == ["a.4.ckpt", "a.5.ckpt", "a.6.ckpt"]


def test_components_of_one_directory_do_not_mix(tmp_path: Path) -> None:
    for name in ("a", "a.1", "a.1.2", "ab"):
        with closing(Checkpointer(name, tmp_path)) as checkpointer:
            for _ in range(5):
                checkpointer.save_checkpoint(name)
    for name in ("a", "a.1", "a.1.2", "ab"):
        assert Checkpointer(name, tmp_path).restore_checkpoint() == name


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    assert Checkpointer("a", tmp_path / "b" / "c").restore_checkpoint() is None
    assert names(tmp_path) == []


# --- what cannot be saved ---


@pytest.mark.parametrize(
    "state",
    [object(), 2**70, {("a",): 1, object(): 2}],
    ids=["object", "large_number", "object_as_key"],
)
def test_state_without_a_form_is_refused_and_the_old_one_stays(
    tmp_path: Path, state: object
) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    checkpointer.save_checkpoint("old")
    with pytest.raises(Invalid):
        checkpointer.save_checkpoint(state)
    assert checkpointer.restore_checkpoint() == "old"


def test_largest_state_fits_and_one_byte_more_does_not(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    header = 5  # of MessagePack, for so many bytes
    checkpointer.save_checkpoint(bytes(STATE_MAX_BYTES - header))
    assert len(checkpointer.restore_checkpoint()) == STATE_MAX_BYTES - header
    with pytest.raises(Invalid, match="16777216 are allowed"):
        checkpointer.save_checkpoint(bytes(STATE_MAX_BYTES - header + 1))


def test_positions_are_bounded(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    for many in ([Applied("n", "log", 1)] * 5_000, [Applied("n" * 18_000_000, "log", 1)]):
        with pytest.raises(Invalid):
            checkpointer.save_checkpoint(None, many)


# --- A92: what cannot be restored ---


@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_a92_any_flipped_byte_falls_back_to_the_previous(tmp_path: Path, flip: int) -> None:
    path = two_saved(tmp_path)
    raw = path.read_bytes()
    for position in range(len(raw)):
        torn = bytearray(raw)
        torn[position] ^= flip
        path.write_bytes(torn)
        state, told = restored(tmp_path)
        assert state == "good", f"byte {position}"
        assert told[0].startswith("CHECKPOINT_REJECTED a.2.ckpt "), f"byte {position}"
        assert (tmp_path / "a.2.bad").read_bytes() == torn


def test_a92_every_cut_and_every_tail_falls_back_to_the_previous(tmp_path: Path) -> None:
    path = two_saved(tmp_path)
    raw = path.read_bytes()
    for wrong in (*(raw[:length] for length in range(len(raw))), raw + b"\0", raw + raw):
        path.write_bytes(wrong)
        assert restored(tmp_path)[0] == "good"


def test_a92_garbage_of_any_length_is_no_checkpoint(tmp_path: Path) -> None:
    path = two_saved(tmp_path)
    start = path.read_bytes()[:6]
    for seed in range(200):
        dice = random.Random(seed)
        path.write_bytes(start[: seed % 7] + dice.randbytes(dice.randrange(200)))
        assert restored(tmp_path)[0] == "good", f"seed {seed}"


def test_a92_file_of_another_component_is_rejected(tmp_path: Path) -> None:
    path = two_saved(tmp_path)
    for _ in range(2):
        with closing(Checkpointer("b", tmp_path / "b")) as other:
            other.save_checkpoint("theirs")
    shutil.copy(tmp_path / "b" / "b.2.ckpt", path)
    state, told = restored(tmp_path)
    assert state == "good"
    assert "belongs to another component" in told[0]


def test_a92_file_under_the_number_of_another_is_rejected(tmp_path: Path) -> None:
    two_saved(tmp_path).rename(tmp_path / "a.9.ckpt")
    state, told = restored(tmp_path)
    assert state == "good"
    assert told == ["CHECKPOINT_REJECTED a.9.ckpt is generation 2 by its content; kept as a.9.bad"]
    assert Checkpointer("a", tmp_path).save_checkpoint("new") == 10  # no number twice


def test_a92_format_of_the_future_is_rejected(tmp_path: Path) -> None:
    path = two_saved(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + b"\x03\x00" + raw[6:])
    state, told = restored(tmp_path)
    assert (state, "has format 3, 2 is known" in told[0]) == ("good", True)


def test_a92_checkpoint_ahead_of_the_log_is_rejected(tmp_path: Path) -> None:
    with closing(Checkpointer("a", tmp_path)) as checkpointer:
        for offset in (5, 6):
            checkpointer.save_checkpoint(offset, [Applied("execution", "abc", offset)])

    def found(ends: dict[str, tuple[str, int]]) -> object:
        return Checkpointer("a", tmp_path).restore_checkpoint(ends)

    assert found({"execution": ("abc", 6)}) == 6
    assert found({"execution": ("reset", 0)}) == 6  # another log: its owner tells of the reset
    assert found({"risk": ("abc", 0)}) == 6
    assert found({"execution": ("abc", 5)}) == 5
    assert (tmp_path / "a.2.bad").exists()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x91" * 100_000, b"\x82\xa5state\x01\xa1x\x01"])
def test_content_of_another_shape_is_rejected_however_well_sealed(
    tmp_path: Path, raw: bytes
) -> None:
    two_saved(tmp_path).write_bytes(image.encode("a", 2, 0, 1, raw))
    assert restored(tmp_path)[0] == "good"


def test_without_any_that_verifies_there_is_none(tmp_path: Path) -> None:
    two_saved(tmp_path).write_bytes(b"")
    (tmp_path / "a.1.ckpt").write_bytes(b"")
    state, told = restored(tmp_path)
    assert (state, len(told)) == (None, 2)


def test_only_the_newest_rejected_are_kept_aside(tmp_path: Path) -> None:
    two_saved(tmp_path)
    for n in range(3, 10):
        (tmp_path / f"a.{n}.ckpt").write_bytes(b"")
    state, told = restored(tmp_path)
    assert (state, len(told)) == ("bad!", 7)
    assert names(tmp_path)[2:] == ["a.7.bad", "a.8.bad", "a.9.bad"]
    assert told[-1] == (
        "CHECKPOINT_REJECTED a.3.ckpt is cut off; dropped, for newer ones are kept"
    )


def test_names_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    two_saved(tmp_path)
    strange = ["a.03.ckpt", "a.-3.ckpt", f"a.{'9' * 30}.ckpt", "a.ckpt", "a.x.ckpt", "A.3.ckpt"]
    for name in strange:
        (tmp_path / name).write_bytes(b"")
    assert restored(tmp_path) == ("bad!", [])
    assert set(strange) < set(names(tmp_path))


# --- schemas ---

# {"n": 7} as generation 1 of component a, written by format 1.
FIRST_FORMAT = bytes.fromhex("474e434b01000100000000000000040000009fea01c981a16e07")


def listed(state: Any, positions: Positions) -> tuple[Any, Positions]:
    return [state["n"]], positions


def test_file_of_the_first_format_is_schema_one(tmp_path: Path) -> None:
    (tmp_path / "a.1.ckpt").write_bytes(FIRST_FORMAT)
    assert restored(tmp_path) == ({"n": 7}, [])
    assert restored(tmp_path, schema=2, upgrades={1: listed}) == ([7], [])
    assert Checkpointer("a", tmp_path).save_checkpoint({"n": 8}) == 2


def test_any_flipped_or_missing_byte_of_the_first_format_is_found(tmp_path: Path) -> None:
    for position in range(len(FIRST_FORMAT)):
        flipped = bytearray(FIRST_FORMAT)
        flipped[position] ^= 0xFF
        for wrong in (bytes(flipped), FIRST_FORMAT[:position]):
            (tmp_path / "a.1.ckpt").write_bytes(wrong)
            assert restored(tmp_path)[0] is None, f"byte {position}"


def test_older_schema_passes_through_every_upgrade(tmp_path: Path) -> None:
    two_saved(tmp_path)
    ways: dict[int, Upgrade] = {
        1: lambda state, positions: ({"word": state}, positions),
        2: lambda state, positions: ({**state, "length": len(state["word"])}, positions),
    }
    assert restored(tmp_path, schema=3, upgrades=ways)[0] == {"word": "bad!", "length": 4}


def test_upgrade_may_move_positions_out_of_the_state_and_they_are_judged_as_any(
    tmp_path: Path,
) -> None:
    with closing(Checkpointer("a", tmp_path)) as old:
        for offset in (5, 6):
            old.save_checkpoint({"at": offset})

    def moved(state: Any, positions: Positions) -> tuple[Any, Positions]:
        return None, (*positions, Applied("b", "log", state["at"]))

    new = Checkpointer("a", tmp_path, schema=2, upgrades={1: moved})
    found = new.restore({"b": ("log", 5)})
    assert found is not None
    assert (found.state, found.positions, found.schema) == (None, (Applied("b", "log", 5),), 2)
    assert "is ahead of the log of b: offset 6" in new.rejections[0]


def test_a92_newer_schema_is_rejected(tmp_path: Path) -> None:
    with closing(Checkpointer("a", tmp_path)) as old:
        old.save_checkpoint("old")
    with closing(Checkpointer("a", tmp_path, schema=2)) as new:
        new.save_checkpoint("new")
    state, told = restored(tmp_path)
    assert (state, "has schema 2, 1 is known" in told[0]) == ("old", True)


@pytest.mark.parametrize(
    ("upgrades", "reason"),
    [
        ({}, "nothing upgrades schema 1"),
        (
            {1: lambda state, positions: (state["absent"], positions)},
            "does not survive the upgrade from schema 1",
        ),
    ],
)
def test_state_that_cannot_be_upgraded_is_rejected(
    tmp_path: Path, upgrades: dict[int, Upgrade], reason: str
) -> None:
    two_saved(tmp_path)
    state, told = restored(tmp_path, schema=2, upgrades=upgrades)
    assert state is None
    assert reason in told[0]


@pytest.mark.parametrize("schema", [0, -1, 2**32])
def test_schema_numbers_are_bounded(tmp_path: Path, schema: int) -> None:
    with pytest.raises(LocalProtocolError):
        Checkpointer("a", tmp_path, schema=schema)


# --- A91: paths ---


@pytest.mark.parametrize(
    "name",
    ["", "../../x", "/etc/x", "a/b", "a\0b", "A", ".a", "a" * 300, "a" * 65, "a..b", "a\n", "ä"],
)
def test_a91_ids_that_are_no_plain_names_are_refused_before_any_open(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(Invalid):
        Checkpointer(name, tmp_path / "made")
    assert names(tmp_path) == []


def test_a91_symlink_for_a_file_is_not_followed(tmp_path: Path) -> None:
    path = two_saved(tmp_path / "c")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    state, told = restored(tmp_path / "c")
    assert state == "good"
    assert "a.2.ckpt is a symlink" in told[0]


def test_a91_symlink_for_the_new_file_or_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = tmp_path / "c"
    place.mkdir(mode=0o700)
    for name in (".a.tmp", "a.1.ckpt"):
        (place / name).symlink_to(victim)
    Checkpointer("a", place).save_checkpoint("x")
    (place / ".b.lock").symlink_to(victim)
    with pytest.raises(StorageError):
        Checkpointer("b", place).save_checkpoint("x")
    assert victim.read_text() == "precious"


def test_a91_symlink_for_the_directory_is_refused(tmp_path: Path) -> None:
    two_saved(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for act in (lambda c: c.save_checkpoint("x"), Checkpointer.restore_checkpoint):
        with pytest.raises(StorageError, match="symlink"):
            act(Checkpointer("a", tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a91_foreign_owner_is_refused(tmp_path: Path) -> None:
    path = two_saved(tmp_path / "c")
    os.chown(path, 12_345, 12_345)
    state, told = restored(tmp_path / "c")
    assert (state, "belongs to user 12345" in told[0]) == ("good", True)
    os.chown(tmp_path / "c", 12_345, 12_345)
    with pytest.raises(StorageError, match="belongs to user 12345"):
        Checkpointer("a", tmp_path / "c").restore_checkpoint()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    two_saved(tmp_path / "c")
    (tmp_path / "c").chmod(mode)
    with pytest.raises(StorageError, match="may be written by others"):
        Checkpointer("a", tmp_path / "c").save_checkpoint("x")


def test_file_that_others_may_write_to_is_rejected(tmp_path: Path) -> None:
    two_saved(tmp_path).chmod(0o620)
    assert restored(tmp_path)[0] == "good"


def test_fifo_directory_and_giant_are_rejected_without_waiting(tmp_path: Path) -> None:
    two_saved(tmp_path)
    os.mkfifo(tmp_path / "a.3.ckpt")
    (tmp_path / "a.4.ckpt").mkdir()
    with (tmp_path / "a.5.ckpt").open("wb") as giant:
        giant.truncate(1 << 40)  # sparse
    state, told = restored(tmp_path)
    assert (state, len(told)) == ("bad!", 3)
    assert "has 1099511627776 bytes" in told[0]


def test_made_for_us_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        two_saved(tmp_path / "b" / "c")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes.pop("b") == modes.pop("c") == 0o700
    assert set(modes.values()) == {0o600}


# --- A93: writers ---


def test_a93_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    program = [sys.executable, "-c", SAVER, str(tmp_path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        assert other.stdout.readline() == b"1\n"
        checkpointer = Checkpointer("a", tmp_path)
        with pytest.raises(StorageError, match="another writer"):
            checkpointer.save_checkpoint("ours")
        assert checkpointer.restore_checkpoint() == "theirs"  # looking is free
        with closing(Checkpointer("b", tmp_path)) as beside:
            beside.save_checkpoint("another component")
        other.kill()
    assert checkpointer.save_checkpoint("ours") == 2


def test_a93_second_writer_of_the_same_process_is_refused_until_the_first_closes(
    tmp_path: Path,
) -> None:
    first, second = Checkpointer("a", tmp_path), Checkpointer("a", tmp_path)
    first.save_checkpoint(1)
    with pytest.raises(StorageError, match="another writer"):
        second.save_checkpoint(2)
    first.close()
    first.close()
    assert second.save_checkpoint(2) == 2


def test_forgotten_writer_gives_way(tmp_path: Path) -> None:
    Checkpointer("a", tmp_path).save_checkpoint(1)
    Checkpointer("a", tmp_path).save_checkpoint(2)


# --- saving beside the loop ---


async def test_saves_beside_the_loop_keep_their_order(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    state = {"n": 0}
    async with asyncio.TaskGroup() as tasks:
        saves = []
        for n in range(1, 21):
            state["n"] = n
            saves.append(tasks.create_task(checkpointer.save(state)))
            await asyncio.sleep(0)
    assert [save.result() for save in saves] == list(range(1, 21))
    assert checkpointer.restore_checkpoint() == {"n": 20}


async def test_save_that_was_overtaken_does_not_bury_the_newer_state(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    early = checkpointer._encode("early", ())
    assert checkpointer.save_checkpoint("late") == 1
    assert checkpointer._write(*early) == 1
    assert checkpointer.restore_checkpoint() == "late"


async def test_cancelled_save_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    checkpointer.save_checkpoint("old")
    async with asyncio.TaskGroup() as tasks:
        save = tasks.create_task(checkpointer.save("new"))
        await asyncio.sleep(0)
        save.cancel()
    assert await checkpointer.save("newer") in (2, 3)
    assert checkpointer.restore_checkpoint() == "newer"


def test_slow_encoding_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    Checkpointer("a", tmp_path, report=told.append).save_checkpoint([0.5] * 1_500_000)
    assert told[0].startswith("CHECKPOINT_SLOW a: encoding took 0.")


# --- failing disks ---


def test_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        Checkpointer("a", blocked).save_checkpoint(1)


class FailingOs(SimpleNamespace):
    """The functions of os; the call with number *fail_at* of those that change things fails."""

    CHANGING = ("open", "fdopen", "fsync", "rename", "unlink", "listdir", "fstat")

    def __init__(self, fail_at: int, number: int) -> None:
        super().__init__(**vars(os))
        self.calls, self.fail_at, self.number = 0, fail_at, number
        for name in self.CHANGING:
            setattr(self, name, self.counted(getattr(os, name)))

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at:
                if function is os.fdopen and kwargs.get("closefd", True):
                    os.close(args[0])
                raise OSError(self.number, os.strerror(self.number))
            return function(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EIO, StorageError), (errno.ENOSPC, Unavailable), (errno.EMFILE, StorageError)],
)
def test_f23_failure_of_any_call_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    fail_at, failed = 0, True
    while failed:
        fail_at += 1
        place = tmp_path / str(fail_at)
        with closing(Checkpointer("a", place)) as checkpointer:
            for n in range(1, 4):
                checkpointer.save_checkpoint(n)
            with monkeypatch.context() as patch:
                patch.setattr(private, "os", FailingOs(fail_at, number))
                try:
                    failed = checkpointer.save_checkpoint(4) != 4
                except error:
                    failed = True
            state = checkpointer.restore_checkpoint()
            assert state in (3, 4), f"call {fail_at}"
            checkpointer.save_checkpoint(5)
            assert checkpointer.restore_checkpoint() == 5
            left = names(place)
        assert left[-1] in ("a.4.ckpt", "a.5.ckpt"), f"call {fail_at}"
        assert len(left) == KEPT, f"call {fail_at}: {left}"
    assert fail_at > 8


def test_f23_failure_of_any_call_in_a_restore_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at, failed = 0, True
    while failed:
        fail_at += 1
        place = tmp_path / str(fail_at)
        two_saved(place).write_bytes(b"torn")
        with monkeypatch.context() as patch:
            failing = FailingOs(fail_at, errno.EMFILE)
            patch.setattr(private, "os", failing)
            with suppress(StorageError):
                assert Checkpointer("a", place).restore_checkpoint() == "good", f"call {fail_at}"
            failed = failing.calls >= fail_at
        assert restored(place)[0] == "good", f"call {fail_at}"
    assert fail_at > 5
