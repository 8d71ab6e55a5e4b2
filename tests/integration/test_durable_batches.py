"""Durable events in batches over real sockets and files: order, poison, halts, crashes.

What is at hand at once depends on the machine, so the first event of each test waits at a
gate until the rest has come.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.errors import LocalProtocolError, Unavailable
from mesh.protocol import envelope
from mesh.protocol.catchup import HALTED
from mesh.protocol.control import DURABLE
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, EventMeta, event
from mesh.runtime.durable import BATCH_MAX, TRIES
from mesh.runtime.planes import JOURNALS
from mesh.storage.journal import Journal
from tests.chaos.process.homes import until
from tests.integration.numbers import stuck

Eventually: TypeAlias = Callable[..., Awaitable[None]]


class Owner(Component):
    """Owns a journal of numbers."""

    says: ClassVar = {"d.": DURABLE}

    async def store(self, numbers: range, topic: str = "d.n.a") -> None:
        await self.commit(*((topic, number) for number in numbers))


class Batcher(Component):
    """Stores the effects of a batch and its last offset in one transaction."""

    says: ClassVar = {"k.done": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("d.n.", durable=True, batch=True)
    async def on_numbers(self, numbers: list[int], meta: EventMeta) -> None:
        await self.apply(numbers, meta)

    async def apply(self, numbers: list[int], meta: EventMeta) -> None:
        await self.gate.wait()
        self.judge(numbers)
        await self.commit(*(("k.done", number) for number in numbers), applied=meta)
        self.batches.append(numbers)

    def judge(self, numbers: list[int]) -> None:
        """Raise for what cannot be applied."""

    def stored(self) -> list[int]:
        """Return the effects that are on disk, in order."""
        return [payload_of(record.frame) for record in self.journal.read()]


def payload_of(frame: bytes) -> Any:
    return envelope.decode_value(envelope.decode_event(frame).payload)


async def waiting(
    mesh: Any, eventually: Eventually, batcher: Batcher, owner: Owner, numbers: range
) -> Bus:
    """Start both; return once *numbers* wait for the batcher, the first of them at its gate."""
    await mesh.start("owner", owner)
    bus: Bus = await mesh.start("batcher", batcher)
    await owner.store(numbers[:1])
    await eventually(lambda: "owner" in bus.peers.readers)
    catchup = bus.peers.readers["owner"].catchup
    await eventually(lambda: catchup.taken)
    await owner.store(numbers[1:])
    await eventually(lambda: len(catchup.ready) == len(numbers) - 1)
    return bus


async def test_what_is_at_hand_comes_at_once_and_its_last_offset_stands_for_all(
    mesh: Any, eventually: Eventually
) -> None:
    owner, batcher = Owner(), Batcher()
    await waiting(mesh, eventually, batcher, owner, range(1, 601))
    batcher.gate.set()
    await eventually(lambda: sum(map(len, batcher.batches)) == 600)
    assert [len(numbers) for numbers in batcher.batches] == [1, BATCH_MAX, BATCH_MAX, 87]
    assert batcher.stored() == list(range(1, 601))
    assert batcher.journal.applied("owner")[1:] == (owner.journal.log_id, 600)  # type: ignore[index]  # it has
    await eventually(lambda: [told.offset for told in owner.journal.acked().values()] == [600])


class Mixed(Batcher):
    """Hears also what comes in between, by a handler for single events."""

    def __init__(self) -> None:
        super().__init__()
        self.story: list[object] = []
        self.offsets: list[int] = []

    @event("d.n.", durable=True, batch=True)
    async def on_numbers(self, numbers: list[int], metas: list[EventMeta]) -> None:  # type: ignore[override]  # of each
        await self.gate.wait()
        self.story.append(numbers)
        self.offsets += [meta.offset for meta in metas]

    @event("d.one.", durable=True)
    def on_one(self, number: int, meta: EventMeta) -> None:
        self.story.append(number)
        self.offsets.append(meta.offset)


async def test_batch_ends_where_an_event_of_another_handler_comes(
    mesh: Any, eventually: Eventually
) -> None:
    owner, mixed = Owner(), Mixed()
    await waiting(mesh, eventually, mixed, owner, range(1, 4))
    await owner.store(range(4, 5), "d.nobody")
    await owner.store(range(5, 7), "d.n.b")
    await owner.store(range(7, 9), "d.one.a")
    await owner.store(range(9, 11))
    catchup = mixed.bus.peers.readers["owner"].catchup  # type: ignore[attr-defined]  # a Bus
    await eventually(lambda: catchup.announced == 10 and not catchup.due)
    mixed.gate.set()
    await eventually(lambda: len(mixed.offsets) == 9)
    assert mixed.story == [[1], [2, 3, 5, 6], 7, 8, [9, 10]]
    assert mixed.offsets == [1, 2, 3, 5, 6, 7, 8, 9, 10]


class Fragile(Batcher):
    """Cannot apply 5."""

    def __init__(self) -> None:
        super().__init__()
        self.tried: list[list[int]] = []

    def judge(self, numbers: list[int]) -> None:
        self.tried.append(numbers)
        if 5 in numbers:
            raise ZeroDivisionError("five")


class Strict(Fragile):
    """Stops there: what follows could depend on it."""

    @event("d.n.", durable=True, batch=True, halt=True)
    async def on_numbers(self, numbers: list[int], meta: EventMeta) -> None:
        await self.apply(numbers, meta)


async def test_f14_of_a_batch_that_fails_only_the_bad_event_is_put_aside(
    mesh: Any, eventually: Eventually
) -> None:
    owner, fragile = Owner(), Fragile()
    await waiting(mesh, eventually, fragile, owner, range(1, 9))
    fragile.gate.set()
    await eventually(lambda: len(fragile.stored()) == 7)
    assert fragile.stored() == [1, 2, 3, 4, 6, 7, 8]
    together, *singly = fragile.tried[1:]
    assert together == [2, 3, 4, 5, 6, 7, 8]
    assert singly == [[2], [3], [4], *[[5]] * TRIES, [6], [7], [8]]
    (letter,) = fragile.journal.dead_letters()
    assert (letter.node, letter.offset, letter.why) == ("owner", 5, "ZeroDivisionError('five')")
    assert '"event":"batch_failed"' in (mesh.paths.logs / "error.log").read_text()
    fragile.gate.clear()
    await owner.store(range(9, 10))
    await eventually(lambda: fragile.bus.peers.readers["owner"].catchup.taken)  # type: ignore[attr-defined]  # a Bus
    await owner.store(range(10, 13))
    await eventually(lambda: len(fragile.bus.peers.readers["owner"].catchup.ready) == 3)  # type: ignore[attr-defined]  # a Bus
    fragile.gate.set()
    await eventually(lambda: sum(map(len, fragile.batches)) == 11)
    assert fragile.batches[-1] == [10, 11, 12]  # behind the failed batch they come together


async def test_f14_with_halt_the_stream_stops_at_the_bad_event_of_a_batch(
    mesh: Any, eventually: Eventually
) -> None:
    owner, strict = Owner(), Strict()
    bus = await waiting(mesh, eventually, strict, owner, range(1, 9))
    strict.gate.set()
    await eventually(lambda: bus.peers.readers["owner"].catchup.stage is HALTED)
    assert strict.stored() == [1, 2, 3, 4]
    assert strict.journal.applied("owner").offset == 4  # type: ignore[union-attr]  # nothing beyond
    assert strict.journal.dead_letters() == ()


async def test_f14_payload_of_another_type_is_the_only_one_put_aside(
    mesh: Any, eventually: Eventually
) -> None:
    owner, batcher = Owner(), Batcher()
    await mesh.start("owner", owner)
    await owner.commit(("d.n.a", 1), ("d.n.a", "two"), ("d.n.a", 3))
    await mesh.start("batcher", batcher)
    batcher.gate.set()
    await eventually(lambda: len(batcher.stored()) == 2)
    assert batcher.stored() == [1, 3]
    (letter,) = batcher.journal.dead_letters()
    assert letter.offset == 2


async def test_f9_batch_whose_commit_never_came_comes_again_whole(
    mesh: Any, eventually: Eventually
) -> None:
    owner, first, second = Owner(), Batcher(), Batcher()
    await waiting(mesh, eventually, first, owner, range(1, 101))
    second.gate.set()
    mesh.crash("batcher")  # at the gate: nothing is stored
    await mesh.start("batcher", second)
    await eventually(lambda: len(second.stored()) == 100)
    assert second.stored() == list(range(1, 101))


class Stepping(Batcher):
    """Passes the gate once each time it opens."""

    def judge(self, numbers: list[int]) -> None:
        self.gate.clear()


async def test_f9_batch_whose_commit_was_not_learned_of_does_not_come_again(
    mesh: Any, eventually: Eventually
) -> None:
    owner, first, second = Owner(), Stepping(), Batcher()
    bus = await waiting(mesh, eventually, first, owner, range(1, 101))
    first.gate.set()
    await eventually(lambda: first.batches == [[1]])
    with stuck(first.journal) as release:
        first.gate.set()
        await eventually(lambda: bus.durable_log.pending)  # the other 99
        release()
        until(lambda: first.journal.last == 100)  # stored, and our loop has not learned it
    mesh.crash("batcher")
    assert first.batches == [[1]]
    path = mesh.paths.state / JOURNALS / "batcher.sqlite3"
    journal = Journal(path)
    assert [payload_of(record.frame) for record in journal.read()] == list(range(1, 101))
    journal.close()
    await owner.store(range(101, 103))
    second.gate.set()
    await mesh.start("batcher", second)
    await eventually(lambda: len(second.stored()) == 102)
    assert second.stored() == list(range(1, 103))


class Patient(Batcher):
    """Is not ready for a while."""

    refusals = 2 * TRIES

    def judge(self, numbers: list[int]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("not yet")


async def test_what_is_only_unavailable_is_waited_for_and_speaks_against_no_event(
    mesh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.runtime.durable.RETRY_S", 0.001)
    owner, patient = Owner(), Patient()
    await waiting(mesh, eventually, patient, owner, range(1, 11))
    patient.gate.set()
    await eventually(lambda: len(patient.batches) == 2)
    assert patient.batches == [[1], list(range(2, 11))]
    assert patient.journal.dead_letters() == ()
    log = (mesh.paths.logs / "error.log").read_text()
    assert log.count("stream_waits") == 1


class Confused(Component):
    """Asks for the EventMeta of each where there is only that of the last."""

    @event("d.", batch=True)
    def on_numbers(self, numbers: list[int], metas: list[EventMeta]) -> None:
        """Never called."""


async def test_only_a_durable_batch_has_the_meta_of_each(mesh: Any) -> None:
    with pytest.raises(LocalProtocolError, match="only a durable batch"):
        await mesh.start("confused", Confused())


@pytest.mark.parametrize("wish", [{"conflate": True}, {"max_age_s": 1.0}])
def test_durable_event_is_never_skipped(wish: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError, match="never skipped"):
        event("d.", durable=True, **wish)
