"""Conflation and Freshness: what a consumer does about events that come faster than it works.

The ladder: keep the newest per key, drop what is too old, say so, and in the end make way
for a new process.

Never here: queues of sockets, the exit itself.
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

SNAIL_S: Final = 30.0


@dataclass(slots=True)
class Conflation(Generic[Item]):
    """Keep the newest item per key between two calls of take(), in order of first arrival."""

    skipped: int = 0  # items replaced so far
    _pending: dict[str, tuple[Item, int]] = field(default_factory=dict)

    def put(self, key: str, item: Item) -> None:
        """Keep *item* in place of an older one of the same key."""
        known = self._pending.get(key)
        if known is None:
            self._pending[key] = (item, 0)
        else:
            self._pending[key] = (item, known[1] + 1)
            self.skipped += 1

    def take(self) -> list[tuple[Item, int]]:
        """Return what is pending, each with the number of items it replaced."""
        taken = list(self._pending.values())
        self._pending.clear()
        return taken

    def __len__(self) -> int:
        return len(self._pending)


class Pace(Enum):
    """How a consumer keeps up with one subscription."""

    FRESH = auto()
    LATE = auto()  # events are older than they may be
    SNAIL = auto()  # for so long that only a new process helps


FRESH = Pace.FRESH
LATE = Pace.LATE
SNAIL = Pace.SNAIL


@dataclass(slots=True)
class Freshness:
    """Judge the ages of a subscription's events against max_age_s.

    FRESH --older--> LATE --for snail_s--> SNAIL;  LATE --a fresh one, silence--> FRESH
    """

    max_age_s: float
    snail_s: float = SNAIL_S
    pace: Pace = FRESH
    aged: int = 0  # events too old to be of use
    _late_since: float = 0.0
    _late_at: float = 0.0

    def judge(self, age_s: float, now: float) -> bool:
        """Return whether an event of that age may be handled."""
        if age_s <= self.max_age_s:
            if self.pace is LATE:
                self.pace = FRESH
            return True
        self.tick(now)  # a silence since the last one is forgiven first
        self.aged += 1
        if self.pace is FRESH:
            self.pace, self._late_since = LATE, now
        self._late_at = now
        return False

    def tick(self, now: float) -> None:
        """Forgive after silence as long as max_age_s; give up after snail_s of lateness."""
        if self.pace is not LATE:
            return
        if now - self._late_at > max(self.max_age_s, 1.0):
            self.pace = FRESH
        elif now - self._late_since >= self.snail_s:
            self.pace = SNAIL
