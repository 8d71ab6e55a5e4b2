"""Tokens: printed once, kept as hashes in a file that only we may read."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh.cli import genesis
from mesh.cli.security import dashboard_token, load, make_token
from mesh.protocol.tokens import Scope, Tokens
from mesh.runtime.access import TOKENS_FILE
from mesh.runtime.settings import Paths, load_paths


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    return load_paths()


def stored(paths: Paths) -> str:
    return (paths.state / TOKENS_FILE).read_text()


@pytest.mark.parametrize("scope", list(Scope))
def test_the_printed_token_is_known_and_not_in_the_file(paths: Paths, scope: Scope) -> None:
    result = CliRunner().invoke(genesis, ["token", "--scope", scope.value])
    made = result.stdout.strip()
    assert result.exit_code == 0
    assert result.stdout == made + "\n"
    assert Tokens.parse(stored(paths)).scope_of(made) is scope
    assert made not in stored(paths)


def test_the_file_is_ours_alone(paths: Paths) -> None:
    make_token(paths, Scope.VIEW)
    assert stat.S_IMODE((paths.state / TOKENS_FILE).stat().st_mode) == 0o600


def test_a_token_more_leaves_the_others_valid(paths: Paths) -> None:
    first, second = make_token(paths, Scope.VIEW), make_token(paths, Scope.VIEW)
    assert {load(paths).scope_of(first), load(paths).scope_of(second)} == {Scope.VIEW}


def test_a_new_dashboard_token_voids_the_old_one_and_no_other(paths: Paths) -> None:
    by_hand = make_token(paths, Scope.OPERATE)
    old, new = dashboard_token(paths), dashboard_token(paths)
    known = load(paths)
    assert known.scope_of(new) is Scope.OPERATE
    assert known.scope_of(by_hand) is Scope.OPERATE
    assert known.scope_of(old) is None


def test_init_can_be_repeated_and_keeps_tokens(paths: Paths) -> None:
    made = make_token(paths, Scope.TRADE)
    results = [CliRunner().invoke(genesis, ["init", "--json"]) for _ in range(2)]
    assert [json.loads(result.stdout) for result in results] == [{"home": str(paths.home)}] * 2
    assert load(paths).scope_of(made) is Scope.TRADE


def test_a_damaged_file_is_one_line(paths: Paths) -> None:
    paths.state.mkdir()
    (paths.state / TOKENS_FILE).write_text("{")
    result = CliRunner().invoke(genesis, ["token"])
    assert result.exit_code != 0
    assert result.stderr.count("\n") == 1
    assert "damaged" in result.stderr
