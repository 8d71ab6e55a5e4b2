"""The rows of durable streams over real sockets and real files: replays, losses, full disks.

The consumers here are of two kinds: a Keeper stores each effect with its offset in one
transaction, a Follower only remembers.
"""

import asyncio
import resource
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias
from zlib import crc32

import pytest

from mesh.errors import Invalid, OutcomeUnknown, Unavailable
from mesh.protocol import envelope
from mesh.protocol.access import GUEST, Access, Grants
from mesh.protocol.catchup import HALTED, LIVE, Ahead, Gone, Notice, Reset
from mesh.protocol.control import DURABLE, EPHEMERAL, Fetch, FetchPage
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.durable import TRIES
from mesh.runtime.planes import JOURNALS
from mesh.storage.journal import PAGE_ROWS, Journal, Retention
from tests.chaos.process.homes import Home, until

Eventually: TypeAlias = Callable[..., Awaitable[None]]


PATIENCE_S = 10


class Owner(Component):
    """Owns a journal of numbers, and ticks beside it."""

    says: ClassVar = {"d.n.": DURABLE, "d.t.": EPHEMERAL}
    rebuilds: ClassVar = False

    async def store(self, numbers: range, topic: str = "d.n.a") -> None:
        """Commit *numbers*, some hundred in a transaction."""
        for start in range(0, len(numbers), 500):
            await self.commit(*((topic, number) for number in numbers[start : start + 500]))

    @request("owner.write", writes=True)
    async def write(self, number: int) -> int:
        return await self.commit(("d.n.a", number))

    @request("owner.last", at_once=True)
    def tell(self, _: None) -> int:
        return self.journal.last

    @request("owner.state", timeout_s=0.5)
    def tell_state(self, _: None) -> str:
        return "as decided, on disk or not"


class Follower(Component):
    """Follows from the first offset; stores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.replayed = 0
        self.notices: list[Notice] = []
        self.ticks = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached: dict[int, Callable[[], None]] = {}

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    def on_log_notice(self, node: str, notice: Notice) -> None:
        self.notices.append(notice)

    @event("d.n.", durable=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        await self.gate.wait()
        await self.apply(number, meta)
        self.numbers.append(number)
        self.replayed += meta.replay
        if number in self.reached:
            self.reached.pop(number)()

    async def apply(self, number: int, meta: EventMeta) -> None:
        """Do what is to be done with a number."""

    @event("d.t.")
    def on_tick(self, number: int) -> None:
        self.ticks += 1


class Keeper(Follower):
    """Stores each effect with its offset."""

    says: ClassVar = {"k.done": DURABLE}

    async def apply(self, number: int, meta: EventMeta) -> None:
        await self.commit(("k.done", number), applied=meta)


def reader_of(bus: Bus, node: str = "owner") -> Any:
    return bus.peers.readers[node]


def journal_of(mesh: Any, node: str) -> Path:
    path: Path = mesh.paths.state / JOURNALS / f"{node}.sqlite3"
    return path


def digest(numbers: list[int]) -> int:
    """Return what tells whether two consumers have applied the same in the same order."""
    return crc32(" ".join(map(str, numbers)).encode())


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


# --- journals that are not what they were ---


async def test_f15_deleted_journal_is_a_new_log_told_of_and_applied_in_full(
    mesh: Any, eventually: Eventually
) -> None:
    owner, keeper = Owner(), Keeper()
    await mesh.start("owner", owner)
    await mesh.start("keeper", keeper)
    await owner.store(range(1, 6))
    await eventually(lambda: len(keeper.numbers) == 5)
    was = owner.journal.log_id
    mesh.crash("owner")
    for path in journal_of(mesh, "owner").parent.glob("owner.sqlite3*"):
        path.unlink()
    owner = Owner()
    await mesh.start("owner", owner)
    await owner.store(range(11, 14))
    await eventually(lambda: len(keeper.numbers) == 8)
    assert keeper.numbers == [1, 2, 3, 4, 5, 11, 12, 13]
    assert keeper.notices == [Reset(was, owner.journal.log_id)]
    assert keeper.journal.applied("owner")[1:] == (owner.journal.log_id, 3)  # type: ignore[index]  # it has applied
    assert '"kind":"reset"' in (mesh.paths.logs / "error.log").read_text()


async def test_f16_restored_backup_halts_the_stream_and_a_human_is_told(
    mesh: Any, eventually: Eventually
) -> None:
    owner, keeper = Owner(), Keeper()
    await mesh.start("owner", owner)
    bus = await mesh.start("keeper", keeper)
    bus.state = "ready"
    await owner.store(range(1, 4))
    await eventually(lambda: len(keeper.numbers) == 3)
    mesh.crash("owner")  # closed, the file is whole without its write-ahead log
    backup = mesh.paths.home / "backup"
    shutil.copy(journal_of(mesh, "owner"), backup)
    owner = Owner()
    await mesh.start("owner", owner)
    await owner.store(range(4, 9))
    await eventually(lambda: len(keeper.numbers) == 8)
    mesh.crash("owner")
    shutil.copy(backup, journal_of(mesh, "owner"))
    owner = Owner()
    await mesh.start("owner", owner)
    await eventually(lambda: keeper.notices)
    await owner.store(range(104, 114))  # the same offsets again, with another meaning
    await eventually(lambda: bus.heartbeat().state == "degraded")
    assert keeper.notices == [Ahead(8, 3)]
    assert keeper.numbers == list(range(1, 9))
    assert '"kind":"ahead"' in (mesh.paths.logs / "error.log").read_text()


async def test_f17_consumer_that_retention_passes_is_told_and_goes_on_from_what_is_kept(
    mesh: Any, eventually: Eventually
) -> None:
    mesh.retention = Retention(max_bytes=200_000, keep_s=0.0)
    owner, keeper = Owner(), Keeper()
    await mesh.start("owner", owner)
    await mesh.start("keeper", keeper)
    await owner.store(range(1, 6))
    await eventually(lambda: len(keeper.numbers) == 5)
    mesh.crash("keeper")
    await owner.store(range(6, 6_001))
    await eventually(lambda: owner.journal.first > 1_000)
    first = owner.journal.first
    keeper = Keeper()
    await mesh.start("keeper", keeper)
    await eventually(lambda: keeper.numbers[-1:] == [6_000])
    (gone,) = keeper.notices
    assert isinstance(gone, Gone)
    assert gone.after == 5
    assert first <= gone.first
    assert keeper.numbers == list(range(gone.first, 6_001))
    assert journal_of(mesh, "owner").stat().st_size < 4_000_000
    assert '"kind":"gone"' in (mesh.paths.logs / "error.log").read_text()


async def test_f17_consumer_for_whom_nothing_came_for_long_is_not_told_of_a_loss(
    mesh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.runtime.durable.SETTLE_S", 0.0)
    mesh.retention = Retention(max_bytes=200_000, keep_s=0.0)
    owner, keeper = OfTwoKinds(), Keeper()
    await mesh.start("owner", owner)
    bus = await mesh.start("keeper", keeper)
    await eventually(lambda: "owner" in bus.peers.readers)
    await eventually(lambda: reader_of(bus).catchup.stage is LIVE)
    await owner.store(range(1, 6))
    await eventually(lambda: stored_offset(keeper) == 5)
    await owner.store(range(6, 3_001), "d.q.a")  # nothing that the keeper hears
    await eventually(lambda: stored_offset(keeper) == 3_000)
    # Retention spares what the owner knows not to be applied: the ack must have come.
    await eventually(lambda: any(a.offset == 3_000 for a in owner.journal.acked().values()))
    mesh.crash("keeper")
    await owner.store(range(3_001, 3_101))
    await eventually(lambda: owner.journal.first > 1_000)
    keeper = Keeper()
    await mesh.start("keeper", keeper)
    await eventually(lambda: keeper.numbers[-1:] == [3_100])
    assert keeper.numbers == list(range(3_001, 3_101))
    assert keeper.notices == []


class OfTwoKinds(Owner):
    """Owns a journal of numbers for some and numbers for others."""

    says: ClassVar = {**Owner.says, "d.q.": DURABLE}


def stored_offset(keeper: Keeper) -> int:
    applied = keeper.journal.applied("owner")
    return 0 if applied is None else applied.offset


# --- disks ---


@contextmanager
def stuck(journal: Journal) -> Iterator[Callable[[], None]]:
    """Let the writer of *journal* stay in its next statement until the yielded is called."""
    go_on = threading.Event()
    journal._db.set_progress_handler(lambda: not go_on.wait(PATIENCE_S), 1)
    try:
        yield go_on.set
    finally:
        go_on.set()


async def test_f18_full_disk_refuses_what_is_new_and_goes_on_when_there_is_space(
    mesh: Any, eventually: Eventually
) -> None:
    owner, keeper = Owner(), Keeper()
    bus = await mesh.start("owner", owner)
    bus.state = "ready"
    await mesh.start("keeper", keeper)
    await owner.store(range(1, 4))
    await eventually(lambda: len(keeper.numbers) == 3)
    await fill(owner, eventually)
    stored = owner.journal.last
    with pytest.raises(Unavailable, match="full") as refused:
        await owner.commit(("d.n.a", -1))
    assert refused.value.executed == "no"
    assert bus.heartbeat().state == "degraded"
    with pytest.raises(Unavailable, match="full"):
        await keeper.call("owner.write", -2, int)
    assert await keeper.call("owner.last", None, int) == stored  # reads work
    owner.emit("d.t.a", 1)
    await eventually(lambda: keeper.ticks == 1)
    bus.durable_log.full = False  # as at a disk that has just filled up: nothing is refused yet
    decided = bus.spawn(committed(owner, 1_000_000), "decided")
    assert await keeper.call("owner.last", None, int) == stored  # tells only what is stored
    for method, body in (("owner.state", None), ("mesh.request", ["owner.state", None])):
        with pytest.raises(OutcomeUnknown):  # what was decided is not to be known yet
            await keeper.call(method, body, str, target="owner", timeout_s=0.5)
    await eventually(lambda: bus.durable_log.full)  # the decided one has been tried
    assert not decided.done()
    owner.journal._db.execute("pragma max_page_count=1000000")
    async with asyncio.timeout(10):
        await decided
    assert bus.heartbeat().state == "ready"
    assert await keeper.call("owner.state", None, str)
    assert await keeper.call("owner.write", 1_000_001, int) == stored + 2
    await eventually(lambda: keeper.numbers[-1:] == [1_000_001])
    assert keeper.numbers == [*range(1, stored + 1), 1_000_000, 1_000_001]


async def committed(owner: Owner, number: int) -> None:
    await owner.commit(("d.n.a", number), patient=True)


async def fill(owner: Owner, eventually: Eventually) -> None:
    """Leave no page of the file to the journal; store what fits into the last one."""
    await owner.bus.durable_log.settled()  # type: ignore[attr-defined]  # a Bus
    owner.journal._db.execute("pragma max_page_count=1")  # as many as there are
    while True:
        try:
            await owner.commit(("d.n.a", owner.journal.last + 1))
        except Unavailable:
            return


async def test_f19_commit_that_is_stuck_stops_neither_the_loop_nor_other_events(
    mesh: Any, eventually: Eventually
) -> None:
    owner, follower = Owner(), Follower()
    bus = await mesh.start("owner", owner)
    await mesh.start("follower", follower)
    await owner.store(range(1, 4))
    await eventually(lambda: len(follower.numbers) == 3)
    with stuck(owner.journal) as release:
        storing = bus.spawn(owner.store(range(4, 5)), "store")
        await eventually(lambda: bus.durable_log.pending)
        for number in range(500):
            owner.emit("d.t.a", number)
            await asyncio.sleep(0)
        await eventually(lambda: follower.ticks == 500)
        assert not storing.done()
        assert follower.numbers == [1, 2, 3]  # not on disk, so not known
        release()
        async with asyncio.timeout(PATIENCE_S):
            await storing
    await eventually(lambda: follower.numbers == [1, 2, 3, 4])


@pytest.mark.system
def test_f20_failed_write_ends_the_process_with_70_and_a_restart_recovers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    try:
        owner = home.up("speaker", "counter", per_s=200)
        home.up("hearer", "applier")
        until(lambda: home.newest("hearer") > 20)
        size = home.journal("speaker").with_name("speaker.sqlite3-wal").stat().st_size
        resource.prlimit(owner.pid, resource.RLIMIT_FSIZE, (size, size))  # the next write fails
        assert owner.wait(15) == 70
        home.kill("speaker")
        assert "storage_failed" in home.log()
        home.up("speaker", "counter", per_s=200)
        survived = home.newest("speaker")
        until(lambda: home.newest("hearer") > survived + 20)
        home.kill("speaker")
        home.up("speaker", "counter")  # says nothing new
        truth = home.recorded("speaker")
        until(lambda: home.newest("hearer") == len(truth))
        assert home.recorded("hearer") == truth == list(range(1, len(truth) + 1))
    finally:
        home.close()


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
