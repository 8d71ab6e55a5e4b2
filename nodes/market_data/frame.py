"""Frame: what a source hands over, before anything is believed about it.

Never here: parsing.
"""

from typing import NamedTuple


class Frame(NamedTuple):
    """Raw bytes with their receive time; origin names the file or connection."""

    recv_ns: int
    raw: bytes
    origin: str = ""
