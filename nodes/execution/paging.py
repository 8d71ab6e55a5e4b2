"""Pages of a growing list, newest first, stable while it grows.

Never here: filters.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from mesh.errors import Invalid
from nodes.domain.plain import plain

LIMIT_MAX: Final = 1_000
PAGE_BYTES: Final = 200_000
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
    found: list[Any] = []
    size = 0
    for item in reversed(items[max(0, end - limit) : end]):
        found.append(plain(item))
        size += len(msgspec.msgpack.encode(found[-1]))
        if size >= PAGE_BYTES:  # an answer is one frame of at most 256 KiB
            break
    start = end - len(found)
    return {"items": found, "next": str(start) if start else None}


def _position(cursor: object, newest: int) -> int:
    if cursor is None:
        return newest
    if not isinstance(cursor, str) or not re.fullmatch(r"[0-9]{1,15}", cursor, re.ASCII):
        raise Invalid("cursor is not one of ours")
    return int(cursor)
