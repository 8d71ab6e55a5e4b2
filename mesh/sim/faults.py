"""Faults as values: what goes wrong when, and how a schedule of them is written down.

Never here: their effects.
"""

from typing import Any

import msgspec

from mesh.errors import Invalid


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """One thing that goes wrong: on *who*, towards *to*, for a while, n times or n large."""

    at_s: float
    kind: str
    who: str = ""
    to: str = ""
    for_s: float = 0.0
    n: int = 0


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run to repeat: expected is the invariant it broke, "" for one that must hold."""

    seed: int
    schedule: tuple[Fault, ...]
    expected: str = ""
    config: dict[str, Any] | None = None
    why: str = ""


def save(saved: Saved) -> bytes:
    """Return *saved* as JSON for people."""
    return msgspec.json.format(msgspec.json.encode(saved), indent=1) + b"\n"


def load(text: bytes) -> Saved:
    """Return the run in *text*. Raises Invalid."""
    try:
        return msgspec.json.decode(text, type=Saved)
    except msgspec.DecodeError as error:
        raise Invalid(f"no saved schedule: {error}") from None
