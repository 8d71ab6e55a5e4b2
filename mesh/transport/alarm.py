"""Alarm: the one timer of a machine that says when it must be told the time.

Never here: what is due.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from mesh.clock import monotonic_s

SOONEST_S: Final = 0.001  # the loop's clock is that coarse: sooner would only spin


class Alarm:
    """Call *ring* at the time that *when* gives, in monotonic seconds.

    It may ring too early, never more than a millisecond late: a deadline that moved away is
    not followed, for most calls end long before theirs.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        when: Callable[[], float | None],
        ring: Callable[[], None],
    ) -> None:
        self._loop, self._when, self._ring = loop, when, ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0
        self._stopped = False

    def set(self) -> None:
        """Look at what is due first; to be called after whatever may have changed it."""
        at = self._when()
        if at is None or self._stopped or (self._timer is not None and self._at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_later(max(SOONEST_S, at - monotonic_s()), self._on_time)

    def stop(self) -> None:
        """Ring no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _on_time(self) -> None:
        self._timer = None
        self._ring()
        self.set()
