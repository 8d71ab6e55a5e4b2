"""What a node's log learns by itself: what retention deleted, whom it lost, that its disk failed.

One real journal and its writer thread; nobody publishes and nobody commits meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.errors import Unavailable
from mesh.protocol.commits import Applied, GroupCommit
from mesh.protocol.control import DURABLE, Ack
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.runtime.component import Component
from mesh.runtime.streams import DurableLog, Ticket
from mesh.storage.journal import Journal, Retention
from mesh.transport.pubsub import DURABLE_CAP_BYTES

Eventually: TypeAlias = Callable[..., Awaitable[None]]

NOTHING_KEPT = Retention(max_bytes=0, keep_s=0.0)


class Log:
    """A log without sockets, and what it told."""

    def __init__(self, path: Path) -> None:
        self.fatal: list[BaseException] = []
        self.lost: list[str] = []
        self.journal = Journal(path, keep=NOTHING_KEPT)
        self.commits: GroupCommit[Ticket] = GroupCommit(
            Outbound(7, 1, DURABLE_CAP_BYTES), "owner", self.journal.log_id, 1, 0
        )
        self.durable = DurableLog(
            asyncio.get_running_loop(),
            self.journal,
            self.commits,
            None,
            self.fatal.append,
            self.lost.append,
        )

    async def store(self, number: int) -> None:
        """Store so many events."""
        await self.durable.store(tuple(Event("d.a", 0, 7, 1, 0, b"\x01") for _ in range(number)))

    async def ack(self, consumer: str, offset: int, log_id: str = "") -> None:
        await self.durable.ack(consumer, Ack(log_id or self.journal.log_id, offset))


@pytest.fixture
async def log(tmp_path: Path) -> Any:
    log = Log(tmp_path / "owner.sqlite3")
    yield log
    log.durable.close()


async def test_f17_consumer_that_retention_passes_is_told_of_while_nothing_is_published(
    log: Log, eventually: Eventually
) -> None:
    await log.store(10)
    await log.ack("gateway", 2)
    await log.ack("recorder", 8)
    log.journal.floor = 8  # only now, so that the writer is idle when it finds out
    await eventually(lambda: log.lost == ["gateway"])
    assert log.durable.counters()["consumers_lost"] == 1
    (stream,) = log.commits.outbound.streams
    assert (stream.first, stream.last) == (9, 10)  # as the next heartbeat tells


async def test_f20_writer_that_fails_while_idle_is_told_of_once(
    log: Log, eventually: Eventually
) -> None:
    await log.store(10)
    log.journal._db.close()  # the next checkpoint meets it
    await eventually(lambda: log.fatal)
    assert log.fatal == [log.journal.failure]


@pytest.mark.parametrize("offset", [-1, 4, 1 << 62])
async def test_ack_of_what_never_was_is_a_reject_and_holds_nothing(log: Log, offset: int) -> None:
    await log.store(3)
    await log.ack("recorder", offset)
    assert (log.durable.rejects, log.journal.acked()) == (1, {})


async def test_ack_of_another_log_is_none_of_ours(log: Log) -> None:
    await log.ack("recorder", 3, "0123456789abcdef")
    assert (log.durable.rejects, log.journal.acked()) == (0, {})


async def test_f18_only_decisions_let_others_wait_for_the_disk(log: Log) -> None:
    """An ack or a dead letter on a full disk used to hold back every answer and last value."""
    done: list[str] = []
    entry = Applied("recorder", log.journal.log_id, 0)
    stored = [
        asyncio.ensure_future(log.durable.store(acks=(entry,), decided=False)),
        asyncio.ensure_future(log.store(1)),
    ]
    await asyncio.sleep(0)  # both are with the writer or behind it
    assert log.durable.pending
    log.durable.when_settled("v.x", lambda: done.append("told"))
    assert done == []
    await asyncio.gather(*stored)
    assert (done, log.durable.pending) == (["told"], False)
    acked = asyncio.ensure_future(log.durable.store(acks=(entry,), decided=False))
    await asyncio.sleep(0)
    log.durable.when_settled("v.x", lambda: done.append("told"))
    assert (len(done), log.durable.pending, acked.done()) == (2, False, False)
    await acked


async def test_f18_what_waited_for_a_refused_decision_waits_no_longer(log: Log) -> None:
    """It used to wait until something else was stored: on a full disk, for ever."""
    await log.store(3)
    log.journal._db.execute("pragma max_page_count=1")  # no more pages than there are
    done: list[str] = []
    with pytest.raises(Unavailable):
        await store_until_full(log, done)
    assert done == ["told"]
    decided = Event("d.a", 0, 7, 1, 0, b"\x02" * 3_000)
    patient = asyncio.ensure_future(log.durable.store((decided,) * 9, patient=True))
    await asyncio.sleep(0)
    log.durable.when_settled("v.x", lambda: done.append("again"))
    with pytest.raises(Unavailable):
        await log.store(50)
    assert done == ["told"]  # the decided one still waits for space
    log.journal._db.execute("pragma max_page_count=1000000")
    await patient
    assert done == ["told", "again"]


async def test_closed_log_refuses_and_nobody_waits_for_it(log: Log) -> None:
    log.durable.close()
    with pytest.raises(Unavailable, match="closed") as refused:
        await asyncio.wait_for(log.durable.store(patient=True), 5.0)
    assert refused.value.executed == "no"


async def test_of_each_topic_the_newest_last_value_waits_for_the_disk(log: Log) -> None:
    """Of many topics the oldest used to be forgotten, also if they had only one value."""
    done: list[tuple[int, int]] = []
    storing = asyncio.ensure_future(log.store(1))
    await asyncio.sleep(0)
    for turn in (1, 2):
        for topic in range(5_000):
            log.durable.when_settled(f"v.{topic}", partial(done.append, (topic, turn)))
    await storing
    assert done == [(topic, 2) for topic in range(5_000)]


async def store_until_full(log: Log, done: list[str]) -> None:
    """Store, with something that waits for the last of it."""
    while True:
        storing = asyncio.ensure_future(log.store(50))
        await asyncio.sleep(0)
        done.clear()
        log.durable.when_settled("v.x", lambda: done.append("told"))
        await storing


# --- what a node itself needs of its journal ---


class Rebuilt(Component):
    """Is made from its journal at every start."""

    says: ClassVar = {"d.": DURABLE}


class Told(Rebuilt):
    """Writes its journal only for others."""

    rebuilds: ClassVar = False


async def test_f17_journal_of_a_node_that_rebuilds_from_it_loses_only_what_was_released(
    mesh: Any, eventually: Eventually
) -> None:
    mesh.retention = NOTHING_KEPT
    rebuilt, told = Rebuilt(), Told()
    await mesh.start("rebuilt", rebuilt)
    await mesh.start("told", told)
    for component in (rebuilt, told):
        await component.commit(*(("d.a", number) for number in range(1, 11)))
    await eventually(lambda: told.journal.first == 11)  # both writers idle alike
    assert rebuilt.journal.first == 1
    rebuilt.release(4)
    rebuilt.release(2)  # it is not needed again
    await eventually(lambda: rebuilt.journal.first == 5)
    mesh.stop("rebuilt")
    again = Rebuilt()
    await mesh.start("rebuilt", again)
    assert [record.offset for record in again.journal.read()] == [5, 6, 7, 8, 9, 10]
