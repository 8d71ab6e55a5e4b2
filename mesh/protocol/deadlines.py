"""Deadlines: when each of many things is due, the next one known at once.

Never here: a clock, what is done about them.
"""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

SLACK: Final = 64  # entries that may be out of date before a compaction


@dataclass(slots=True)
class Deadlines:
    """Remember one time per number; most are dropped long before they are due."""

    _at: dict[int, float] = field(default_factory=dict)
    _heap: list[tuple[float, int]] = field(default_factory=list)  # some are out of date

    def __len__(self) -> int:
        return len(self._at)

    def set(self, number: int, at: float) -> None:
        """Let *number* be due at *at*, whenever it was before."""
        self._at[number] = at
        heappush(self._heap, (at, number))
        self._compact()

    def drop(self, number: int) -> None:
        """Forget *number*, known or not."""
        self._at.pop(number, None)
        self._compact()

    def due(self, now: float) -> list[int]:
        """Return and forget what is due at *now*, the oldest first."""
        found = []
        while (at := self.next()) is not None and at <= now:
            number = heappop(self._heap)[1]
            del self._at[number]
            found.append(number)
        self._compact()
        return found

    def next(self) -> float | None:
        """Return when the next one is due, None if there is none."""
        heap, at = self._heap, self._at
        while heap and at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def check(self) -> None:
        """Assert every invariant."""
        assert len(self._heap) <= 2 * len(self._at) + SLACK
        assert {(when, key) for key, when in self._at.items()} <= set(self._heap)

    def _compact(self) -> None:
        """Let go of what is out of date: after a burst not even its memory is left."""
        if len(self._heap) > 2 * len(self._at) + SLACK:
            self._heap = [(when, key) for key, when in self._at.items()]
            heapify(self._heap)
