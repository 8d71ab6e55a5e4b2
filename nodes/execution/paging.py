"""Pages of a growing list, newest first, stable while it grows.

Never here: filters.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from mesh.errors import Invalid
from nodes.domain.plain import plain

LIMIT_MAX: Final = 1_000
_LIMIT: Final = 100


def page(items: Sequence[object], query: dict[str, Any] | None) -> dict[str, Any]:
    """Return {"items", "next"} of *items* (oldest first), as plain values.

    query: {"limit": 1 to 1000, "cursor": a page's next, or None}. Raises Invalid.
    """
    query = query or {}
    limit = query.get("limit", _LIMIT)
    if type(limit) is not int or not (1 <= limit <= LIMIT_MAX):
        raise Invalid(f"limit must be 1 to {LIMIT_MAX}")
    end = min(_position(query.get("cursor"), len(items)), len(items))
    start = max(0, end - limit)
    return {
        "items": [plain(item) for item in reversed(items[start:end])],
        "next": str(start) if start else None,
    }


def _position(cursor: object, newest: int) -> int:
    if cursor is None:
        return newest
    if not isinstance(cursor, str) or not re.fullmatch(r"[0-9]{1,15}", cursor, re.ASCII):
        raise Invalid("cursor is not one of ours")
    return int(cursor)
