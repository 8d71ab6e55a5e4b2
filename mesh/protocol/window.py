"""Window: how many of the calls of the last ten seconds failed or were slow.

Ten buckets of a second each: the current second and the nine before it. Adding is O(1), for
a bucket that has aged leaves the sums as a whole.

Never here: a clock, what follows from a bad share.
"""

from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = 10
BUCKET_S: Final = 1.0
WINDOW_S: Final = BUCKETS * BUCKET_S
CALLS_MIN: Final = 10  # fewer calls say nothing about a share


def _empty() -> list[list[int]]:
    return [[0, 0, 0] for _ in range(BUCKETS)]


@dataclass(slots=True)
class RateWindow:
    """Sum calls, failed calls and slow calls of the last ten seconds. Times are monotonic."""

    calls: int = 0
    failed: int = 0
    slow: int = 0
    _ends: float = 0.0  # when the current bucket does
    _at: int = 0
    _buckets: list[list[int]] = field(default_factory=_empty)  # each calls, failed, slow

    def add(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count one call that ended at *now*; one from a little earlier counts as of now."""
        if now >= self._ends:
            self._turn(now)
        bucket = self._buckets[self._at]
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failed += 1
        if slow:
            bucket[2] += 1
            self.slow += 1

    def spoiled(self) -> str:
        """Return what is wrong with the calls of the window, in words; nothing if all is well.

        Failed: half of them; slow: four fifths; with ten calls or more.
        """
        calls = self.calls
        if calls < CALLS_MIN:
            return ""
        if 2 * self.failed >= calls:
            return f"{self.failed} of {calls} calls failed"
        if 5 * self.slow >= 4 * calls:
            return f"{self.slow} of {calls} calls were slow"
        return ""

    def clear(self) -> None:
        """Forget every call."""
        self.calls = self.failed = self.slow = 0
        self._buckets = _empty()

    def check(self) -> None:
        """Assert that the sums are those of the buckets."""
        sums = [sum(bucket[n] for bucket in self._buckets) for n in range(3)]
        assert sums == [self.calls, self.failed, self.slow]
        assert all(calls >= max(failed, slow) >= 0 for calls, failed, slow in self._buckets)

    def _turn(self, now: float) -> None:
        """Move on to the bucket of *now*, emptying those passed on the way."""
        second = int(now / BUCKET_S)
        steps = second + 1 - int(self._ends / BUCKET_S)
        if steps >= BUCKETS:
            self.clear()
            steps = 0
        for passed in range(second - steps + 1, second + 1):
            calls, failed, slow = bucket = self._buckets[passed % BUCKETS]
            self.calls -= calls
            self.failed -= failed
            self.slow -= slow
            bucket[:] = (0, 0, 0)
        self._at = second % BUCKETS
        self._ends = (second + 1) * BUCKET_S
