"""Backoff: how long to wait before a retry, from a policy and given dice.

Never here: sleeping, randomness of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """base_s doubles with every try up to cap_s; jitter is full: U(0, that)."""

    base_s: float = 0.1
    cap_s: float = 5.0

    def delay_s(self, retry: int, dice: Callable[[], float], at_least_s: float = 0.0) -> float:
        """Return the seconds before *retry* (from 0); dice() is uniform in [0, 1)."""
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(retry, 62))
        return max(at_least_s, ceiling * dice())
