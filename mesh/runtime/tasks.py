"""Tasks: what runs beside the handlers of a process, all of it owned by one TaskGroup.

Never here: what the tasks do.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from mesh.protocol.cause import Cause
from mesh.transport.handled import handled


class Tasks:
    """Run tasks for the life of the process; what one raises ends it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._context = copy_context()  # of the process: no request's deadline, no request

    def spawn(
        self, coro: Coroutine[Any, Any, None], name: str, cause: Cause | None = None
    ) -> asyncio.Task[None]:
        """Run a task for the life of the process; of a request it inherits nothing but *cause*."""
        context = self._context.copy()
        if cause is not None:
            context.run(handled.set, cause)
        task = self._tasks.create_task(coro, name=name, context=context)
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
