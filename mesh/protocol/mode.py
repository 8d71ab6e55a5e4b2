"""SystemMode and who may change it how: anyone tightens, the coordinator alone loosens.

Automatic SAFE stands as long as its causes do and a dwell after them; the operator's own
wish is a floor that only the operator moves.

Never here: reading of figures, timers, publishing.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class SystemMode(StrEnum):
    """How much the system may do."""

    NORMAL = "normal"  # everything
    SAFE = "safe"  # reductions and cancels
    EMERGENCY = "emergency"  # cancels only

    @property
    def severity(self) -> int:
        """Return 0, 1 or 2: higher allows less."""
        return _SEVERITY[self]


NORMAL = SystemMode.NORMAL
SAFE = SystemMode.SAFE
EMERGENCY = SystemMode.EMERGENCY
_SEVERITY: Final = {NORMAL: 0, SAFE: 1, EMERGENCY: 2}


def tightest(*modes: SystemMode) -> SystemMode:
    """Return the mode that allows least."""
    return max(modes, key=_SEVERITY.__getitem__)


def parse_mode(text: str) -> SystemMode:
    """Return the mode named *text*; what cannot be read is SAFE."""
    try:
        return SystemMode(text.lower())
    except ValueError:
        return SAFE


@dataclass(slots=True)
class ModeKeeper:
    """Decide the mode from the operator's floor and the causes of the moment.

    Ask :meth:`update` after every change and when :meth:`next_deadline` has come; True
    means the mode changed and its epoch grew.
    """

    dwell_s: float  # good health this long before SAFE is left
    floor: SystemMode = NORMAL  # the operator's
    mode: SystemMode = SAFE  # nobody is here yet
    epoch: int = 1
    reason: str = "starting"
    by: str = "coordinator"
    causes: dict[str, SystemMode] = field(default_factory=dict)
    healthy_since: float | None = None

    def operator(self, mode: SystemMode, reason: str, by: str, now: float) -> bool:
        """Set the operator's floor; loosening by hand needs no dwell."""
        self.floor = mode
        if mode is NORMAL and not self.causes:
            self.healthy_since = now - self.dwell_s
        return self.update(now, reason or f"operator asked for {mode}", by)

    def cause(self, name: str, mode: SystemMode | None) -> None:
        """Set or, with None, clear one cause of an automatic mode."""
        if mode is None:
            self.causes.pop(name, None)
        else:
            self.causes[name] = mode

    def update(self, now: float, reason: str = "", by: str = "coordinator") -> bool:
        """Recompute the mode at *now*; return True if it changed."""
        if self.causes:
            self.healthy_since = None
        elif self.healthy_since is None:
            self.healthy_since = now
        automatic = tightest(NORMAL, *self.causes.values())
        if not self.causes and not self._dwelt(now):
            automatic = self.mode if self.mode.severity <= SAFE.severity else NORMAL
        wanted = tightest(self.floor, automatic)
        if wanted is self.mode:
            return False
        self.mode, self.by = wanted, by
        self.reason = reason or "; ".join(sorted(self.causes)) or "healthy"
        self.epoch += 1
        return True

    def next_deadline(self) -> float | None:
        """Return when the dwell ends, None while there is nothing to wait for."""
        if self.mode is NORMAL or self.causes or self.healthy_since is None:
            return None
        return self.healthy_since + self.dwell_s

    def check(self) -> None:
        """Assert every invariant."""
        assert self.epoch >= 1
        assert self.mode.severity >= self.floor.severity
        assert all(self.mode.severity >= mode.severity for mode in self.causes.values())

    def _dwelt(self, now: float) -> bool:
        return self.healthy_since is not None and now >= self.healthy_since + self.dwell_s
