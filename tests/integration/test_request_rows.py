"""The rows of the request plane over real sockets: dying peers, keys, load, cancelling, drains."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import (
    BreakerOpen,
    Conflict,
    Expired,
    Invalid,
    MeshError,
    NoService,
    OutcomeUnknown,
    Overloaded,
)
from mesh.protocol.admission import RUNNING_MAX
from mesh.protocol.asking import QUEUE_MAX
from mesh.protocol.control import Hello
from mesh.protocol.once import KEEP_S
from mesh.protocol.rpcs import WINDOW, less_reserve
from mesh.runtime.circuit import CircuitBreaker
from mesh.runtime.component import Component
from tests.integration.rawnode import CLUSTER, RawCaller
from tests.integration.shops import Shop, Watcher, requester, shop_and_caller

Eventually: TypeAlias = Callable[..., Awaitable[None]]
KEY = bytes(range(16))
SERVES = less_reserve(WINDOW)  # the others of a session are kept for urgent ones


# A peer dies.


async def test_f59_once_is_unknown_as_soon_as_the_peer_is_dead(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    paying = asyncio.ensure_future(caller.call("shop.pay", 1, int, timeout_s=60.0))
    await eventually(lambda: shop.entered["pay"])
    mesh.crash("shop")
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(paying, 5.0)  # long before its deadline


async def test_f59_keyed_and_safe_get_their_answer_from_the_next_run(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    selling = asyncio.ensure_future(caller.call("shop.sell", 7, int, timeout_s=30.0, key="a"))
    reading = asyncio.ensure_future(caller.call("shop.read", 8, int, timeout_s=30.0))
    await eventually(lambda: shop.entered["sell"] and shop.entered["read"] == 2)
    mesh.crash("shop")
    again = Shop()
    await mesh.start("shop", again)
    assert (await selling, await reading) == (7, 8)
    assert again.sold() == [7]


async def test_f59_safe_is_answered_by_another_instance(mesh: Any, eventually: Eventually) -> None:
    shops, caller = {"shop.a": Shop(), "shop.b": Shop()}, Component()
    for name, shop in shops.items():
        shop.gate.clear()
        await mesh.start(name, shop)
    await mesh.start("caller", caller)
    reading = asyncio.ensure_future(caller.call("shop.read", 8, int, timeout_s=30.0))
    await eventually(lambda: any(shop.entered["read"] for shop in shops.values()))
    for shop in shops.values():
        shop.gate.set()
    dies = next(name for name, shop in shops.items() if shop.entered["read"])
    mesh.crash(dies)
    assert await reading == 8
    assert {shop.entered["read"] for shop in shops.values()} == {1}


async def test_f60_what_waits_at_a_server_that_dies_is_not_executed_by_its_next_run(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    others = [Component() for _ in range(RUNNING_MAX // SERVES)]
    for number, other in enumerate(others):  # one alone has no credit to fill it
        await mesh.start(f"other.{number}", other)
    crowd = [
        asyncio.ensure_future(who.call("shop.pay", number, int, timeout_s=30.0))
        for who in (caller, *others)
        for number in range(SERVES)
    ]
    answering = mesh.running["shop"][0]._responder.answering
    await eventually(lambda: sum(answering.load) == len(crowd))
    assert answering.load[1] > 0
    mesh.crash("shop")
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutcomeUnknown}
    again = Shop()
    await mesh.start("shop", again)
    assert await caller.call("shop.read", 2, int, timeout_s=10.0) == 2
    assert again.entered == {"read": 1}


async def test_f60_what_waited_too_long_for_a_peer_is_never_executed(mesh: Any) -> None:
    _, caller = await shop_and_caller(mesh)
    mesh.crash("shop")
    for method, key in (("shop.pay", None), ("shop.sell", "k")):
        with pytest.raises(MeshError) as failed:
            await caller.call(method, 1, int, timeout_s=0.05, key=key)
        assert failed.value.executed != "yes"
    shop = Shop()
    await mesh.start("shop", shop)
    assert await caller.call("shop.read", 2, int, timeout_s=10.0) == 2
    assert shop.entered == {"read": 1}


async def test_f65_nobody_serves_it_any_more(mesh: Any, eventually: Eventually) -> None:
    _, caller = await shop_and_caller(mesh)
    mesh.stop("shop")
    await eventually(lambda: "shop" not in mesh.running["caller"][0].peers.records)
    with pytest.raises(NoService):
        await caller.call("shop.read", 1, int, timeout_s=60.0)


async def test_f65_breaker_of_a_failing_peer_opens_and_one_call_probes(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    for _ in range(3):
        with pytest.raises(MeshError, match="ZeroDivisionError"):
            await caller.call("shop.bug", None, int)
    with pytest.raises(BreakerOpen):
        await caller.call("shop.read", 1, int)
    assert shop.entered["bug"] == 3
    assert await caller.call("shop.stop", None, str, urgent=True) == "stopped"
    breaker = mesh.running["caller"][0].peers.calling.breakers.of("shop", "safe")
    await eventually(breaker.ready)
    shop.gate.clear()
    crowd = [asyncio.ensure_future(caller.call("shop.read", n, int)) for n in range(10)]
    await eventually(lambda: sum(call.done() for call in crowd) == 9)
    shop.gate.set()
    ended = await asyncio.gather(*crowd, return_exceptions=True)
    assert [outcome for outcome in ended if not isinstance(outcome, BreakerOpen)] == [0]
    assert (shop.entered["read"], breaker.state) == (2, "CLOSED")


async def test_turns_of_breakers_are_heard_by_others_and_by_those_who_come_later(
    mesh: Any, eventually: Eventually
) -> None:
    _, caller = await shop_and_caller(mesh)
    watcher = Watcher()
    await mesh.start("watcher", watcher)
    own = CircuitBreaker("webhook", 1, 30.0)
    caller.breakers.adopt(own)
    await asyncio.to_thread(own.force_open, "operator")
    caller.breakers.force_open("mode emergency", "once")
    with pytest.raises(BreakerOpen):
        await caller.call("shop.pay", 1, int)
    await eventually(lambda: len(watcher.heard) == 2)
    assert watcher.heard == {
        ("caller", "breaker.webhook"): ("OPEN", "operator"),
        ("caller", "breaker.shop.once"): ("OPEN", "mode emergency"),
    }
    figures = mesh.running["caller"][0].heartbeat().figures
    assert (figures["breakers_open"], figures["breaker_openings"]) == (2, 2)
    late = Watcher()
    await mesh.start("late", late)
    await eventually(lambda: late.heard == watcher.heard)
    caller.breakers.release("mode emergency")
    assert await caller.call("shop.pay", 1, int) == 1  # the probe
    await eventually(
        lambda: late.heard["caller", "breaker.shop.once"] == ("CLOSED", "the probe succeeded")
    )


async def test_f66_slow_instance_gets_little(mesh: Any) -> None:
    fast, slow, caller = Shop(), Shop(), Component()
    slow.delay_s = 0.05
    await mesh.start("shop.fast", fast)
    await mesh.start("shop.slow", slow)
    await mesh.start("caller", caller)
    for number in range(100):
        assert await caller.call("shop.read", number, int) == number
    assert slow.entered["read"] < 10


async def test_f66_dropped_replies_give_back_their_credit(
    mesh: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, caller = await shop_and_caller(mesh)
    link = mesh.running["shop"][0]._responder._link
    with monkeypatch.context() as lossy:
        lossy.setattr(link, "send", lambda peer, frame: True)
        crowd = [
            asyncio.ensure_future(caller.call("shop.pay", n, int, timeout_s=30.0))
            for n in range(SERVES)
        ]
        await eventually(lambda: shop.entered["pay"] == SERVES)
        await eventually(lambda: mesh.running["shop"][0].idle)
    lost = await asyncio.gather(*crowd, return_exceptions=True)  # long before their deadline
    assert {type(outcome) for outcome in lost} == {OutcomeUnknown}
    asking = requester(mesh).asking
    assert (asking.healed, asking.inflight) == (SERVES, 0)
    asking.check()


# Keys.


async def test_f61_a_key_has_one_effect_and_one_reply_over_restarts(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    both = [
        asyncio.ensure_future(caller.call("shop.sell", 5, int, timeout_s=30.0, key="order 1"))
        for _ in range(2)
    ]
    await eventually(lambda: len(mesh.running["shop"][0]._responder.answering._load.works) == 1)
    await eventually(lambda: shop.entered["sell"])
    shop.gate.set()
    assert [await call for call in both] == [5, 5]
    assert await caller.call("shop.sell", 5, int, key="order 1") == 5
    with pytest.raises(Conflict):
        await caller.call("shop.sell", 6, int, key="order 1")
    with pytest.raises(Invalid, match="needs a key"):
        await caller.call("shop.sell", 6, int)
    assert shop.entered["sell"] == 1
    mesh.crash("shop")
    mesh.crash("caller")
    shop, caller = Shop(), Component()
    await mesh.start("shop", shop)
    await mesh.start("caller", caller)
    assert await caller.call("shop.sell", 5, int, key="order 1", timeout_s=10.0) == 5
    assert shop.entered["sell"] == 0
    assert shop.sold() == [5]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_f55_clock_that_steps_between_two_runs_forgets_no_reply(
    mesh: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    shop, caller = await shop_and_caller(mesh)
    with monkeypatch.context() as stepped:
        past_ns = wall_ns() - hours * 3_600_000_000_000
        stepped.setattr("mesh.storage.journal.wall_ns", lambda: past_ns)
        assert await caller.call("shop.sell", 5, int, key="order 1") == 5
    mesh.crash("shop")
    shop = Shop()
    bus = await mesh.start("shop", shop)
    answering = bus._responder.answering
    assert (answering.once.next_deadline() or 0.0) > monotonic_s() + KEEP_S - 60.0
    answering.tick(monotonic_s())
    assert await caller.call("shop.sell", 5, int, key="order 1", timeout_s=10.0) == 5
    assert (shop.entered["sell"], shop.sold()) == (0, [5])


@pytest.mark.parametrize(
    ("arg", "answer", "entered"),
    [(0, 0, {"resolve": 1, "mark": 1}), (1, 11, {"resolve": 1}), (2, None, {"resolve": 1})],
    ids=["had no effect", "its reply is found", "nobody knows"],
)
async def test_effect_without_its_reply_is_resolved_after_a_crash(
    mesh: Any, eventually: Eventually, arg: int, answer: int | None, entered: dict[str, int]
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    marking = asyncio.ensure_future(caller.call("shop.mark", arg, int, timeout_s=30.0, key="m"))
    await eventually(lambda: shop.entered["mark"])
    mesh.crash("shop")
    shop = Shop()
    await mesh.start("shop", shop)
    if answer is None:
        with pytest.raises(OutcomeUnknown):
            await marking
    else:
        assert await marking == answer
    assert shop.entered == entered


# Deadlines, load, cancelling.


async def test_f62_deadline_shorter_than_the_queue_is_not_executed(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    crowd = [
        asyncio.ensure_future(caller.call("shop.pay", n, int, timeout_s=30.0))
        for n in range(SERVES)
    ]
    await eventually(lambda: shop.entered["pay"] == SERVES)
    with pytest.raises(Expired) as late:
        await caller.call("shop.pay", 99, int, timeout_s=0.05)
    assert late.value.executed == "no"
    shop.gate.set()
    assert await asyncio.gather(*crowd) == list(range(SERVES))
    assert shop.entered["pay"] == SERVES


async def test_f63_a_thousand_cancelled_calls_leave_nothing_behind(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    for _ in range(4):
        calls = [
            asyncio.ensure_future(caller.call("shop.read", n, int, timeout_s=30.0))
            for n in range(250)
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in ended} == {asyncio.CancelledError}
    bus = mesh.running["shop"][0]
    await eventually(lambda: bus.idle)
    await eventually(lambda: requester(mesh).asking.inflight == 0)
    asking = requester(mesh).asking
    asking.check()
    bus._responder.answering.check()
    assert not any("answer shop" in task.get_name() for task in asyncio.all_tasks())
    shop.gate.set()
    assert await asyncio.gather(
        *(caller.call("shop.read", n, int) for n in range(SERVES))
    ) == list(range(SERVES))


async def test_f64_overload_is_refused_at_once_and_urgent_calls_pass(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    crowd = [
        asyncio.ensure_future(caller.call("shop.pay", n, int, timeout_s=30.0)) for n in range(600)
    ]
    await eventually(lambda: sum(call.done() for call in crowd) == 600 - SERVES - QUEUE_MAX)
    refused = [call.exception() for call in crowd if call.done()]
    assert {type(error) for error in refused} == {Overloaded}  # our queue says nothing of the peer
    assert {error.executed for error in refused if isinstance(error, MeshError)} == {"no"}
    assert await caller.call("shop.stop", None, str, urgent=True) == "stopped"
    shop.gate.set()
    done = await asyncio.gather(*crowd, return_exceptions=True)
    served = SERVES + QUEUE_MAX - 1  # one that waited gave way to the urgent one
    assert len([n for n in done if isinstance(n, int)]) == shop.entered["pay"] == served
    asking, answering = requester(mesh).asking, mesh.running["shop"][0]._responder.answering
    assert (asking.inflight, asking.queued, answering.load) == (0, 0, (0, 0))
    assert not any("answer shop" in task.get_name() for task in asyncio.all_tasks())


async def test_time_left_shrinks_on_the_way(mesh: Any) -> None:
    _, caller = await shop_and_caller(mesh)
    other = Shop()
    await mesh.start("other", other)
    assert await caller.call("shop.ask", "other", int, timeout_s=1.5, target="shop") == 1
    (left,) = other.left
    assert left is not None
    assert left <= 1.5  # although it asked for 30 s


# Draining, parts.


async def test_f30_no_safe_or_keyed_call_fails_when_an_instance_drains_under_load(
    mesh: Any, eventually: Eventually
) -> None:
    shops, caller = {"shop.a": Shop(), "shop.b": Shop()}, Component()
    for name, shop in shops.items():
        await mesh.start(name, shop)
    await mesh.start("caller", caller)

    async def load(worker: int) -> int:
        for number in range(50):
            key = f"{worker} {number}"
            assert await caller.call("shop.read", number, int, timeout_s=10.0) == number
            assert await caller.call("shop.sell", number, int, timeout_s=10.0, key=key) == number
        return worker

    workers = [asyncio.ensure_future(load(worker)) for worker in range(8)]
    await eventually(lambda: shops["shop.a"].entered["read"] > 20)
    bus = mesh.running["shop.a"][0]
    bus.drain(5.0)
    await eventually(lambda: bus.idle and bus.left)
    mesh.stop("shop.a")
    assert await asyncio.gather(*workers) == list(range(8))
    assert shops["shop.a"].entered["sell"] + shops["shop.b"].entered["sell"] == 400


async def test_f30_what_comes_too_late_to_be_read_before_the_end_is_refused(
    mesh: Any, eventually: Eventually
) -> None:
    shop, _ = await shop_and_caller(mesh)
    with RawCaller(mesh.directory.endpoint("shop", "r")) as raw:
        raw.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        await eventually(lambda: raw.welcomed)
        mesh.running["shop"][0].drain(5.0)
        raw.ask("shop.pay", 1, epoch=1)
        sock = mesh.running["shop"][0]._responder._link._sock
        assert sock.poll(5_000)  # it is there, and the loop has no turn to read it
        mesh.stop("shop")
        await eventually(lambda: raw.codes == ["DRAINING"])
    assert shop.entered["pay"] == 0


async def test_parts_come_in_order_and_no_faster_than_they_are_taken(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    taken: list[int] = []
    async for number in caller.stream("shop.list", 1_000, int, timeout_s=30.0):
        taken.append(number)
        if number == 10:
            await eventually(lambda: requester(mesh).asking.inflight == 1)
            assert shop.entered["part"] <= 10 + 10
    assert taken == list(range(1_000))


async def test_stream_that_is_left_ends_its_handler(mesh: Any, eventually: Eventually) -> None:
    shop, caller = await shop_and_caller(mesh)
    parts = caller.stream("shop.list", 1_000_000, int, timeout_s=30.0)
    assert await anext(parts) == 0
    await parts.aclose()  # type: ignore[attr-defined]  # it is a generator
    await eventually(lambda: mesh.running["shop"][0].idle)
    assert shop.entered["part"] < 100
