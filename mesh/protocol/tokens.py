"""Access tokens of people and programs: scopes, hashing, comparing, the stored form.

The stored form is JSON, {scope: [SHA-256 in hex]}: whoever reads it cannot log in.

Never here: making tokens (that takes dice), files, HTTP.
"""

import hashlib
import hmac
import re
from enum import StrEnum
from typing import Final, Self

import msgspec

from mesh.errors import Invalid

TOKEN_CHARS_MAX: Final = 256  # longer ones are refused unread
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Scope(StrEnum):
    """What a token may do; each scope includes those before it."""

    VIEW = "view"
    TRADE = "trade"
    OPERATE = "operate"

    def covers(self, needed: "Scope") -> bool:
        """Say whether this scope suffices where *needed* is asked for."""
        return _RANK[self] >= _RANK[needed]


VIEW = Scope.VIEW
TRADE = Scope.TRADE
OPERATE = Scope.OPERATE
_RANK: Final = {scope: rank for rank, scope in enumerate(Scope)}


class Tokens(msgspec.Struct, frozen=True):
    """The hashes of every token in force, by scope."""

    hashes: dict[Scope, tuple[str, ...]] = {}

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the tokens of the stored form. Raises Invalid."""
        try:
            hashes = msgspec.json.decode(text, type=dict[Scope, tuple[str, ...]])
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Invalid(f"the token store is damaged: {error}") from None
        if not all(_HASH.fullmatch(item) for items in hashes.values() for item in items):
            raise Invalid("the token store is damaged: an entry is not a SHA-256 in hex")
        return cls(hashes)

    def format(self) -> str:
        """Return the stored form, one scope a line."""
        return msgspec.json.format(msgspec.json.encode(self.hashes)).decode() + "\n"

    def with_token(self, scope: Scope, token: str) -> "Tokens":
        """Return these tokens and one more. Raises Invalid if it is empty or too long."""
        if not 0 < len(token) <= TOKEN_CHARS_MAX:
            raise Invalid(f"a token has 1 to {TOKEN_CHARS_MAX} characters")
        known = self.hashes.get(scope, ())
        return Tokens({**self.hashes, scope: (*known, _digest(token))})

    def scope_of(self, token: str) -> Scope | None:
        """Return the widest scope of *token*, None if unknown. Takes as long either way."""
        if not 0 < len(token) <= TOKEN_CHARS_MAX:
            return None
        digest = _digest(token)
        found: Scope | None = None
        for scope in Scope:  # from narrow to wide, never leaving early
            for known in self.hashes.get(scope, ()):
                if hmac.compare_digest(known, digest):
                    found = scope
        return found


def mode_scope(*, wanted: int, current: int) -> Scope:
    """Return the scope that may change the mode; both are severities (0 = NORMAL).

    Tightening protects, so trading rights suffice; loosening is for operators.
    """
    return TRADE if wanted >= current else OPERATE


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
