"""The list of verbs, help, and mistakes that end in one line."""

import importlib

import pytest
from click.testing import CliRunner

from mesh.cli import GROUPS, HOMES, genesis
from mesh.cli.failures import USAGE


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(genesis, list(words), prog_name="genesis")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(("verb", "module"), HOMES.items())
def test_every_verb_is_where_the_table_says_and_its_help_says_the_same(
    verb: str, module: str
) -> None:
    command = getattr(importlib.import_module(f"mesh.cli.{module}"), verb)
    first = (command.help or "").split("\n")[0]
    assert command.name == verb
    assert first.rstrip(".").startswith(GROUPS[module][verb].rstrip("."))


@pytest.mark.parametrize("verb", HOMES)
def test_every_verb_takes_json(verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "--json" in out


def test_no_word_at_all_shows_the_verbs() -> None:
    code, out, _ = run()
    assert code == 0
    assert "normalize" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["statsu"], "genesis: no verb 'statsu'; did you mean `status`?\n"),
        (["zzzz"], "genesis: no verb 'zzzz'; see `genesis --help`\n"),
        (["keys"], "genesis: genesis keys needs one of: add, init, revoke, rotate\n"),
    ],
)
def test_an_unknown_verb_is_one_line(words: list[str], line: str) -> None:
    assert run(*words) == (USAGE, "", line)


@pytest.mark.parametrize(
    "words",
    [
        ["--bogus"],
        ["ps", "--bogus"],
        ["mode", "calm"],
        ["kill"],
        ["orders", "--limit", "0"],
        ["normalize", "--venue", "nowhere", "x.gz"],
        ["token", "--scope", "root"],
        ["up", "--speed", "fast"],
        ["up", "--source", "replay"],
        ["up", "--source", "synthetic", "x.gz"],
        ["call", "risk", "risk.limits", "{not json"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (USAGE, "")
    assert err.startswith("genesis: ")
    assert err.count("\n") == 1
