"""DurableReader: bring one publisher's durable events to the handlers, in order, without holes.

Never here: decisions about gaps (mesh.protocol.catchup), the storing of offsets.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.protocol.catchup import CatchUp
from mesh.protocol.control import Fetch, FetchPage, Head
from mesh.protocol.envelope import Event

QUEUE_MAX: Final = 8192  # beyond it live frames are dropped: a fetch brings them
FETCH_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 0.1


class DurableReader:
    """Own the catch-up of one publisher; :meth:`run` is its only task.

    start(log_id) is the offset to begin behind, None for "from now on". deliver is awaited
    for each event in turn; what it raises ends the node.
    """

    def __init__(
        self,
        *,
        prefixes: tuple[str, ...],
        start: Callable[[str], int | None],
        fetch: Callable[[Fetch, float], Awaitable[FetchPage]],
        deliver: Callable[[Event], Awaitable[None]],
    ) -> None:
        self.prefixes = prefixes
        self._start, self._fetch, self._deliver = start, fetch, deliver
        self._queue: deque[Event | Head] = deque()
        self._wake = asyncio.Event()
        self._catchup = CatchUp()
        self.overflows = 0

    @property
    def lag(self) -> int:
        """Return how many offsets are known and not yet applied."""
        return max(0, self._catchup.target - self._catchup.applied)

    def on_event(self, event: Event) -> None:
        """Take a live frame."""
        self._put(event)

    def on_head(self, head: Head) -> None:
        """Take a HEAD: the publisher was (re)connected."""
        self._put(head)

    async def run(self) -> None:
        """Apply what comes, for ever. Cancelling is safe between two events."""
        while True:
            if self._catchup.want() is not None:
                await self._fetch_page()
            elif self._queue:
                await self._take(self._queue.popleft())
            else:
                self._wake.clear()
                await self._wake.wait()

    def _put(self, item: Event | Head) -> None:
        if len(self._queue) >= QUEUE_MAX:
            self._queue.popleft()
            self.overflows += 1
            self._catchup.fetching = bool(self._catchup.log_id)
        self._queue.append(item)
        self._wake.set()

    async def _take(self, item: Event | Head) -> None:
        if isinstance(item, Event):
            if self._catchup.live(item.epoch, item.topic, item.seq, item.offset):
                await self._deliver(item)
            return
        known = self._catchup.log_id
        if not known:
            start = self._start(item.log_id)
            self._catchup.applied = item.last if start is None else start
        heads = {t: s for t, s in item.heads.items() if t.startswith(self.prefixes)}
        self._catchup.head(item.epoch, heads, item.log_id, item.last)

    async def _fetch_page(self) -> None:
        after = self._catchup.applied
        ask = Fetch(self._catchup.log_id, after, self.prefixes)
        try:
            page = await self._fetch(ask, FETCH_TIMEOUT_S)
        except MeshError:
            await self._pause()
            return
        if page.log_id != self._catchup.log_id:
            await self._pause()  # a HEAD of the new journal is on its way
            return
        for frame in page.frames:
            event = envelope.decode_event(frame)
            if self._catchup.record(event.offset):
                await self._deliver(event)
        self._catchup.page(page.through, page.last)
        if self._catchup.want() == after:
            await self._pause()  # nothing new, though more is known to exist: do not spin

    async def _pause(self) -> None:
        """Wait a little, but look at a HEAD at once: it may be of another journal."""
        await asyncio.sleep(RETRY_S)
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Head):
                await self._take(item)
