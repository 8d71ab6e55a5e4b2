"""DurableReader by itself: what happens to events in hand when their journal is no more."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import pytest

from mesh.protocol import envelope
from mesh.protocol.catchup import FETCHING, HALTED, Notice, Reset
from mesh.protocol.control import Ack, Fetch, FetchPage, Head, StreamHead
from mesh.protocol.envelope import Event
from mesh.runtime import durable
from mesh.runtime.durable import Confirm, DurableReader, Hooks

NODE = "owner"
OFFSETS = range(1, 11)


def head(log_id: str, last: int) -> Head:
    return Head(1, 1, 1, {}, (StreamHead(NODE, log_id, 1, last),))


class Stage:
    """A reader of journal A, which has ten records; journal B never gives any."""

    def __init__(self, *, fails_at: int = 0, resets_at: int = 0, settles: bool = False) -> None:
        self.applied: list[int] = []
        self.acks: list[Ack] = []
        self.poisons = 0
        self.notices: list[Notice] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fails_at, self.resets_at, self.settles = fails_at, resets_at, settles
        self.hooks = Hooks(
            start=lambda log_id: ("A", 0),
            fetch=self.fetch,
            admits=lambda event: True,
            ack=self.ack,
            settle=self.settle,
            joins=lambda first, event: True,
            deliver=self.deliver,
            poisoned=self.poisoned,
            trouble=lambda what, event, error: None,
            notice=self.notices.append,
            dice=lambda: 0.5,
            spawn=self.spawn,
        )
        self.reader = DurableReader(asyncio.get_running_loop(), NODE, ("d.",), self.hooks)

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> object:
        self.tasks.append(asyncio.ensure_future(coro))
        return self.tasks[-1]

    async def fetch(self, ask: Fetch, timeout_s: float) -> FetchPage:
        if ask.log_id != "A":
            await asyncio.Event().wait()
        frames = tuple(
            envelope.encode_event(Event("d.x", 0, 1, 1, offset, b"\x01", offset=offset))
            for offset in OFFSETS
            if ask.after < offset <= ask.to
        )
        return FetchPage("A", frames, ask.to, 1, OFFSETS[-1])

    async def ack(self, ack: Ack, timeout_s: float) -> None:
        self.acks.append(ack)

    async def settle(self, log_id: str, offset: int) -> None:
        if self.settles:  # the disk is slow, and meanwhile the journal is another
            self.settles = False
            self.reader.on_live(head("B", 500), began=True)

    async def deliver(self, events: Sequence[Event], log_id: str, confirm: Confirm) -> None:
        assert log_id == "A"
        for event in events:
            if event.offset == self.resets_at:
                self.resets_at = 0
                self.reader.on_live(head("B", 500), began=True)
            if event.offset == self.fails_at:
                raise ValueError("a bug")
            self.applied.append(event.offset)
            if not confirm(event.offset):
                return

    async def poisoned(self, event: Event, log_id: str, error: Exception) -> bool:
        self.poisons += 1
        return False

    async def until(self, condition: Any) -> None:
        self.spawn(self.reader.run(), "run")
        self.reader.on_live(head("A", OFFSETS[-1]), began=True)
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110  # conditions are of any kind; the deadline bounds it
                await asyncio.sleep(0.005)
        for task in self.tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_what_is_left_of_a_journal_that_is_no_more_is_not_applied() -> None:
    stage = Stage(resets_at=4)
    await stage.until(lambda: stage.notices)
    assert stage.applied == [1, 2, 3, 4]  # the one in hand, and none behind it
    assert stage.notices == [Reset("A", "B")]


async def test_failure_in_a_journal_that_is_no_more_says_nothing_of_the_next_one() -> None:
    """It used to be delivered one by one, and with a halting handler it halted."""
    stage = Stage(resets_at=4, fails_at=4)
    await stage.until(lambda: stage.notices)
    assert (stage.poisons, stage.reader._singly) == (0, 0)
    assert stage.reader.catchup.stage is FETCHING


async def test_event_that_fails_for_good_halts_its_stream_behind_those_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable, "RETRY_S", 0.0)
    stage = Stage(fails_at=4)
    await stage.until(lambda: stage.reader.catchup.stage is HALTED)
    assert (stage.applied, stage.poisons) == ([1, 2, 3], 1)


async def test_ack_never_speaks_of_a_journal_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The offset of the old one was acknowledged to the new one, where nothing was applied."""
    monkeypatch.setattr(durable, "ACK_S", 0.01)
    stage = Stage(settles=True)
    await stage.until(lambda: stage.acks)
    assert stage.acks == [Ack("B", 0)]
