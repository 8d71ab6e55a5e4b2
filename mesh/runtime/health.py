"""Health: figures of a process for its heartbeat: rates, latency, loop lag, memory.

Never here: thresholds, what a bad figure means.
"""

from collections import deque
from pathlib import Path
from typing import Final

SAMPLES: Final = 512
_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = 4096


def percentile(samples: list[int], fraction: float) -> int:
    """Return the value at *fraction* of the sorted samples, 0 without any."""
    if not samples:
        return 0
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where /proc does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


class Health:
    """Collect counters between two beats."""

    def __init__(self, now: float) -> None:
        self.events_in = self.events_out = self.drops = self.inflight = 0
        self.figures: dict[str, float] = {}
        self._latency_ns: deque[int] = deque(maxlen=SAMPLES)
        self._lag_us: deque[int] = deque(maxlen=SAMPLES)
        self._before = (now, 0, 0)

    def latency(self, ns: int) -> None:
        """Take the age of an event on its arrival."""
        self._latency_ns.append(ns)

    def lag(self, seconds: float) -> None:
        """Take how late a timer of the loop ran."""
        self._lag_us.append(int(max(0.0, seconds) * 1e6))

    def lag_p99_us(self) -> int:
        """Return the loop lag of the recent beats."""
        return percentile(list(self._lag_us), 0.99)

    def latency_us(self, fraction: float) -> int:
        """Return the latency percentile of the recent events, sent to handled."""
        return percentile(list(self._latency_ns), fraction) // 1000

    def rates(self, now: float) -> tuple[float, float]:
        """Return events per second in and out since the last call."""
        then, came, went = self._before
        span = max(now - then, 1e-6)
        self._before = (now, self.events_in, self.events_out)
        return (self.events_in - came) / span, (self.events_out - went) / span
