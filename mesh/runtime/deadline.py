"""Deadline: until when the answer of the current request is wanted, for all it calls.

It travels in the context, so calls made on behalf of a request inherit what is left.
Whoever sets it only says when; cutting the call off is the business of its time-out.

Never here: cancelling, the wire.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import isnan

from mesh.clock import monotonic_s
from mesh.errors import Invalid

__all__ = ["deadline_s", "left_s", "within"]

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def deadline_s() -> float | None:
    """Return the deadline of the current request in monotonic seconds, None without one."""
    return _deadline.get()


def left_s() -> float | None:
    """Return the seconds left, 0 or more; None without a deadline."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - monotonic_s())


@contextmanager
def within(seconds: float) -> Iterator[float]:
    """Set the deadline *seconds* from now for the block, unless an earlier one holds.

    Yields the deadline that holds. What is past is past: negative seconds mean now.
    Raises Invalid for NaN.
    """
    if isnan(seconds):
        raise Invalid("a deadline of NaN seconds")
    wanted = monotonic_s() + max(0.0, seconds)
    before = _deadline.get()
    deadline = wanted if before is None else min(before, wanted)
    token = _deadline.set(deadline)
    try:
        yield deadline
    finally:
        _deadline.reset(token)
