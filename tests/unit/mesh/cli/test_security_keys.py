"""`genesis keys`: it says what to do next, never shows a secret, never overwrites."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mesh.cli import genesis
from mesh.cli.failures import CONFIGURATION, NOT_FOUND, REFUSED
from mesh.runtime.keys import load_keys
from mesh.runtime.settings import load_paths
from nodes.topology import TOPOLOGY


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(genesis, ["keys", *words])


def made(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_init_makes_a_key_for_every_default_node(home: Path) -> None:
    assert set(made("init")["nodes"]) == set(TOPOLOGY)
    for node in TOPOLOGY:
        ring = load_keys(load_paths(), node)
        assert ring is not None
        assert ring.pair is not None
        assert ring.roles[node] == node.partition(".")[0]


def test_whatever_is_printed_holds_no_secret(home: Path) -> None:
    texts = [run("init"), run("add", "spread"), run("rotate", "risk"), run("rotate", "api")]
    texts += [run("rotate", "risk", "--finish"), run("add", "lone", "--json"), run("init")]
    secrets = [
        path.read_text().strip() for path in (home / "keys").glob("*[!l]") if path.is_file()
    ]
    assert len(secrets) > len(TOPOLOGY)
    for result in texts:
        assert not [secret for secret in secrets if secret in result.output]


def test_rotation_tells_the_next_step(home: Path) -> None:
    made("init")
    assert "genesis restart risk" in run("rotate", "risk").stdout
    again = run("rotate", "risk")
    assert again.exit_code == REFUSED
    assert "genesis keys rotate risk --finish" in again.stderr
    assert "void" in run("rotate", "risk", "--finish").stdout
    assert run("rotate", "risk", "--finish").exit_code == REFUSED


def test_added_node_is_a_guest_unless_its_name_or_the_operator_says_more(home: Path) -> None:
    made("init")
    assert made("add", "spread")["role"] == "guest"
    assert made("add", "strategy.two")["role"] == "strategy"
    assert made("add", "twin", "--role", "recorder")["role"] == "recorder"
    for role in ("boss", "cli"):
        assert run("add", "x", "--role", role).exit_code == CONFIGURATION
    assert run("add", "../x").exit_code == CONFIGURATION
    assert not (home / "x.secret").exists()


def test_mistakes_end_in_one_line_and_their_code(home: Path) -> None:
    assert run("add", "spread").exit_code == CONFIGURATION  # before init
    made("init")
    for words, code in (
        (("init",), REFUSED),
        (("add", "risk"), REFUSED),
        (("rotate", "nobody"), NOT_FOUND),
        (("revoke", "nobody"), NOT_FOUND),
    ):
        result = run(*words)
        assert result.exit_code == code
        assert result.stderr.count("\n") == 1


def test_revoked_node_has_no_key_left(home: Path) -> None:
    made("init")
    assert "no key of risk" in run("revoke", "risk").stdout
    assert "risk" not in (home / "keys/authorized.toml").read_text()
    assert not list((home / "keys").glob("risk.*"))
