"""Shrink: from a schedule that breaks a promise to a small one that breaks the same.

Never here: running worlds; the caller's question does that.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from mesh.sim.faults import Fault

Schedule: TypeAlias = tuple[Fault, ...]
Breaks: TypeAlias = Callable[[Schedule], bool]

RUNS_MAX: Final = 400  # of the world, for one schedule
SHORTER: Final = (0.0, 0.25, 0.5)


class Budget:
    """Ask at most so often; afterwards nothing breaks any more, so that shrinking ends."""

    def __init__(self, breaks: Breaks, runs_max: int) -> None:
        self.runs, self._breaks, self._runs_max = 0, breaks, runs_max

    def __call__(self, schedule: Schedule) -> bool:
        if self.runs >= self._runs_max:
            return False
        self.runs += 1
        return self._breaks(schedule)


def shrink(schedule: Schedule, breaks: Breaks, runs_max: int = RUNS_MAX) -> Schedule:
    """Return a smaller schedule for which *breaks* still holds, or *schedule*."""
    budget = Budget(breaks, runs_max)
    return shorten(ddmin(schedule, budget), budget)


def ddmin(schedule: Schedule, breaks: Breaks) -> Schedule:
    """Return a part of *schedule* of which no single fault can be left out.

    Source: Zeller, Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002.
    """
    if breaks(()):
        return ()
    parts = 2
    while len(schedule) >= 2:
        size = -(-len(schedule) // parts)
        rests = (schedule[:at] + schedule[at + size :] for at in range(0, len(schedule), size))
        smaller = next((rest for rest in rests if breaks(rest)), None)
        if smaller is not None:
            schedule, parts = smaller, max(parts - 1, 2)
        elif parts >= len(schedule):
            break
        else:
            parts = min(parts * 2, len(schedule))
    return schedule


def shorten(schedule: Schedule, breaks: Breaks) -> Schedule:
    """Return *schedule* with shorter faults, fewer victims and rounder times."""
    for place in range(len(schedule)):
        for smaller in _smaller(schedule[place]):
            tried = (*schedule[:place], smaller, *schedule[place + 1 :])
            if breaks(tried):
                schedule = tried
                break
    return schedule


def _smaller(fault: Fault) -> list[Fault]:
    replace = msgspec.structs.replace
    shorter = [replace(fault, for_s=round(fault.for_s * part, 3)) for part in SHORTER]
    fewer = [replace(fault, n=1)] if fault.kind not in ("partition", "step", "backup") else []
    rounder = [replace(fault, at_s=round(fault.at_s, 1))]
    return [f for f in (*shorter, *fewer, *rounder) if f != fault]
