"""Schedule: whose turn it is among simulated processes, and when time passes.

Time stands still while anybody has something to do. Of processes that are ready at one instant
the dice choose, so another seed is another order.

Never here: what processes do, what authors call.
"""

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Final, TypeVar

from mesh.errors import LocalProtocolError
from mesh.sim.memory.network import Time
from mesh.sim.memory.process import SimProcess

T = TypeVar("T")

TURNS_MAX: Final = 20_000  # at one instant; more is a loop without end


class Schedule:
    """Let processes take turns. on_end: told of each that ended by itself, or as it was asked.

    What ended one is raised by whatever let it take that turn.
    """

    def __init__(self, time: Time, dice: Random, on_end: Callable[[SimProcess], None]) -> None:
        self.time, self._dice, self._on_end = time, dice, on_end
        self.processes: dict[str, SimProcess] = {}
        self._turns = 0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        ends = self.time.now + seconds
        while self._turn(ends):
            pass
        self.time.pass_to(ends)

    def until(self, condition: Callable[[], bool], limit_s: float, why: str) -> None:
        """Let time pass until *condition* holds. Raises TimeoutError after *limit_s*."""
        ends = self.time.now + limit_s
        while not condition():
            if not self._turn(ends):
                raise TimeoutError(f"{why}, for {limit_s:g} s now")

    def run_in(self, process: SimProcess, coro: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Return what *coro* returns in *process*. Raises TimeoutError after *limit_s*."""
        task = process.loop.create_task(coro)
        try:
            self.until(task.done, limit_s, "the call has no end")
        finally:
            task.cancel()
        return task.result()

    def _turn(self, ends: float) -> bool:
        """Do the next thing that is due until *ends*; return False if nothing is."""
        dues = [(process.loop.due, process) for process in self.processes.values()]
        times = [due for due, _ in dues if due is not None]
        if self.time.due is not None:
            times.append(self.time.due)
        if not times or min(times) > ends:
            return False
        self._count(min(times))
        self.time.pass_to(min(times))
        ready = [process for due, process in dues if due is not None and due <= self.time.now]
        if ready:
            process = self._dice.choice(ready)
            process.loop.turn()
            if process.ended:
                self._bury(process)
        return True

    def _count(self, now: float) -> None:
        self._turns = 0 if now > self.time.now else self._turns + 1
        if self._turns > TURNS_MAX:
            raise LocalProtocolError("time does not pass: some task never waits")

    def _bury(self, process: SimProcess) -> None:
        del self.processes[process.node]
        process.loop.close()
        self._on_end(process)
        if process.failure is not None:
            raise process.failure
