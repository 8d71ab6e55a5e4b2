"""Access: which scope a token opens, read from disk each time so that a new one works at once.

Never here: making tokens, sockets.
"""

from pathlib import Path
from typing import Final

from mesh.errors import Invalid
from mesh.protocol.tokens import Scope, Tokens
from mesh.runtime.logs import Logs

TOKENS_FILE: Final = "tokens.json"


def scope_of(state: Path, token: str, log: Logs) -> Scope | None:
    """Return the scope that *token* opens, None for an unknown one or an unreadable file."""
    try:
        return Tokens.parse((state / TOKENS_FILE).read_bytes()).scope_of(token)
    except FileNotFoundError:
        return None
    except Invalid as error:
        log.warning("tokens_unreadable", why=str(error))
        return None
