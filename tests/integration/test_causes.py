"""Causes over real sockets: A says, B says or asks because of it, C knows what led to that."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import msgpack
import pytest

from mesh.protocol import envelope
from mesh.protocol.cause import Cause, root_trace, trace_text
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.protocol.envelope import TRACED, Event
from mesh.runtime.component import Component, EventMeta, because, cause_now, event, request
from tests.integration.conftest import LocalMesh

Eventually = Callable[..., Awaitable[None]]


class Root(Component):
    """A: says roots, each with its own number as the value."""

    says: ClassVar = {"r.": EPHEMERAL}


class Middle(Component):
    """B: says m.<way> because of r.<way>, by every way there is."""

    says: ClassVar = {"m.": EPHEMERAL, "v.": LASTVALUE, "d.": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.work: asyncio.Queue[tuple[int, Cause | None]] = asyncio.Queue()

    async def on_start(self) -> None:
        self.spawn(self.work_off(), "work off")

    async def work_off(self) -> None:
        while True:
            first = await self.work.get()
            todo = [first, *(self.work.get_nowait() for _ in range(self.work.qsize()))]
            assert cause_now() is None
            await self.commit(*(("d.queue", value, cause) for value, cause in todo))
            for value, cause in todo:
                with because(cause):
                    self.emit("m.queue", value)

    @event("r.lane")
    def on_lane(self, value: int) -> None:
        self.emit("m.lane", value)

    @event("r.told")
    def on_told(self, value: int, meta: EventMeta) -> None:
        self.log.info("told", value=value)
        self.emit("m.told", value)

    @event("r.later")
    async def on_later(self, value: int) -> None:
        await asyncio.sleep(0)
        self.emit("m.later", value)

    @event("r.newest", conflate=True)
    async def on_newest(self, value: int) -> None:
        await asyncio.sleep(0)
        self.emit("m.newest", value)

    @event("r.batch", batch=True)
    def on_batch(self, values: list[int], meta: EventMeta) -> None:
        self.emit("m.batch", values[-1])

    @event("r.task")
    def on_task(self, value: int) -> None:
        self.spawn(self.say("m.task", value), "say")

    @event("r.last")
    def on_last(self, value: int) -> None:
        self.emit("v.last", value)

    @event("r.queue")
    def on_queue(self, value: int) -> None:
        self.work.put_nowait((value, cause_now()))

    @event("r.disk")
    async def on_disk(self, value: int) -> None:
        await self.commit(("d.disk", value))

    @event("r.ask")
    async def on_ask(self, value: int) -> None:
        assert await self.call("c.double", value, int) == 2 * value

    async def say(self, topic: str, value: int) -> None:
        await asyncio.sleep(0)
        self.emit(topic, value)


class Last(Component):
    """C: keeps what it hears of them, and says a third thing."""

    says: ClassVar = {"c.": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, EventMeta]] = []

    def applied_offset(self, node: str, log_id: str) -> int:
        return 0

    @event("m.")
    @event("v.")
    def on_event(self, value: int, meta: EventMeta) -> None:  # type: ignore[override]  # typed
        self.heard.append((value, meta))

    @event("d.", durable=True)
    async def on_record(self, value: int, meta: EventMeta) -> None:
        self.heard.append((value, meta))
        await self.commit(("c.record", value), applied=meta)

    @request("c.double")
    async def double(self, value: int) -> int:
        await self.commit(("c.asked", value))
        return 2 * value

    def records(self, topic: str) -> list[Event]:
        frames = [frame for _, at, _, frame in self.journal.read() if at == topic]
        return [envelope.decode_event(frame) for frame in frames]


@pytest.fixture
async def three(mesh: LocalMesh, eventually: Eventually) -> tuple[Root, Middle, Last]:
    root, middle, last = Root(), Middle(), Last()
    await mesh.start("a", root)
    await mesh.start("b", middle)
    await mesh.start("c", last)
    value = 0

    def through() -> bool:
        nonlocal value
        value -= 1  # a topic of its own: what follows begins at 1
        root.emit("r.told.warm", value)
        return bool(last.heard)

    await eventually(through)
    await eventually(lambda: last.heard[-1][0] == value)
    last.heard.clear()
    return root, middle, last


def nid(node: str) -> int:
    return envelope.node_id("test", node)


def root_cause(root: Root, topic: str, seq: int, meta: Any) -> Cause:
    """Return what tells of the root with that number, as *meta* has the time."""
    trace = root_trace(nid("a"), root.epoch, seq, topic)
    return Cause(trace, nid("a"), root.epoch, seq, topic, meta.ts_recv)


@pytest.mark.parametrize("way", ["lane", "told", "later", "task", "queue", "last"])
async def test_what_a_handler_says_tells_exactly_which_event_made_it(
    three: tuple[Root, Middle, Last], eventually: Eventually, way: str
) -> None:
    root, _, last = three
    topic, said = f"r.{way}", "v.last" if way == "last" else f"m.{way}"
    for seq in range(1, 4):  # one by one: frames of their own
        root.emit(topic, seq)
        await eventually(lambda seq=seq: last.heard and last.heard[-1][0] == seq)
    for seq in range(4, 40):  # at once: bundles
        root.emit(topic, seq)
    await eventually(lambda: last.heard[-1][0] == 39)
    heard = [(value, meta) for value, meta in last.heard if meta.topic == said]
    assert [value for value, _ in heard] == list(range(1, 40))
    for value, meta in heard:
        assert meta.cause == root_cause(root, topic, value, meta)
        assert meta.trace == meta.cause.trace
        assert 0 < meta.ts_recv <= meta.ts_sent


@pytest.mark.parametrize("way", ["newest", "batch"])
async def test_of_several_the_newest_is_the_cause(
    three: tuple[Root, Middle, Last], eventually: Eventually, way: str
) -> None:
    root, _, last = three
    for seq in range(1, 40):
        root.emit(f"r.{way}", seq)
    await eventually(lambda: last.heard and last.heard[-1][0] == 39)
    for value, meta in last.heard:
        assert meta.cause == root_cause(root, f"r.{way}", value, meta)


async def test_one_topic_may_be_said_with_and_without_a_cause(
    three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, middle, last = three
    middle.emit("m.told", 0)
    root.emit("r.told", 1)
    await eventually(lambda: len(last.heard) == 2)
    middle.emit("m.told", 2)
    await eventually(lambda: len(last.heard) == 3)
    causes = {value: meta.cause for value, meta in last.heard}
    assert (causes[0], causes[2]) == (None, None)
    assert causes[1] == root_cause(root, "r.told", 1, last.heard[1][1])


async def test_ts_recv_is_carried_along_and_an_authors_own_is_kept(
    three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, _, last = three
    root.emit("r.told", 1, ts_recv=1_000)
    await eventually(lambda: last.heard)
    assert last.heard[0][1].ts_recv == 1_000


async def test_records_tell_of_their_causes_from_disk_to_disk(
    three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, middle, last = three
    root.emit("r.disk", 1)
    root.emit("r.disk", 2)
    await eventually(lambda: len(last.records("c.record")) == 2)
    for seq, (value, meta) in enumerate(last.heard, 1):
        assert (value, meta.offset) == (seq, seq)
        assert meta.cause == root_cause(root, "r.disk", seq, meta)
        (third,) = [r for r in last.records("c.record") if r.payload == bytes([seq])]
        assert third.cause == Cause(
            meta.trace, nid("b"), middle.epoch, meta.offset, "d.disk", meta.ts_recv
        )


async def test_one_commit_holds_records_of_several_causes(
    three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, _, last = three
    for seq in range(1, 20):
        root.emit("r.queue", seq)
    await eventually(lambda: len([1 for _, meta in last.heard if meta.topic == "d.queue"]) == 19)
    for value, meta in last.heard:
        assert meta.cause == root_cause(root, "r.queue", value, meta)


async def test_what_is_replayed_tells_of_the_same_causes(
    mesh: LocalMesh, three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, _, last = three
    root.emit("r.disk", 1)
    await eventually(lambda: last.heard)
    told = last.heard[0][1]
    mesh.crash("c")
    (mesh.paths.state / "journals" / "c.sqlite3").unlink()
    again = Last()
    await mesh.start("c", again)
    await eventually(lambda: again.records("c.record"))
    ((_, meta),) = again.heard
    assert meta.replay
    assert (meta.cause, meta.trace, meta.ts_recv) == (told.cause, told.trace, told.ts_recv)
    assert again.records("c.record")[0].cause == told.follows()


async def test_a_request_hands_the_trace_on_and_is_the_cause_of_what_its_handler_does(
    three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, middle, last = three
    root.emit("r.ask", 7, ts_recv=5_000)
    await eventually(lambda: last.records("c.asked"))
    (asked,) = last.records("c.asked")
    assert asked.cause is not None
    assert asked.cause.trace == root_trace(nid("a"), root.epoch, 1, "r.ask")
    assert (asked.cause.nid, asked.cause.epoch) == (nid("b"), middle.epoch)
    assert (asked.cause.name, asked.ts_recv) == ("c.double", 5_000)
    assert asked.cause.number > 0


async def test_a_request_without_a_cause_is_a_root_of_its_own(
    three: tuple[Root, Middle, Last],
) -> None:
    root, _, last = three
    for value in (1, 2):
        await root.call("c.double", value, int)
    first, second = (record.cause for record in last.records("c.asked"))
    assert first is not None
    assert second is not None
    assert (first.nid, first.name) == (nid("a"), "c.double")
    assert second.number > first.number
    assert second.trace != first.trace


async def test_log_lines_carry_the_trace_while_there_is_one(
    mesh: LocalMesh, three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, middle, last = three
    root.emit("r.told", 1)
    await eventually(lambda: last.heard)
    middle.log.info("idle")
    lines = [json.loads(line) for line in (mesh.paths.logs / "app.log").read_text().splitlines()]
    (told,) = [line for line in lines if line["fields"].get("value") == 1]
    assert told["trace"] == trace_text(last.heard[0][1].trace)
    assert "trace" not in next(line for line in lines if line["event"] == "idle")


async def test_an_ext_that_is_no_cause_is_counted_and_what_comes_behind_it_is_heard(
    mesh: LocalMesh, three: tuple[Root, Middle, Last], eventually: Eventually
) -> None:
    root, _, last = three
    bus = mesh.running["a"][0]
    before = rejects(mesh)
    bad = Event("r.told", 0, 0, 0, 0, b"\x01", TRACED, ext=msgpack.packb({2: "x", 3: []}))
    bus._planes.events.publish(bad)
    root.emit("r.told", 2)
    await eventually(lambda: last.heard)
    assert [value for value, _ in last.heard] == [2]
    assert rejects(mesh) == before + 1


def rejects(mesh: LocalMesh) -> float:
    return mesh.running["b"][0].peers.counters()["rejects"]
