"""Rejects: how much nonsense of one peer is borne before it is not listened to for a while.

Never here: what nonsense is.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

REJECTS_MAX: Final = 20
WINDOW_S: Final = 10.0
IGNORE_S: Final = 60.0


@dataclass(slots=True)
class Rejects:
    """Count a peer's rejects; 20 within 10 s silence it for 60 s. now: monotonic seconds."""

    total: int = 0
    silenced: bool = False
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=REJECTS_MAX))
    _until: float = 0.0

    def reject(self, now: float) -> bool:
        """Count one; return whether it is the one that silences the peer."""
        self.total += 1
        self._recent.append(now)
        if self.silenced or len(self._recent) < REJECTS_MAX or now - self._recent[0] > WINDOW_S:
            return False
        self.silenced, self._until = True, now + IGNORE_S
        self._recent.clear()
        return True

    def ignoring(self, now: float) -> bool:
        """Say whether the peer is still ignored; ask before listening again."""
        if self.silenced and now >= self._until:
            self.silenced = False
        return self.silenced
