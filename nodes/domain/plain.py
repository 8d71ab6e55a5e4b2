"""Plain JSON-like values for people: maps with field names, decimals in their one spelling.

Never here: parsing back, presentation.
"""

from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

from nodes.domain.numbers import canon


def plain(value: object) -> Any:
    """Return *value* as dict, list, str, int, float, bool or None, all the way down."""
    if isinstance(value, Decimal):
        return canon(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
