"""LoopbackMesh: nodes as they are, in simulated time."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from mesh import clock
from mesh.errors import (
    Denied,
    Invalid,
    LocalProtocolError,
    MeshError,
    NoService,
    OutcomeUnknown,
    StorageError,
    Unavailable,
)
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.protocol.mode import NORMAL, SAFE
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.settings import ROOT
from mesh.sim.loopback import LoopbackMesh


class Price(msgspec.Struct, frozen=True, array_like=True):
    name: str
    at: Decimal


class Echo(Component):
    """Says again what it hears, and answers."""

    says: ClassVar = {"x.echo.": EPHEMERAL, "x.last.": LASTVALUE}
    schemas: ClassVar = {Price: 0x7F01}

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.stopped = False

    @event("x.in.")
    def on_price(self, price: Price, meta: EventMeta) -> None:
        self.heard.append((price, meta.snapshot, meta.tombstone))
        if not meta.tombstone:
            self.emit("x.echo." + price.name, price)
            self.emit("x.last." + price.name, price.at)

    @event("x.bad.")
    def on_bad(self, _: Any) -> None:
        self.emit("y.nobody.declared.this", 1)

    @event("x.slow.", conflate=True)
    async def on_slow(self, number: int, meta: EventMeta) -> None:
        self.heard.append((number, meta.skipped))
        await asyncio.sleep(1.0)

    @request("echo.price")
    async def price(self, price: Price, caller: str) -> Price:
        await asyncio.sleep(0.1)
        return price

    @request("echo.buggy")
    def buggy(self, _: None) -> None:
        raise ValueError("a bug")

    @request("echo.endless")
    async def endless(self, _: None) -> None:
        await asyncio.Event().wait()

    @request("echo.drip")
    async def drip(self, pause_s: float) -> AsyncIterator[int]:
        for number in range(100):
            yield number
            await asyncio.sleep(pause_s)

    async def process_request(self, request_type: str, data: Any, source: str) -> Any:
        if request_type == "hang":
            await asyncio.Event().wait()
        return await super().process_request(request_type, data, source)

    @request("echo.ask")
    async def ask(self, _: None) -> int:
        return await self.call("analysis.history", None, int, timeout_s=0.5)

    @request("echo.count")
    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @request("echo.mode")
    def what_mode(self, _: None) -> str:
        return self.mode

    async def on_event(self, event_type: str, data: Any, source: str) -> None:
        self.heard.append((event_type, data, source))

    async def on_stop(self) -> None:
        self.stopped = True


class Tally(Component):
    """Adds up durable numbers; every sum is on its disk with the offset it is of."""

    says: ClassVar = {"x.sum": DURABLE}

    def __init__(self, *, crash_at: int | None = None) -> None:
        super().__init__()
        self.sum, self._crash_at = 0, crash_at
        self.seen: list[int] = []

    def applied_offset(self, node: str, log_id: str) -> int:
        return 0

    async def on_start(self) -> None:
        for stored in self.journal.read():
            if stored.topic == "x.sum":
                self.sum += 1

    @event("x.number", durable=True)
    async def on_number(self, number: int, meta: EventMeta) -> None:
        self.seen.append(number)
        if number == self._crash_at:
            await asyncio.Event().wait()
        if number < 0:
            raise ValueError("never a negative one")
        self.sum += 1
        await self.commit(("x.sum", self.sum), applied=meta)

    @request("tally.add", kind="keyed", writes=True)
    async def add(self, number: int) -> int:
        total = self.sum + number
        await self.commit(("x.sum", total), reply=total)
        self.sum = total
        return total


@pytest.fixture
def mesh() -> Iterator[LoopbackMesh]:
    with LoopbackMesh() as mesh:
        yield mesh


ONE = Price("a", Decimal("1.50"))


def test_a_node_says_what_follows_from_what_it_hears(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    mesh.publish("x.in.a", ONE)
    assert mesh.said("x.echo.") == [("x.echo.a", ONE)]  # of a declared schema
    assert mesh.said("x.last.", Decimal) == [("x.last.a", Decimal("1.50"))]
    assert mesh.said("x.last.") == [("x.last.a", "1.50")]  # as any hearer without a type


def test_a_call_takes_simulated_time_and_no_other(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    before, began = clock.monotonic_s(), time.monotonic()
    assert mesh.call("echo.price", ONE, Price) == ONE
    mesh.advance(100.0 - clock.monotonic_s() + before)
    assert clock.monotonic_s() - before == pytest.approx(100.0)
    assert time.monotonic() - began < 50.0  # of a second or two; a real one would take all


def test_the_times_are_simulated_until_the_mesh_ends() -> None:
    with LoopbackMesh() as mesh:
        wall = clock.wall_ns()
        mesh.advance(1.5)
        assert clock.wall_ns() - wall == 1_500_000_000
        assert mesh.me.now_ns() == clock.wall_ns()
    assert abs(clock.wall_ns() - time.time_ns()) < 60 * 10**9


def test_a_handler_that_never_ends_is_cut_at_the_deadline(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    began = clock.monotonic_s()
    with pytest.raises(OutcomeUnknown):
        mesh.call("echo.endless", None, type(None), timeout_s=1.5)
    assert clock.monotonic_s() - began == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("method", ["hang", "echo.endless"])
def test_an_untyped_request_ends_after_two_seconds(mesh: LoopbackMesh, method: str) -> None:
    mesh.start("echo", Echo())
    began = clock.monotonic_s()
    with pytest.raises(OutcomeUnknown):
        mesh.run(mesh.me.request("echo", method, None))
    assert clock.monotonic_s() - began == pytest.approx(2.0, abs=0.01)


def test_a_reply_in_parts_has_an_end_for_the_whole_of_it(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    taken: list[int] = []

    async def take(pause_s: float) -> None:
        async for number in mesh.me.stream("echo.drip", pause_s, int, timeout_s=1.0):
            taken.append(number)  # noqa: PERF401  # it ends by an error

    began = clock.monotonic_s()
    with pytest.raises(OutcomeUnknown):
        mesh.run(take(0.3))
    assert clock.monotonic_s() - began == pytest.approx(1.0, abs=0.01)
    assert taken == [0, 1, 2, 3]
    with pytest.raises(OutcomeUnknown):
        mesh.run(take(60.0))


def test_a_stop_ends_though_on_stop_does_not(mesh: LoopbackMesh) -> None:
    class Clinging(Component):
        async def on_stop(self) -> None:
            await asyncio.Event().wait()

    mesh.start("clinging", Clinging())
    began = clock.monotonic_s()
    mesh.stop("clinging")
    assert clock.monotonic_s() - began == pytest.approx(10.0, abs=0.1)
    assert [line.event for line in mesh.logged("clinging")] == ["drain_cut_short"]


def test_a_disk_that_hangs_ends_the_node_and_all_who_wait(mesh: LoopbackMesh) -> None:
    tally = Tally()
    mesh.start("tally", tally)
    mesh._disks["tally"].sync_s = 3_600.0
    with pytest.raises(StorageError, match="still writing after 30 s"):
        mesh.call("tally.add", 1, int, key="k", timeout_s=300.0)


def test_errors_are_those_of_the_mesh(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    with pytest.raises(NoService):
        mesh.call("nobody.serves", None, int)
    with pytest.raises(Invalid):
        mesh.call("echo.price", 5, Price)
    with pytest.raises(MeshError, match="ValueError in the handler"):
        mesh.call("echo.buggy", None, type(None))
    assert [line.event for line in mesh.logged("echo") if line.level == "ERROR"] == [
        "handler_failed"
    ]


def test_parts_come_one_by_one(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())

    async def counted() -> list[int]:
        return [number async for number in mesh.me.stream("echo.count", 100, int)]

    assert mesh.run(counted()) == list(range(100))


def test_what_nobody_serves_is_answered_or_refused_by_the_test(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    with pytest.raises(NoService):
        mesh.call("echo.ask", None, int)
    mesh.answer("analysis.history", lambda _: 7)
    assert mesh.call("echo.ask", None, int) == 7
    mesh.refuse("analysis.history", Denied("not you"))
    with pytest.raises(Denied, match="not you"):
        mesh.call("echo.ask", None, int)


def test_answers_may_wait_and_have_types(mesh: LoopbackMesh) -> None:
    async def other(price: Price, caller: str) -> str:
        await asyncio.sleep(0.2)
        return f"{price.at} for {caller}"

    mesh.answer("other.price", other, kind="keyed")
    assert mesh.call("other.price", ONE, str, key="k") == "1.50 for test"


def test_an_undeclared_topic_ends_the_node_as_any_bug_does(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    with pytest.raises(LocalProtocolError, match=r"did not declare y\.nobody"):
        mesh.publish("x.bad.", 1)
    with pytest.raises(Unavailable):
        mesh.call("echo.buggy", None, type(None))
    mesh.start("echo", Echo())  # as supervisord does
    mesh.publish("x.in.a", ONE)
    assert len(mesh.said("x.echo.")) == 1


def test_what_does_not_survive_the_wire_is_no_value(mesh: LoopbackMesh) -> None:
    echo = Echo()
    mesh.start("echo", echo)
    with pytest.raises(TypeError, match="object is unsupported"):
        mesh.publish("x.in.a", object())
    mesh.publish("x.in.a", "no price")  # well-formed, but not for that handler: dropped
    assert echo.heard == []
    assert [line.event for line in mesh.logged("echo")] == ["reject"]
    with pytest.raises(LocalProtocolError, match="bytes"):
        mesh.publish("x.in.a", Price("a" * 20_000, Decimal(1)))


def test_a_late_node_gets_last_values_and_learns_of_their_end(mesh: LoopbackMesh) -> None:
    mesh.publish("x.in.a", Price("a", Decimal(1)), LASTVALUE)
    mesh.publish("x.in.a", ONE, LASTVALUE)
    mesh.publish("x.in.gone", ONE)
    echo = Echo()
    mesh.start("echo", echo)
    assert echo.heard == [(ONE, True, False)]


def test_a_slow_handler_gets_the_newest(mesh: LoopbackMesh) -> None:
    echo = Echo()
    mesh.start("echo", echo)
    for number in range(5):
        mesh.publish("x.slow.", number)
    mesh.advance(1.1)
    assert echo.heard == [(0, 0), (4, 3)]


def test_mode_is_heard(mesh: LoopbackMesh) -> None:
    mesh.start("echo", Echo())
    assert mesh.call("echo.mode", None, str) == NORMAL
    mesh.set_mode(SAFE)
    assert mesh.call("echo.mode", None, str) == SAFE


def test_stop_drains_and_kill_does_not(mesh: LoopbackMesh) -> None:
    stopped, killed = Echo(), Echo()
    mesh.start("echo", stopped)
    mesh.stop("echo")
    mesh.start("echo", killed)
    mesh.kill("echo")
    assert (stopped.stopped, killed.stopped) == (True, False)


@pytest.mark.parametrize("seed", range(8))
def test_durable_events_come_again_until_their_effect_is_stored(seed: int) -> None:
    with LoopbackMesh(seed) as mesh:
        mesh.start("tally", Tally(crash_at=2))
        for number in range(4):
            mesh.publish("x.number", number, DURABLE)
        mesh.kill("tally")
        mesh.publish("x.number", 4, DURABLE)
        again = Tally()
        mesh.start("tally", again)
        mesh.advance(2.0)
        assert again.sum == 5
        assert again.seen == [2, 3, 4]  # 0 and 1 are on its disk
        assert mesh.said("x.sum") == [("x.sum", n) for n in (1, 2, 3, 4, 5)]


def test_a_crash_in_a_commit_leaves_it_whole_or_not_at_all() -> None:
    ends = set()
    for seed in range(8):
        with LoopbackMesh(seed) as mesh:
            mesh.start("tally", Tally())
            mesh.run(_say_without_waiting(mesh))
            mesh.kill("tally")
            tally = Tally()
            mesh.start("tally", tally)
            ends.add(tally.sum)
            assert mesh.call("tally.add", 1, int, key="k") == 1  # had once, whatever happened
            assert mesh.call("tally.add", 1, int, key="k") == 1
    assert ends == {0, 1}


async def _say_without_waiting(mesh: LoopbackMesh) -> None:
    call = asyncio.ensure_future(mesh.me.call("tally.add", 1, int, key="k"))
    await asyncio.sleep(0.002)  # on its way to the disk
    call.cancel()


def test_what_fails_again_and_again_is_put_aside(mesh: LoopbackMesh) -> None:
    tally = Tally()
    mesh.start("tally", tally)
    mesh.publish("x.number", -1, DURABLE)
    mesh.publish("x.number", 1, DURABLE)
    mesh.advance(10.0)
    assert tally.seen == [-1] * 5 + [1]
    assert [letter.topic for letter in mesh.dead_letters("tally")] == ["x.number"]


def test_a_full_disk_refuses_and_recovers(mesh: LoopbackMesh) -> None:
    mesh.start("tally", Tally())
    mesh.fill_disk("tally")
    with pytest.raises(Unavailable, match="disk is full"):
        mesh.call("tally.add", 1, int, key="a", timeout_s=0.2)
    mesh.fill_disk("tally", full=False)
    mesh.advance(1.0)
    assert mesh.call("tally.add", 1, int, key="b") == 1


def test_roles_are_those_of_the_configuration(mesh: LoopbackMesh) -> None:
    class Outlaw(Component):
        says: ClassVar = {"x.in.": EPHEMERAL, "md.trade.": EPHEMERAL}

        @request("outlaw.try")
        async def attempt(self, method: str) -> int:
            return await self.call(method, None, int)

    class Ear(Component):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[str] = []

        @event("")
        def on_all(self, _: Any, meta: EventMeta) -> None:
            self.heard.append(meta.topic)

    outlaw, ear = Outlaw(), Ear()
    mesh.answer("execution.submit", lambda _: 1)
    mesh.start("outlaw", outlaw)
    mesh.start("test.ear", ear)
    with pytest.raises(Denied):
        mesh.call("outlaw.try", "execution.submit", int)
    outlaw.emit("md.trade.a", 1)
    outlaw.emit("x.in.a", 1)
    mesh.advance(0.1)
    assert [topic for topic in ear.heard if topic[0] != "!"] == ["x.in.a"]


def test_what_a_role_may_not_hear_is_not_heard(mesh: LoopbackMesh) -> None:
    class Ear(Component):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[str] = []

        @event("order.")
        def on_order(self, _: Any, meta: EventMeta) -> None:
            self.heard.append(meta.topic)

    guest, friend = Ear(), Ear()
    mesh.start("guest", guest)
    mesh.start("test.friend", friend)
    mesh.publish("order.paper", 1)
    assert (guest.heard, friend.heard) == ([], ["order.paper"])
    assert "denied there: ['order.']" in {
        line.fields["why"] for line in mesh.logged("guest") if line.event == "link"
    }


def test_who_is_gone_holds_no_subscription(mesh: LoopbackMesh) -> None:
    bus = mesh._schedule.processes["test"].bus
    assert bus is not None
    guard = bus._planes.events._guard

    def held() -> int:
        return sum(guard.held(user) for user in guard._users)

    before = held()
    mesh.start("echo", Echo())
    assert held() > before
    mesh.kill("echo")
    mesh.advance(0.1)
    assert held() == before
    guard.check()


def test_a_task_that_never_waits_is_told(mesh: LoopbackMesh) -> None:
    class Busy(Component):
        async def on_start(self) -> None:
            while True:  # noqa: ASYNC110  # that is the bug
                await asyncio.sleep(0)

    with pytest.raises(LocalProtocolError, match="never waits"):
        mesh.start("busy", Busy())


def test_a_node_that_is_never_ready_is_told(mesh: LoopbackMesh) -> None:
    class Hung(Component):
        async def on_start(self) -> None:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="hung is not ready"):
        mesh.start("hung", Hung())
    with pytest.raises(LocalProtocolError, match="already runs"):
        mesh.start("hung", Hung())


def test_a_failed_start_is_raised(mesh: LoopbackMesh) -> None:
    class Failing(Component):
        async def on_start(self) -> None:
            raise ValueError("no state")

    with pytest.raises(ValueError, match="no state"):
        mesh.start("failing", Failing())


PROGRAM = """
from tests.unit.mesh.sim.test_loopback import ONE, Echo, LoopbackMesh, Price, Tally, DURABLE
import sys
with LoopbackMesh(int(sys.argv[1])) as mesh:
    for name in ("echo", "echo.b"):
        mesh.start(name, Echo())
    mesh.start("tally", Tally())
    for number in range(5):
        mesh.publish("x.in.a", ONE)
        mesh.publish("x.number", number, DURABLE)
        print(mesh.call("echo.price", ONE, Price), mesh.me.now_ns())
    print(mesh.said(""))
"""


def test_one_seed_is_one_run_whatever_the_hashes() -> None:
    def ran(seed: int, hashes: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, str(seed)],
            env={"PYTHONHASHSEED": str(hashes), "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    one = ran(1, 1)
    assert one == ran(1, 2)
    assert one != ran(2, 1)
