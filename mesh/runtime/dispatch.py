"""Dispatch: from an event of the plane of events to one handler, at the handler's own pace.

Plain handlers are called at once; conflating ones get the newest per topic when the link has
been drained, batching ones a list. Coroutines run from queues of their own or the component's.

Never here: durable events, sockets.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.protocol.conflation import FRESH, SNAIL, Conflation, Freshness
from mesh.protocol.control import Record
from mesh.protocol.envelope import SNAPSHOT, TOMBSTONE, Event
from mesh.runtime.handlers import Bound, EventMark, EventMeta, meta_of
from mesh.runtime.health import Health
from mesh.transport.handled import because, handled
from mesh.transport.lanes import Lane, list_of

BATCH_MAX: Final = 1_024
_SPECIAL: Final = SNAPSHOT | TOMBSTONE


class Desk(Protocol):
    """What a subscription needs of its process."""

    health: Health
    paces: "Paces"

    def spawn(self, coro: Any, name: str) -> object:
        """Run a task for the life of the process."""

    def reject(self, topic: str, error: MeshError) -> None:
        """Count an event that cannot be read."""

    def enqueue(self, bound: Bound, value: object, meta: EventMeta) -> bool:
        """Queue an event for a coroutine; return False if an older one had to go."""


class Handling:
    """One marked handler: take events by :meth:`sink`, finish a turn by :meth:`flush`."""

    def __init__(self, bound: Bound, mark: EventMark, desk: Desk) -> None:
        self.bound, self.mark, self._desk = bound, mark, desk
        age_s, snail_s = mark.max_age_s, desk.paces.snail_s
        self.freshness = None if age_s is None else Freshness(age_s, snail_s)
        self._decode = envelope.decoder(bound.kind)
        self._newest: Conflation[tuple[Event, Record]] = Conflation()
        self._batch: list[Any] = []
        self._last: tuple[Event, Record] | None = None
        self._wake = asyncio.Event()
        if mark.conflate and bound.is_async:
            desk.spawn(self._work(), f"handler of {mark.prefix}")

    @property
    def skipped(self) -> int:
        """Return how many events gave way to newer ones."""
        return self._newest.skipped

    def sink(self) -> Callable[[Event, Record], None]:
        """Return what takes each event."""
        take: Callable[[Event, Record], None] = self._take
        if self.mark.conflate:
            take = self._keep
        elif self.mark.batch:
            take = self._collect
        if self.freshness is not None:
            return partial(self._if_fresh, self.freshness, take)
        return take

    def lane(self) -> Lane | None:
        """Return what takes the payload of a plain event, for handlers that want no more."""
        mark, bound = self.mark, self.bound
        if mark.conflate or self.freshness is not None or bound.is_async or bound.arguments != 1:
            return None
        if mark.batch:  # a drain has fewer events than a batch may have; flush() follows
            return Lane(
                envelope.raw_decoder(bound.kind),
                self._batch.append,
                envelope.raw_decoder(list_of(bound.kind)),
                self._batch.extend,
            )
        return Lane.to(bound.call, bound.kind)

    def flush(self) -> None:
        """Hand over what was kept during a drain."""
        if self.mark.conflate:
            if not self._newest:
                return
            if self.bound.is_async:
                self._wake.set()
                return
            for (event, record), skipped in self._newest.take():
                self._take(event, record, skipped)
        elif self._batch:
            batch = self._batch.copy()
            self._batch.clear()  # lanes append to this very list
            if self.bound.arguments == 1:
                with because(None):  # of lanes, which tell of payloads alone
                    self.bound.call(batch)
            elif self._last is not None:
                event, record = self._last
                meta = meta_of(event, record.node, record.log_id)
                with because(meta):
                    self.bound.call(batch, meta)

    def _if_fresh(
        self, freshness: Freshness, take: Callable[[Event, Record], None], event: Event,
        record: Record,
    ) -> None:  # fmt: skip
        if event.flags & _SPECIAL or freshness.judge(
            (wall_ns() - event.ts_sent) / 1e9, monotonic_s()
        ):
            take(event, record)

    def _keep(self, event: Event, record: Record) -> None:
        key = envelope.conflation_key(event) if event.ext else event.topic
        self._newest.put(f"{record.node} {key}", (event, record))

    def _collect(self, event: Event, record: Record) -> None:
        self._count(event)
        try:
            value = self._decode(event.payload)
        except MeshError as error:
            self._desk.reject(event.topic, error)
            return
        self._last = event, record
        self._append(value)

    def _append(self, value: Any) -> None:
        self._batch.append(value)
        if len(self._batch) >= BATCH_MAX:
            self.flush()

    def _take(self, event: Event, record: Record, skipped: int = 0) -> None:
        arguments = self._prepared(event, record, skipped)
        if arguments is None:
            return
        bound = self.bound
        if bound.is_async:
            self._desk.health.drops += not self._desk.enqueue(bound, *arguments)
            return
        token = handled.set(arguments[1])
        try:
            bound.call(*arguments[: bound.arguments])
        finally:
            handled.reset(token)

    async def _work(self) -> None:
        """Run a conflating coroutine: while it works, newer events replace those that wait."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            for (event, record), skipped in self._newest.take():
                arguments = self._prepared(event, record, skipped)
                if arguments is not None:
                    with because(arguments[1]):
                        await self.bound.call(*arguments[: self.bound.arguments])

    def _prepared(
        self, event: Event, record: Record, skipped: int
    ) -> tuple[object, EventMeta] | None:
        """Return what the handler is to get, None if it is to get nothing."""
        self._count(event)
        if event.flags & TOMBSTONE and self.bound.arguments < 2:
            return None  # a handler that cannot tell an end from a value
        try:
            value = self._decode(event.payload)
        except MeshError as error:
            self._desk.reject(event.topic, error)
            return None
        meta = meta_of(event, record.node, record.log_id)
        return value, msgspec.structs.replace(meta, skipped=skipped) if skipped else meta

    def _count(self, event: Event) -> None:
        health = self._desk.health
        health.events_in += 1
        if not health.events_in & 15 and not event.flags:  # a sample is enough, and cheaper
            health.latency(wall_ns() - event.ts_sent)


class Paces:
    """How all subscriptions of a process keep up: nothing wrong, degraded, hopeless.

    snail_s: how long one may be late before it is hopeless.
    """

    def __init__(self, snail_s: float) -> None:
        self.snail_s = snail_s
        self.handlings: list[Handling] = []
        self._kept: list[Handling] = []  # those that keep something during a drain

    def add(self, handling: Handling) -> None:
        """Watch one more."""
        self.handlings.append(handling)
        if handling.mark.conflate or handling.mark.batch:
            self._kept.append(handling)

    def flush(self) -> None:
        """Finish a drain for all."""
        for handling in self._kept:
            handling.flush()

    @property
    def late(self) -> list[str]:
        """Return the prefixes whose events are older than they may be."""
        return [
            handling.mark.prefix
            for handling in self.handlings
            if handling.freshness is not None and handling.freshness.pace is not FRESH
        ]

    def tick(self, now: float) -> str | None:
        """Let time pass; return the prefix that only a new process can follow, if any."""
        for handling in self.handlings:
            freshness = handling.freshness
            if freshness is not None:
                freshness.tick(now)
                if freshness.pace is SNAIL:
                    return handling.mark.prefix
        return None

    def counters(self) -> dict[str, float]:
        """Return what was skipped and dropped, for the heartbeat."""
        return {
            "conflated": sum(handling.skipped for handling in self.handlings),
            "aged": sum(h.freshness.aged for h in self.handlings if h.freshness is not None),
        }
