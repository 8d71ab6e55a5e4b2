"""ProcessLoop: the event loop of one simulated process, which takes a turn only when told to.

It never sleeps, polls no descriptor and has no threads: what would run in one runs at once.

Never here: whose turn it is, real time.
"""

import asyncio
from collections.abc import Callable
from typing import Any

TURNS_MAX = 1_000  # to let a process end


class _NoSelector:
    """Stands where a loop polls descriptors."""

    def select(self, timeout: float | None) -> tuple[()]:
        """Return at once: nothing comes from outside."""
        return ()


class ProcessLoop(asyncio.BaseEventLoop):
    """now: simulated monotonic seconds."""

    _ready: Any  # of BaseEventLoop: callbacks that are due
    _scheduled: Any  # of BaseEventLoop: a heap of timers

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._selector = _NoSelector()
        self._readers: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        """Return simulated monotonic seconds."""
        return self._now()

    @property
    def due(self) -> float | None:
        """Return when this loop has something to do, None if never by itself."""
        if self._ready:
            return self._now()
        return self._scheduled[0].when() if self._scheduled else None

    def turn(self) -> None:
        """Run what is due now, once."""
        self.call_soon(self.stop)
        self.run_forever()

    def finish(self, task: "asyncio.Task[Any]") -> None:
        """Take turns until the cancelled *task* ended, then close."""
        for _ in range(TURNS_MAX):
            if task.done():
                break
            self.turn()
        if task.done() and not task.cancelled():
            task.exception()  # what a process that is gone still raises is nobody's
        self.close()

    def wake(self, fd: int) -> None:
        """Let who reads *fd* look at it in the next turn."""
        if fd in self._readers and not self.is_closed():
            self.call_soon(self._look, fd)

    def add_reader(  # type: ignore[override]  # links give no arguments
        self, fd: int, callback: Callable[[], None]
    ) -> None:
        """Call *callback* whenever *fd* was woken."""
        self._readers[fd] = callback

    def remove_reader(self, fd: Any) -> bool:
        """Call nobody for *fd* any more."""
        return self._readers.pop(fd, None) is not None

    def run_in_executor(  # type: ignore[override]  # the executor would be a thread
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        """Run *func* here and now."""
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to who awaits it
            future.set_exception(error)
        return future

    def _look(self, fd: int) -> None:
        if (callback := self._readers.get(fd)) is not None:
            callback()

    def _process_events(self, events: Any) -> None:
        """Have none."""

    def _write_to_self(self) -> None:
        """Need no waking: whose turn it is, is decided outside."""
