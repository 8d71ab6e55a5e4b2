"""The rows of durable streams over real sockets and real files: joining, replays, bad events."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mesh.errors import Invalid, OutcomeUnknown
from mesh.protocol import envelope
from mesh.protocol.access import GUEST, Access, Grants
from mesh.protocol.catchup import HALTED
from mesh.protocol.control import Fetch, FetchPage
from mesh.runtime.component import Component, EventMeta, event
from mesh.runtime.durable import TRIES
from mesh.storage.journal import PAGE_ROWS, Journal
from tests.chaos.process.homes import until
from tests.integration.numbers import (
    Follower,
    Keeper,
    Owner,
    digest,
    journal_of,
    reader_of,
    stuck,
)

Eventually: TypeAlias = Callable[..., Awaitable[None]]


# --- joining, crashing, replaying ---


async def test_f1_late_joiner_has_everything_from_the_first_offset_and_the_state_of_the_veteran(
    mesh: Any, eventually: Eventually
) -> None:
    veteran, joiner, owner = Follower(), Follower(), Owner()
    await mesh.start("veteran", veteran)  # before there is anything to hear
    bus = await mesh.start("owner", owner)
    await owner.store(range(1, 2_001))
    storing = bus.spawn(owner.store(range(2_001, 5_001)), "store")
    await mesh.start("joiner", joiner)
    await storing
    await eventually(lambda: len(veteran.numbers) == len(joiner.numbers) == 5_000)
    assert joiner.numbers == list(range(1, 5_001))
    assert digest(joiner.numbers) == digest(veteran.numbers)
    assert joiner.replayed >= 2_000


async def test_f5_event_committed_and_never_sent_is_fetched_later(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower = Owner(), Follower()
    bus = await mesh.start("owner", owner)
    await mesh.start("follower", follower)
    await owner.store(range(1, 4))
    await eventually(lambda: len(follower.numbers) == 3)
    bus.spawn(owner.store(range(4, 5)), "store")
    await asyncio.sleep(0)  # now it is the writer's
    until(lambda: owner.journal.last == 4)  # committed, and our loop has not learned it
    mesh.crash("owner")
    assert follower.numbers == [1, 2, 3]
    before = follower.replayed
    await mesh.start("owner", Owner())
    await eventually(lambda: len(follower.numbers) == 4)
    assert follower.numbers == [1, 2, 3, 4]
    assert follower.replayed == before + 1


async def test_f5_event_not_committed_is_seen_by_nobody_and_its_caller_must_find_out(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower = Owner(), Follower()
    await mesh.start("owner", owner)
    bus = await mesh.start("follower", follower)
    await owner.store(range(1, 4))
    await eventually(lambda: len(follower.numbers) == 3)
    with stuck(owner.journal) as release:
        outcomes: list[BaseException | int] = []
        bus.spawn(asked(follower, outcomes), "ask")
        await eventually(lambda: mesh.running["owner"][0].durable_log.pending)
        lost = mesh.running["owner"][0].durable_log._commits
        owner.spawn(owner.store(range(77, 78)), "store")  # waits behind what the writer has
        await eventually(lambda: lost.queued == 1)
        release()
        mesh.crash("owner")
    await mesh.start("owner", Owner())
    await eventually(lambda: outcomes and len(follower.numbers) == 4)
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert follower.numbers == [1, 2, 3, 9]


async def asked(component: Component, outcomes: list[BaseException | int]) -> None:
    try:
        outcomes.append(await component.call("owner.write", 9, int, timeout_s=1.0))
    except OutcomeUnknown as error:
        outcomes.append(error)


async def test_f9_consumer_killed_in_the_middle_of_a_replay_goes_on_where_it_was(
    mesh: Any, eventually: Eventually
) -> None:
    owner, first, second = Owner(), Keeper(), Keeper()
    await mesh.start("owner", owner)
    await owner.store(range(1, 1_001))
    half = asyncio.Event()
    first.reached[500] = half.set
    await mesh.start("keeper", first)
    async with asyncio.timeout(10):
        await half.wait()
    mesh.crash("keeper")
    done = stored_numbers(journal_of(mesh, "keeper"))
    assert done[:500] == list(range(1, 501))
    await mesh.start("keeper", second)
    await eventually(lambda: second.numbers[-1:] == [1_000])
    assert second.numbers == list(range(len(done) + 1, 1_001))
    assert second.notices == []


async def test_f9_owner_killed_in_the_middle_of_a_replay_is_asked_for_the_rest(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower, half = Owner(), Follower(), asyncio.Event()
    await mesh.start("owner", owner)
    await owner.store(range(1, 16_001))
    follower.reached[8_000] = half.set
    bus = await mesh.start("follower", follower)
    async with asyncio.timeout(10):
        await half.wait()
    mesh.crash("owner")
    assert reader_of(bus).catchup.position < 16_000  # fetched no further ahead than it can hold
    await mesh.start("owner", Owner())
    await eventually(lambda: follower.numbers[-1:] == [16_000])
    assert follower.numbers == list(range(1, 16_001))
    assert follower.notices == []


def stored_numbers(path: Path) -> list[int]:
    journal = Journal(path)
    try:
        return [
            envelope.decode_value(envelope.decode_event(record.frame).payload)
            for record in journal.read()
        ]
    finally:
        journal.close()


async def test_f10_live_buffer_that_overflows_during_a_replay_takes_a_second_lap(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower = Owner(), Follower()
    await mesh.start("owner", owner)
    await owner.store(range(1, 8_001))
    follower.gate.clear()
    bus = await mesh.start("follower", follower)
    await eventually(lambda: "owner" in bus.peers.readers and reader_of(bus).catchup.ready)
    catchup = reader_of(bus).catchup
    newest = 8_000
    while not catchup.overflows:  # 50,000 live ones wait behind the replay, then no more
        await owner.store(range(newest + 1, newest + 2_001))
        newest += 2_000
        await eventually(lambda newest=newest: catchup.announced == newest)
    assert len(catchup.buffer) <= 50_000
    follower.gate.set()
    await eventually(lambda: len(follower.numbers) == newest, 20)
    assert follower.numbers == list(range(1, newest + 1))


# --- what a handler cannot apply ---


class Fragile(Keeper):
    """Cannot apply 3."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    async def apply(self, number: int, meta: EventMeta) -> None:
        if number == 3:
            self.tries += 1
            raise ZeroDivisionError("three")
        await super().apply(number, meta)


class Strict(Fragile):
    """Stops there: what follows could depend on it."""

    @event("d.n.", durable=True, halt=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        await super().on_number(number, meta)


async def test_f14_event_that_fails_five_times_becomes_a_dead_letter_and_the_stream_goes_on(
    mesh: Any, eventually: Eventually
) -> None:
    owner, fragile = Owner(), Fragile()
    await mesh.start("owner", owner)
    await mesh.start("keeper", fragile)
    await owner.store(range(1, 4))
    await eventually(fragile.journal.dead_letters)
    assert fragile.journal.applied("owner").offset == 3  # type: ignore[union-attr]  # in the same transaction
    await owner.store(range(4, 6))
    await eventually(lambda: len(fragile.numbers) == 4)
    assert fragile.numbers == [1, 2, 4, 5]
    (letter,) = fragile.journal.dead_letters()
    assert (letter.node, letter.log_id, letter.offset) == ("owner", owner.journal.log_id, 3)
    assert (letter.topic, letter.why) == ("d.n.a", "ZeroDivisionError('three')")
    assert fragile.tries == TRIES
    assert "dead_letter" in (mesh.paths.logs / "error.log").read_text()


async def test_f14_with_halt_the_stream_stops_the_node_is_degraded_and_others_go_on(
    mesh: Any, eventually: Eventually
) -> None:
    owner, other, strict = Owner(), Owner(), Strict()
    await mesh.start("owner", owner)
    await mesh.start("other", other)
    bus = await mesh.start("keeper", strict)
    bus.state = "ready"
    assert bus.heartbeat().state == "ready"
    await owner.store(range(1, 6))
    await eventually(lambda: "owner" in bus.peers.readers)
    await eventually(lambda: reader_of(bus).catchup.stage is HALTED)
    await other.store(range(101, 104))
    await eventually(lambda: strict.numbers[-1:] == [103])
    assert strict.numbers == [1, 2, 101, 102, 103]
    assert strict.tries == TRIES
    assert bus.heartbeat().state == "degraded"
    assert strict.journal.applied("owner").offset == 2  # type: ignore[union-attr]  # nothing beyond
    assert strict.journal.dead_letters() == ()
    assert "stream_halted" in (mesh.paths.logs / "error.log").read_text()


# --- what is not the publisher's to say ---


async def test_a9_fetched_event_that_the_role_may_not_say_is_dropped_and_told_once(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower = Owner(), Follower()
    bus = await mesh.start("owner", owner)
    for _ in range(2):
        await bus.durable_log.store((bus._event("d.n.others", -1),))  # past the check of our own
        await owner.store(range(1, 2))
    hears = await mesh.start("follower", follower)
    hears.peers.access = Access({GUEST: Grants(sub=("",), pub=("d.n.a", "d.t."))})
    await eventually(lambda: len(follower.numbers) == 2)
    assert follower.numbers == [1, 1]
    feed = hears.peers.feeds["owner", "d"]
    assert feed.subscriber.rejects.total == 2
    log = (mesh.paths.logs / "app.log").read_text()
    assert log.count("d.n.others is not its own") == 1


# --- questions that are none ---


async def test_a32_fetch_of_everything_and_more_is_a_page(mesh: Any) -> None:
    owner, follower = Owner(), Follower()
    await mesh.start("owner", owner)
    await mesh.start("follower", follower)
    await owner.store(range(1, 2_001))
    page = await fetched(follower, owner.journal.log_id, 0, 10**9)
    assert (len(page.frames), page.through, page.last) == (PAGE_ROWS, PAGE_ROWS, 2_000)
    page = await fetched(follower, owner.journal.log_id, 1_990, 10**9)
    assert (len(page.frames), page.through) == (10, 2_000)


async def test_a32_fetch_of_another_log_gives_nothing_and_names_this_one(mesh: Any) -> None:
    owner, follower = Owner(), Follower()
    await mesh.start("owner", owner)
    await mesh.start("follower", follower)
    await owner.store(range(1, 4))
    page = await fetched(follower, "0123456789abcdef", 0, 3)
    assert (page.log_id, page.frames, page.last) == (owner.journal.log_id, (), 3)


@pytest.mark.parametrize(
    ("after", "to"), [(-1, 3), (2, 1), (-5, -3), (-(2**63), 2**63), (2**63, 2**64 - 1)]
)
async def test_a32_fetch_of_a_range_that_is_none_is_invalid(
    mesh: Any, after: int, to: int
) -> None:
    owner, follower = Owner(), Follower()
    await mesh.start("owner", owner)
    await mesh.start("follower", follower)
    await owner.store(range(1, 4))
    with pytest.raises(Invalid):
        await fetched(follower, owner.journal.log_id, after, to)


async def fetched(caller: Component, log_id: str, after: int, to: int) -> FetchPage:
    ask = Fetch(log_id, after, to, ("d.n.",))
    return await caller.call("mesh.fetch", ask, FetchPage, target="owner")
