"""The two times: wall nanoseconds for stamps, monotonic seconds for differences.

Never here: sleeping. Nothing else in the project asks the operating system for the time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Source:
    """Where the times come from: the system, or for a while a simulation."""

    wall_ns: Callable[[], int]
    monotonic_s: Callable[[], float]


_SOURCE = _Source(time.time_ns, time.monotonic)


def wall_ns() -> int:
    """Return ns since 1970 UTC; may step. Only for stamps."""
    return _SOURCE.wall_ns()


def monotonic_s() -> float:
    """Return monotonic seconds; only differences mean something."""
    return _SOURCE.monotonic_s()


def wall_source() -> Callable[[], int]:
    """Return what tells wall time, for who stamps every event: no function around it."""
    return _SOURCE.wall_ns


@contextmanager
def simulated(wall: Callable[[], int], monotonic: Callable[[], float]) -> Iterator[None]:
    """Take both times from a simulation for the block, in the whole process."""
    before = _SOURCE.wall_ns, _SOURCE.monotonic_s
    _SOURCE.wall_ns, _SOURCE.monotonic_s = wall, monotonic
    try:
        yield
    finally:
        _SOURCE.wall_ns, _SOURCE.monotonic_s = before
