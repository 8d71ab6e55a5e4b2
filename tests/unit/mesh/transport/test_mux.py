"""Turns on real sockets and on both loops: order, fairness, quiet."""

import asyncio
import gc
import select
import weakref
from collections.abc import Callable

import zmq

from mesh.transport.link import Link
from mesh.transport.mux import BUDGET, DURABLE, EVENTS, RPC, Mux, Rank
from tests.unit.mesh.transport.wires import (
    DEADLINE_S,
    Run,
    Wires,
    loop,
    timer,
)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await timer(0.001)


async def quiet() -> Mux:
    """Return the Mux once a whole period went by without a turn."""
    mux, turns = Mux.of(loop()), -1
    while turns != mux.turns:
        turns = mux.turns
        await timer(0.05)
    return mux


def all_readable(*links: Link) -> None:
    """Wait until every descriptor has news, without asking libzmq, which would eat it."""
    left = {link.fd for link in links}
    while left:
        ready, _, _ = select.select(left, (), (), DEADLINE_S)
        assert ready
        left.difference_update(ready)


def test_requests_go_before_durable_events_and_those_before_market_data(
    run: Run, wires: Wires
) -> None:
    """Only the very first frame is whose epoll names first: it need not wait for a turn."""

    async def body() -> None:
        order: list[Rank] = []

        def noting(rank: Rank) -> Callable[[bytes], None]:
            return lambda _: order.append(rank)

        links, pushes = [], []
        for rank in (EVENTS, DURABLE, RPC, EVENTS, RPC):
            pull, push = wires.inproc()  # what was sent is there
            links.append(Link(loop(), pull, sink=noting(rank), rank=rank))
            pushes.append(push)
        for push in pushes:  # connected and known from here on
            push.send(b"")
        await until(lambda: len(order) == len(links))
        mux = await quiet()
        turns = mux.turns
        order.clear()
        for push in pushes * 3:
            push.send(b"")
        all_readable(*links)
        await until(lambda: len(order) == 3 * len(links))
        assert order[1:] == sorted(order[1:])
        assert sorted(order) == sorted([RPC, RPC, DURABLE, EVENTS, EVENTS] * 3)
        assert mux.turns == turns + 2
        for link in links:
            link.close()

    run(body())


def test_flooded_high_rank_does_not_starve_a_low_one(run: Run, wires: Wires) -> None:
    async def body() -> None:
        (flooded, flood), (market, push) = wires.inproc(), wires.inproc()
        heard = loop().create_future()
        frames = 0

        def never_dry(frame: bytes) -> None:
            nonlocal frames
            frames += 1
            if not heard.done():
                flood.send(frame)

        high = Link(loop(), flooded, sink=never_dry, rank=RPC)
        low = Link(loop(), market, sink=lambda _: heard.set_result(frames), rank=EVENTS)
        flood.send(b"")
        push.send(b"")
        assert await heard <= BUDGET
        high.close()
        low.close()

    run(body())


def test_timer_runs_while_ten_thousand_messages_wait(run: Run, wires: Wires) -> None:
    async def body() -> None:
        pull, push = wires.inproc()
        for _ in range(10_000):
            push.send(b"")
        done = loop().create_future()
        fired_at: list[int] = []
        frames = 0

        def sink(_: bytes) -> None:
            nonlocal frames
            frames += 1
            if frames == 1:
                loop().call_later(0, lambda: fired_at.append(frames))
            if frames == 10_000:
                done.set_result(None)

        link = Link(loop(), pull, sink=sink)
        await done
        assert fired_at[0] <= 4 * BUDGET
        assert Mux.of(loop()).turns >= 10_000 // BUDGET
        link.close()

    run(body())


def test_idle_link_causes_no_turns(run: Run, wires: Wires) -> None:
    async def body() -> None:
        pull, push = wires.pair(zmq.PULL, zmq.PUSH)
        heard = asyncio.Event()
        link = Link(loop(), pull, sink=lambda _: heard.set())
        push.send(b"")
        await heard.wait()
        mux = await quiet()
        turns = mux.turns
        await timer(0.1)
        assert mux.turns == turns
        assert repr(mux) == f"<Mux links=1 ready=0 turns={turns}>"
        link.close()

    run(body())


def test_sink_may_close_another_link_that_is_ready_in_the_same_turn(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        (first_pull, first_push), (second_pull, second_push) = (
            wires.pair(zmq.PULL, zmq.PUSH),
            wires.pair(zmq.PULL, zmq.PUSH),
        )
        heard: list[str] = []

        def close_second(_: bytes) -> None:
            heard.append("first")
            second.close()

        first = Link(loop(), first_pull, sink=close_second, rank=RPC)
        second = Link(loop(), second_pull, sink=lambda _: heard.append("second"))
        await quiet()
        first_push.send(b"")
        second_push.send(b"")
        all_readable(first, second)
        await quiet()
        assert heard == ["first"]
        first_push.send(b"")
        await until(lambda: len(heard) == 2)
        first.close()

    run(body())


def test_failing_link_leaves_those_behind_it_their_turn(wires: Wires) -> None:
    async def body() -> None:
        told: list[BaseException] = []
        loop().set_exception_handler(lambda _, what: told.append(what["exception"]))
        (first_pull, first_push), (second_pull, second_push) = wires.inproc(), wires.inproc()
        done = asyncio.Event()

        def fail(_: bytes) -> None:
            raise ZeroDivisionError

        first = Link(loop(), first_pull, sink=fail, rank=RPC)
        second = Link(loop(), second_pull, sink=lambda _: done.set())
        for _ in range(3):
            first_push.send(b"")
        second_push.send(b"")
        await done.wait()
        await until(lambda: len(told) == 3)
        assert {type(error) for error in told} == {ZeroDivisionError}
        first.close()
        second.close()

    asyncio.run(body())


async def test_loop_has_one_mux_and_keeps_none_that_nobody_uses() -> None:
    mux = Mux.of(loop())
    assert Mux.of(loop()) is mux
    other = asyncio.new_event_loop()
    assert Mux.of(other) is not mux
    other.close()
    gone = weakref.ref(mux)
    del mux
    gc.collect()
    assert gone() is None
