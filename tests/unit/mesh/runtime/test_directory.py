"""Directory: records are found by others, and the last node to leave removes the place."""

from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.protocol.control import Record
from mesh.runtime.directory import Directory


def record(node: str) -> Record:
    return Record(node, 1, 1, 1, (), {}, {})


def test_records_come_and_go(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "run", "c")
    directory.publish(record("risk"))
    directory.publish(record("api"))
    assert set(directory.records()) == {"risk", "api"}
    directory.withdraw("risk")
    assert set(directory.records()) == {"api"}


def test_last_to_leave_removes_the_place_and_nobody_else(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "run", "c")
    directory.publish(record("risk"))
    directory.leave()
    assert set(directory.records()) == {"risk"}
    directory.withdraw("risk")
    (directory.base / "api.lock").touch()  # another node is coming
    directory.leave()
    assert (directory.base / "api.lock").exists()
    directory.publish(record("api"))  # though its place for records was removed
    directory.withdraw("api")
    (directory.base / "api.lock").unlink()
    directory.leave()
    assert not (tmp_path / "run").exists()


def test_place_is_closed_to_others_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "run", "c")
    directory.make()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        Directory(tmp_path / "link", "c").make()


def test_address_too_long_for_a_socket_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter GENESIS_HOME"):
        Directory(tmp_path / ("x" * 100), "c").endpoint("risk", "e")
