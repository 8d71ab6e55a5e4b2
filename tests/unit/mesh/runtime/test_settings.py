"""Settings: typos are found, aliases win, secrets are not shown."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from mesh.errors import ConfigError
from mesh.runtime import settings
from mesh.runtime.settings import (
    MeshSettings,
    Paths,
    load_paths,
    load_section,
    load_toml,
    make_private,
)


class Demo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    port: int


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    for name in settings.ALIASES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    found = load_paths()
    config = tmp_path / "config"
    shutil.copytree(found.config, config)
    return Paths(found.home, found.state, found.logs, found.run, found.checkpoints, config)


def test_shipped_configuration_is_whole(paths: Paths) -> None:
    assert load_section(paths, "mesh", MeshSettings).cluster == "genesis"


def test_unknown_key_names_the_nearest(paths: Paths) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'prot' in \[demo\]; did you mean 'port'"):
        settings.convert({"prot": 1}, "demo", Demo)


def test_wrong_type_is_one_line(paths: Paths) -> None:
    with pytest.raises(ConfigError) as found:
        settings.convert({"port": "many"}, "demo", Demo)
    assert "\n" not in str(found.value)


def test_environment_and_aliases_win(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "6001")
    monkeypatch.setenv("GENESIS__MARKET_DATA__FILES", '["a.gz"]')
    config = load_toml(paths)
    assert config["api"]["port"] == "6001"
    assert config["market_data"]["files"] == ["a.gz"]
    assert settings.convert({"port": "6001"}, "demo", Demo).port == 6001


def test_fragment_overrides_the_file(paths: Paths) -> None:
    (paths.config / "nodes.d" / "x.toml").write_text("[mesh]\ncluster = 'other'\n")
    assert load_section(paths, "mesh", MeshSettings).cluster == "other"


def test_broken_file_is_one_line_with_its_name(paths: Paths) -> None:
    (paths.config / "nodes.d" / "x.toml").write_text("[mesh\n")
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_toml(paths)


def test_missing_section_names_the_nearest(paths: Paths) -> None:
    with pytest.raises(ConfigError, match=r"no section \[marketdata\]; did you mean"):
        settings.section_of(load_toml(paths), "marketdata")


def test_secrets_are_redacted() -> None:
    shown = settings.redacted({"recorder": {"database_url": "postgresql://u:p@h/d", "rows": 1}})
    assert shown == {"recorder": {"database_url": "***", "rows": 1}}


def test_long_home_still_has_short_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path / ("long" * 30)))
    assert len(str(load_paths().run)) <= 60
    assert load_paths().run == load_paths().run


def test_unknown_log_level_is_refused(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(ConfigError, match=r"'LOUD' \(LOG_LEVEL\) is none of DEBUG INFO"):
        settings.validate_config(paths)


def test_directory_that_vanishes_while_it_is_made_is_made_again(tmp_path: Path) -> None:
    """Whoever looked after its directory in that moment used to end."""
    path, ending = tmp_path / "run", threading.Event()

    def remove() -> None:
        while not ending.wait(0.0002):  # the pace of its attempts
            with suppress(OSError):
                path.rmdir()

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(2_000):
            make_private(path)
    finally:
        ending.set()
        remover.join()


def test_directory_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="choose another GENESIS_HOME"):
        make_private(tmp_path / "run")
