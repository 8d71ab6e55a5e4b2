"""Tokens: scopes include the narrower ones, the store holds hashes alone.

Never here: files.
"""

import pytest

from mesh.errors import Invalid
from mesh.protocol.tokens import OPERATE, TRADE, VIEW, Scope, Tokens, mode_scope


def test_wider_scope_covers_narrower_ones_only() -> None:
    covered = {(a, b) for a in Scope for b in Scope if a.covers(b)}
    assert covered == {
        (VIEW, VIEW),
        (TRADE, VIEW),
        (TRADE, TRADE),
        (OPERATE, VIEW),
        (OPERATE, TRADE),
        (OPERATE, OPERATE),
    }


def test_known_token_gives_its_scope_and_unknown_none() -> None:
    tokens = Tokens().with_token(VIEW, "see").with_token(OPERATE, "run")
    assert tokens.scope_of("see") is VIEW
    assert tokens.scope_of("run") is OPERATE
    assert tokens.scope_of("se") is None


def test_token_in_two_scopes_gives_the_wider() -> None:
    assert Tokens().with_token(TRADE, "t").with_token(VIEW, "t").scope_of("t") is TRADE


@pytest.mark.parametrize("token", ["", "x" * 257, "\ud800"])
def test_odd_tokens_are_unknown(token: str) -> None:
    assert Tokens().with_token(VIEW, "x").scope_of(token) is None


def test_stored_form_comes_back_and_hides_the_token() -> None:
    tokens = Tokens().with_token(TRADE, "hush").with_token(TRADE, "hush2")
    text = tokens.format()
    assert Tokens.parse(text) == tokens
    assert "hush" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"root": []}',
        '{"view": ["hush"]}',
        '{"view": [1]}',
        b"\xff",
        '{"view": "' + "a" * 64,
    ],
)
def test_damaged_store_is_refused(text: str | bytes) -> None:
    with pytest.raises(Invalid):
        Tokens.parse(text)


@pytest.mark.parametrize("token", ["", "x" * 257])
def test_token_of_wrong_length_is_not_stored(token: str) -> None:
    with pytest.raises(Invalid):
        Tokens().with_token(VIEW, token)


def test_tightening_takes_trade_and_loosening_operate() -> None:
    assert mode_scope(wanted=2, current=0) is TRADE
    assert mode_scope(wanted=1, current=1) is TRADE
    assert mode_scope(wanted=0, current=1) is OPERATE
