"""Consumers that are too slow: what is skipped, what waits, and when a node gives up."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.protocol.catchup import RANGE, READY_MAX, WINDOW
from mesh.protocol.control import DURABLE, EPHEMERAL
from mesh.runtime.component import Component, EventMeta, event
from tests.chaos.process.homes import Home, until

Eventually: TypeAlias = Callable[..., Awaitable[None]]

TOPICS = ("s.t.a", "s.t.b", "s.t.c")
EACH = 2_000  # events of each topic


class Speaker(Component):
    """Says numbers on three topics, or commits them."""

    says: ClassVar = {"s.t.": EPHEMERAL, "s.n.": DURABLE}

    async def say_many(self) -> None:
        for number in range(1, EACH + 1):
            for topic in TOPICS:
                self.emit(topic, number)
            if number % 10 == 0:
                await asyncio.sleep(0)

    async def store(self, count: int) -> None:
        for start in range(1, count + 1, 1_000):
            await self.commit(*(("s.n.a", number) for number in range(start, start + 1_000)))


class Fast(Component):
    """Keeps all it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, list[int]] = {topic: [] for topic in TOPICS}

    @event("s.t.")
    def on_number(self, number: int, meta: EventMeta) -> None:
        self.heard[meta.topic].append(number)


class Slow(Component):
    """Works on each event longer than until the next ones come; wants only the newest."""

    def __init__(self) -> None:
        super().__init__()
        self.handled: dict[str, list[int]] = {topic: [] for topic in TOPICS}
        self.skipped: Counter[str] = Counter()
        self.pending_max = 0

    @event("s.t.", conflate=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        self.handled[meta.topic].append(number)
        self.skipped[meta.topic] += meta.skipped
        for _ in range(5):  # meanwhile five turns of events come in
            await asyncio.sleep(0)
        handling = self.bus.paces.handlings[0]  # type: ignore[attr-defined]  # a Bus
        self.pending_max = max(self.pending_max, len(handling._newest))


async def test_f6_slow_consumer_skips_what_is_old_counts_it_and_disturbs_nobody(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, slow, fast = Speaker(), Slow(), (Fast(), Fast())
    bus = await mesh.start("speaker", speaker)
    await mesh.start("slow", slow)
    for name, component in zip(("one", "two"), fast, strict=True):
        await mesh.start(name, component)
    for name in ("slow", "one", "two"):
        feeds = mesh.running[name][0].peers.feeds
        await eventually(lambda feeds=feeds: feeds["speaker", "e"].subscriber.live)
    await bus.spawn(speaker.say_many(), "stream")
    await eventually(lambda: all(slow.handled[topic][-1:] == [EACH] for topic in TOPICS))
    await eventually(lambda: all(len(f.heard[topic]) == EACH for f in fast for topic in TOPICS))
    for topic in TOPICS:
        assert len(slow.handled[topic]) + slow.skipped[topic] == EACH
        assert slow.handled[topic] == sorted(set(slow.handled[topic]))
        assert slow.skipped[topic] > EACH / 2  # it was slow indeed
        assert all(f.heard[topic] == list(range(1, EACH + 1)) for f in fast)
    assert slow.pending_max <= len(TOPICS)  # all the memory it takes
    paces = mesh.running["slow"][0].paces.counters()
    assert paces["conflated"] == slow.skipped.total()


class Careful(Component):
    """Applies numbers when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.waiting_max = 0
        self.gate = asyncio.Event()

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("s.n.", durable=True)
    async def on_number(self, number: int) -> None:
        await self.gate.wait()
        self.numbers.append(number)
        (reader,) = self.bus.peers.readers.values()  # type: ignore[attr-defined]  # a Bus
        self.waiting_max = max(self.waiting_max, len(reader.catchup.ready))


async def test_f7_slow_consumer_of_a_durable_stream_fetches_what_it_can_hold_and_applies_all_once(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, careful = Speaker(), Careful()
    await mesh.start("speaker", speaker)
    await speaker.store(12_000)
    bus = await mesh.start("careful", careful)
    await eventually(lambda: "speaker" in bus.peers.readers)
    catchup = bus.peers.readers["speaker"].catchup
    await eventually(lambda: catchup.ready and not catchup._asked)
    assert len(catchup.ready) <= 2 * WINDOW * RANGE  # no more while nothing is taken out of it
    assert catchup.lag == 12_000
    assert bus.heartbeat().figures["lag_events"] == 12_000
    careful.gate.set()
    await eventually(lambda: len(careful.numbers) == 12_000)
    assert careful.numbers == list(range(1, 12_001))
    assert careful.waiting_max <= READY_MAX + WINDOW * RANGE
    assert catchup.lag == 0


@pytest.mark.system
def test_f8_node_whose_events_are_too_old_for_too_long_is_degraded_and_then_makes_way(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    try:
        home.up("watcher", "watcher")
        home.up("speaker", "counter", per_s=500)
        snail = home.up("snail", "snail")
        assert snail.wait(15) == 71
        home.kill("snail")
        assert "events of x.t. were too old for too long" in home.log()
        told = [state for node, state in home.recorded("watcher") if node == "snail"]
        assert told[-1] == "degraded"
        home.up("snail", "hearer")  # it begins anew without further ado
        until(lambda: ["snail", "ready"] in home.recorded("watcher")[-2:])
        assert [home.stop(node) for node in list(home.nodes)] == [0, 0, 0]
    finally:
        home.close()
