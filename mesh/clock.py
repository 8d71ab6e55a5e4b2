"""The two times: wall nanoseconds for stamps, monotonic seconds for differences.

Never here: sleeping. Nothing else in the project asks the operating system for the time.
"""

import time


def wall_ns() -> int:
    """Return ns since 1970 UTC; may step. Only for stamps."""
    return time.time_ns()


def monotonic_s() -> float:
    """Return monotonic seconds; only differences mean something."""
    return time.monotonic()
