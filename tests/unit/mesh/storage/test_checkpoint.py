"""Checkpointer: the newest that verifies is restored; a broken one is set aside."""

from pathlib import Path

import pytest

from mesh.errors import Invalid, StorageError
from mesh.storage.checkpoint import Checkpointer


def test_story(tmp_path: Path) -> None:
    checkpointer = Checkpointer("strategy.ema", tmp_path)
    assert checkpointer.restore_checkpoint() is None
    assert checkpointer.save_checkpoint({"n": 1}) == 1
    assert checkpointer.save_checkpoint({"n": 2}) == 2
    assert Checkpointer("strategy.ema", tmp_path).restore_checkpoint() == {"n": 2}


def test_newest_three_are_kept(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    for n in range(6):
        checkpointer.save_checkpoint(n)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.4.ckpt", "a.5.ckpt", "a.6.ckpt"]


@pytest.mark.parametrize("position", [0, 5, 10, 17, 21, -1])
def test_any_flipped_byte_falls_back_to_the_previous(tmp_path: Path, position: int) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    checkpointer.save_checkpoint("good")
    checkpointer.save_checkpoint("bad!")
    path = tmp_path / "a.2.ckpt"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0xFF
    path.write_bytes(raw)
    assert checkpointer.restore_checkpoint() == "good"
    assert (tmp_path / "a.2.bad").exists()


def test_every_cut_falls_back_to_the_previous(tmp_path: Path) -> None:
    checkpointer = Checkpointer("a", tmp_path)
    checkpointer.save_checkpoint("good")
    checkpointer.save_checkpoint("torn")
    path = tmp_path / "a.2.ckpt"
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        assert checkpointer.restore_checkpoint() == "good"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".a", "a" * 65, "a..b"])
def test_ids_that_are_no_plain_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        Checkpointer(name, tmp_path)


def test_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError):
        Checkpointer("a", blocked).save_checkpoint(1)
