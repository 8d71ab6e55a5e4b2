"""DurableReader: bring one publisher's durable events to the handlers, in order, without holes.

Never here: decisions about gaps (mesh.protocol.catchup), the storing of offsets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mesh.errors import MeshError, StorageError, Unavailable
from mesh.protocol import envelope, topics
from mesh.protocol.catchup import HALTED, CatchUp, Notice, Range
from mesh.protocol.control import Ack, Fetch, FetchPage, Head, LogIndex, StreamHead
from mesh.protocol.envelope import REPLAY, Event

FETCH_TIMEOUT_S: Final = 2.0
ACK_S: Final = 0.2
ACK_TIMEOUT_S: Final = 1.0
SETTLE_S: Final = 30.0
BATCH_MAX: Final = 256  # events that a handler gets at once
TURN: Final = 64  # events applied before the loop gets its turn
TRIES: Final = 5  # of one event
RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 1.0

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None], str], object]
Run: TypeAlias = Sequence[tuple[int, Event]]  # offsets and events that are applied together
Confirm: TypeAlias = Callable[[int], bool]  # offset; False: what is left is not wanted any more


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a reader needs of its owner.

    start(log_id) is the log and the offset to begin behind, None for "from now on".
    admits(event) says whether a fetched event is the publisher's to say; it may raise
    MeshError, then the fetch counts as failed. joins(first, event) says whether an event may
    be delivered together with the first. deliver is awaited for what goes together, in turn; it
    calls its last argument with each offset whose effect is stored, and ends if that is False.
    What is left of several when one fails is delivered again one by one. poisoned is awaited
    when a single event failed five times; it returns whether to go on behind it. trouble tells
    of failures that are tried again, by a constant name; notice of resets, holes and halts.
    settle is awaited with an offset up to which nothing was for us: who stores offsets stores it.
    """

    start: Callable[[str], tuple[str, int] | None]
    fetch: Callable[[Fetch, float], Awaitable[FetchPage]]
    admits: Callable[[Event], bool]
    ack: Callable[[Ack, float], Awaitable[None]]
    settle: Callable[[str, int], Awaitable[None]]  # log_id, offset
    joins: Callable[[Event, Event], bool]
    deliver: Callable[[Sequence[Event], str, Confirm], Awaitable[None]]  # events, log_id
    poisoned: Callable[[Event, str, Exception], Awaitable[bool]]
    trouble: Callable[[str, Event, Exception], None]
    notice: Callable[[Notice], None]
    dice: Callable[[], float]
    spawn: Spawn


class DurableReader:
    """Own the catch-up of one publisher; :meth:`run` applies, fetches run beside it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, node: str, prefixes: tuple[str, ...], hooks: Hooks
    ) -> None:
        self.node, self.prefixes, self._loop, self._hooks = node, prefixes, loop, hooks
        self.catchup: CatchUp[Event] = CatchUp(prefixes)
        self.durable = False  # the owner stores offsets: acknowledge them
        self._wake = asyncio.Event()
        self._acked = -1
        self._singly = 0  # up to this offset events are delivered one by one
        self._tried = 0  # the first that was left when several failed: it has had one try

    @property
    def lag(self) -> int:
        """Return how many offsets are known and not yet applied."""
        return self.catchup.lag

    def on_event(self, event: Event) -> None:
        """Take a live frame of the durable plane."""
        if event.topic == topics.LOG:
            index: LogIndex = envelope.decode_value(event.payload, LogIndex)
            self.catchup.index(index.log_id, index.first, index.topics)
        elif event.offset:
            self.catchup.live(event.offset, event)
        self._wake.set()

    def on_live(self, head: Head, began: bool) -> None:
        """Take a HEAD: the publisher was (re)connected."""
        stream = _of(head.streams)
        if stream is None:
            return
        if not self.catchup.log_id:
            start = self._hooks.start(stream.log_id)
            self.durable = start is not None
            self.catchup.begin(*(start or (stream.log_id, stream.last)))
        self._tell(self.catchup.head(stream, began=began))
        self._wake.set()

    def on_beacon(self, streams: tuple[StreamHead, ...]) -> None:
        """Take a heartbeat: what it counts has been sent before it."""
        stream = _of(streams)
        if stream is not None:
            self.catchup.beacon(stream)
            self._wake.set()

    async def run(self) -> None:
        """Apply what comes, for ever. Cancelling is safe between two deliveries."""
        self._hooks.spawn(self._acknowledge(), f"acknowledge to {self.node}")
        catchup, since_turn = self.catchup, 0
        while True:
            for asked in catchup.asks(self._loop.time()):
                self._hooks.spawn(self._fetch(asked), f"fetch of {self.node}")
            most = 1 if catchup.applied < self._singly else BATCH_MAX
            run = catchup.take_run(most, self._hooks.joins)
            if not run:
                await self._idle()
                continue
            await self._apply(run)
            since_turn += len(run)
            if since_turn >= TURN:
                since_turn = 0
                await asyncio.sleep(0)

    async def _idle(self) -> None:
        self._wake.clear()
        now = self._loop.time()
        due = self.catchup.next_deadline(now)
        try:
            async with asyncio.timeout(None if due is None else max(due - now, 0.001)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _apply(self, run: Run) -> None:
        """Deliver *run*; if that fails, let what is in it come again one by one."""
        catchup, (_, first), (last, _) = self.catchup, run[0], run[-1]
        log_id = catchup.log_id  # of the log it was taken from, whatever is heard meanwhile
        failure = await self._failure([event for _, event in run], log_id)
        if failure is None or catchup.log_id != log_id:
            return  # applied, or of a journal that is no more
        if len(run) > 1:  # which of them it is shows then
            self._hooks.trouble("batch_failed", first, failure)
            self._singly, self._tried = last, catchup.applied + 1
            catchup.give_back()
        elif await self._hooks.poisoned(first, log_id, failure):
            catchup.done(last)
        else:
            catchup.halt()

    async def _failure(self, events: list[Event], log_id: str) -> Exception | None:
        """Deliver *events*, a single one five times at most; return why in vain, if so."""
        failure = None
        tries = 1 if len(events) > 1 else TRIES - (events[0].offset == self._tried)
        for attempt in range(tries):
            failure = await self._delivered(events, log_id)
            if failure is None:
                break
            await asyncio.sleep(RETRY_S * 2**attempt)
        return failure

    async def _delivered(self, events: list[Event], log_id: str) -> Exception | None:
        """Return why *events* could not be applied, None if they were.

        What is only Unavailable, a full disk or a node that is away, is waited for: it says
        nothing against the events.
        """
        pause_s, catchup = RETRY_S, self.catchup

        def confirm(offset: int) -> bool:
            catchup.done(offset)
            return catchup.log_id == log_id and catchup.stage is not HALTED

        while catchup.log_id == log_id:  # else they are of a journal that is no more
            try:
                await self._hooks.deliver(
                    [e for e in events if e.offset > catchup.applied], log_id, confirm
                )
            except StorageError:
                raise  # the disk failed: the node ends and recovers from what is on it
            except Unavailable as error:
                if pause_s == RETRY_S:  # once per episode
                    self._hooks.trouble("stream_waits", events[0], error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S_MAX)
            except Exception as error:  # noqa: BLE001  # a handler's bug or a bad record: the stream decides
                return error
            else:
                return None
        return None

    async def _fetch(self, asked: Range) -> None:
        catchup = self.catchup
        try:
            page = await self._hooks.fetch(
                Fetch(asked.log_id, asked.after, asked.to, self.prefixes), FETCH_TIMEOUT_S
            )
            decoded = [envelope.decode_event(frame, REPLAY) for frame in page.frames]
            events = [event for event in decoded if self._hooks.admits(event)]
        except MeshError:
            catchup.failed(asked, self._loop.time(), self._hooks.dice())
        else:
            if page.log_id != asked.log_id:  # a HEAD of the new journal is on its way
                catchup.failed(asked, self._loop.time(), self._hooks.dice())
            else:
                items = [(event.offset, event) for event in events]
                self._tell(catchup.page(asked, page.through, items, page.first))
        self._wake.set()

    async def _acknowledge(self) -> None:
        """Tell the owner now and then how far we are, so that it keeps what we still need.

        It may delete what was acknowledged. Where nothing is for us for long the offset of our
        last effect falls behind that, and after a restart it would look like a loss; so what we
        acknowledge is stored here, too.
        """
        settled, again = -1, 0.0
        while True:
            await asyncio.sleep(ACK_S)
            log_id, offset = self.catchup.log_id, self.catchup.confirm()
            if not self.durable or self.catchup.stage is HALTED:
                continue
            if offset != settled and self._loop.time() >= again and not self.catchup.taken:
                settled, again = offset, self._loop.time() + SETTLE_S
                await self._hooks.settle(log_id, offset)
                if self.catchup.log_id != log_id:
                    continue  # it is another journal now, and nothing of it is applied
            if offset == self._acked:
                continue
            try:
                await self._hooks.ack(Ack(log_id, offset), ACK_TIMEOUT_S)
                self._acked = offset
            except MeshError:
                continue  # the next one tells

    def _tell(self, notices: list[Notice]) -> None:
        for notice in notices:
            self._acked = -1
            self._singly = 0  # it may have been of another log
            self._hooks.notice(notice)


def _of(streams: tuple[StreamHead, ...]) -> StreamHead | None:
    return streams[0] if streams else None
