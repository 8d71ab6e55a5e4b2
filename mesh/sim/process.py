"""Process: a simulated OS process: runs, pauses, dies; what it had planned dies with it.

Never here: what it does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mesh.sim.world import World

DAWN_NS: Final = 1_700_000_000 * 10**9  # wall time at virtual 0


@dataclass(slots=True)
class Process:
    """One process by name; its wall clock has an offset and a rate of its own."""

    world: World
    name: str
    run: int = 0
    alive: bool = False
    blocked_until: float = 0.0  # paused or busy: nothing of it is scheduled
    wall_offset_ns: int = 0
    wall_rate: float = 1.0

    def begin(self) -> None:
        """Begin a new run."""
        self.run += 1
        self.alive = True
        self.blocked_until = 0.0

    def die(self) -> None:
        """End at once."""
        self.alive = False

    def block(self, for_s: float) -> None:
        """Do nothing for a while, though time goes on."""
        self.blocked_until = max(self.blocked_until, self.world.now + for_s)

    def busy(self, for_s: float) -> None:
        """Work for a while, behind what is being worked on."""
        self.blocked_until = max(self.blocked_until, self.world.now) + for_s

    def at(self, when: float, call: Callable[..., object], *args: Any) -> None:
        """Call at *when* if this run is still there, later if it is blocked then."""
        self.world.at(when, self._call, self.run, call, args)

    def wall_ns(self) -> int:
        """Return what its wall clock shows."""
        return DAWN_NS + self.wall_offset_ns + int(self.world.now * self.wall_rate * 1e9)

    def _call(self, run: int, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        if run != self.run or not self.alive:
            return
        if self.blocked_until > self.world.now:
            self.world.at(self.blocked_until, self._call, run, call, args)
            return
        call(*args)
