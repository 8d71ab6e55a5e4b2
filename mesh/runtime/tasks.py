"""Tasks: what runs beside the handlers of a process, all of it owned by one TaskGroup.

Never here: what the tasks do.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any


class Tasks:
    """Run tasks for the life of the process; what one raises ends it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # of the process: no request's deadline, no request

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run a task for the life of the process; it inherits nothing from a request."""
        task = self._tasks.create_task(coro, name=name, context=self._context.copy())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        """Cancel every task of the process."""
        for task in list(self._running):
            task.cancel()

    def every(self, period_s: float, func: Callable[[], Any]) -> None:
        """Call *func* every *period_s* seconds; a coroutine is awaited."""

        async def run() -> None:
            while True:
                await asyncio.sleep(period_s)
                result = func()
                if result is not None:
                    await result

        self.spawn(run(), f"every {period_s} s")
