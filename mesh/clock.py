"""The two times: wall nanoseconds for stamps, monotonic seconds for differences.

Never here: sleeping. Nothing else in the project asks the operating system for the time.
"""

import time
from collections.abc import Callable
from typing import Final

# Return ns since 1970 UTC; may step. Only for stamps: two an event, so no function around it.
wall_ns: Final[Callable[[], int]] = time.time_ns


def monotonic_s() -> float:
    """Return monotonic seconds; only differences mean something."""
    return time.monotonic()
