"""Handled: what the code that runs now was called for: the cause of what it says and asks.

It travels in the context. Whoever calls a handler sets it and takes it back; what the handler
awaits, and tasks made in it, keep it. Tasks of the process that outlive it begin without one.
It is asked once for each event that is said, so where there is none that costs one look.

Never here: the wire, what handlers do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from mesh.protocol.cause import Cause

__all__ = ["Handled", "because", "cause_now", "handled", "in_lane"]


class Handled(Protocol):
    """An event or request in the hands of its handler, or its cause kept for later."""

    def follows(self) -> Cause | None:
        """Return the cause of what is done because of it."""


handled: Final[ContextVar[Handled | None]] = ContextVar("handled", default=None)
# The lanes that hand out frames now: not in the context, which would cost each drain 5 us, and
# need not be, for their handlers are plain: nothing runs between their beginning and their end.
in_lane: Final[list[Handled | None]] = [None]


def cause_now() -> Cause | None:
    """Return the cause of what is said and asked now, None for a root."""
    lanes = in_lane[0]
    if lanes is not None and (cause := lanes.follows()) is not None:
        return cause
    found = handled.get()
    return None if found is None else found.follows()


@contextmanager
def because(of: Handled | None) -> Iterator[None]:
    """Let what is said and asked in the block be caused so; None begins traces of their own."""
    token, lanes = handled.set(of), in_lane[0]
    in_lane[0] = None
    try:
        yield
    finally:
        in_lane[0] = lanes
        handled.reset(token)
