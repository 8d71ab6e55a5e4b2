"""The rows of journals that are lost, old, cut or cannot grow, and of those who follow them."""

import asyncio
import resource
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.errors import OutcomeUnknown, Unavailable
from mesh.protocol.catchup import LIVE, Ahead, Gone, Reset
from mesh.protocol.control import DURABLE
from mesh.storage.journal import Retention
from tests.chaos.process.homes import Home, until
from tests.integration.numbers import (
    PATIENCE_S,
    Follower,
    Keeper,
    Owner,
    journal_of,
    reader_of,
    stuck,
)

Eventually: TypeAlias = Callable[..., Awaitable[None]]


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
    # It may be told once more what it learned of a HEAD said before; all but that is there.
    gone = [notice for notice in keeper.notices if isinstance(notice, Gone)]
    assert gone == keeper.notices
    assert gone[0].after == 5
    assert first <= gone[-1].first
    ends = [*(notice.after for notice in gone[1:]), 6_000]
    kept = [range(notice.first, end + 1) for notice, end in zip(gone, ends, strict=True)]
    assert keeper.numbers == [number for numbers in kept for number in numbers]
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
