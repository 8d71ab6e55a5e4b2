"""Pacing: frames handed over in the rhythm of their receive times, times a speed.

Never here: content; pacing changes when, never what.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeAlias

from mesh.clock import monotonic_s
from nodes.market_data.frame import Frame

Sink: TypeAlias = Callable[[Frame], None]

WAIT_MOST_S = 0.2  # so that pause and speed act soon, also within a long silence
BURST = 64  # frames without letting others run


class Pacer:
    """Paces any iterator of frames; speed 0 is as fast as the sink takes them."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._running = asyncio.Event()
        self._running.set()
        self._since: tuple[int, float] | None = None  # receive time, monotonic time

    @property
    def paused(self) -> bool:
        """Say whether frames are being held back."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Hold frames back until resume."""
        self._running.clear()

    def resume(self) -> None:
        """Go on; the time paused is not caught up."""
        self._since = None
        self._running.set()

    def set_speed(self, speed: float) -> None:
        """Go on at *speed* times real time from here."""
        self.speed, self._since = speed, None

    async def run(self, frames: Iterator[Frame], sink: Sink) -> None:
        """Hand every frame to *sink* when it is due; return at their end."""
        burst = 0
        for frame in frames:
            waited = await self._wait_until_due(frame.recv_ns)
            burst = 0 if waited else burst + 1
            if burst >= BURST:
                await asyncio.sleep(0)
                burst = 0
            sink(frame)

    async def _wait_until_due(self, recv_ns: int) -> bool:
        waited = False
        while True:
            if self.paused:
                await self._running.wait()
            if self.speed <= 0:
                return waited
            if self._since is None:
                self._since = (recv_ns, monotonic_s())
            began_ns, began_s = self._since
            delay = (recv_ns - began_ns) / 1e9 / self.speed - (monotonic_s() - began_s)
            if delay <= 0:
                return waited
            await asyncio.sleep(min(delay, WAIT_MOST_S))
            waited = True
