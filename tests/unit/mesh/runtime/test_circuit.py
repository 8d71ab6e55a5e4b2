"""CircuitBreaker and Breakers: the guarded call, told turns, threads, and one for each key."""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from mesh.errors import (
    BreakerOpen,
    Denied,
    Expired,
    LocalProtocolError,
    NoService,
    Overloaded,
    Unavailable,
)
from mesh.protocol.breaker import Turn
from mesh.runtime.circuit import Breakers, CircuitBreaker, counts_as_failure
from mesh.runtime.deadline import within


async def fails() -> None:
    raise Unavailable("away")


async def tripped(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(breaker.failure_threshold):
        with pytest.raises(Unavailable):
            await breaker.execute(fails)
    return breaker


def quick() -> CircuitBreaker:
    """Return a breaker that opens at once and probes at once."""
    return CircuitBreaker("venue", failure_threshold=1, recovery_timeout=0.0)


def test_defaults_are_the_documented_ones() -> None:
    breaker = inspect.signature(CircuitBreaker).parameters
    assert (breaker["failure_threshold"].default, breaker["recovery_timeout"].default) == (3, 2.0)


async def test_breaker_opens_at_the_third_failure_and_refuses() -> None:
    breaker = await tripped(CircuitBreaker("venue", recovery_timeout=30.0))
    assert breaker.state == "OPEN"
    assert not breaker.ready()
    with pytest.raises(BreakerOpen) as refused:
        await breaker.execute(lambda: pytest.fail("called while open"))
    assert refused.value.name == "venue"
    assert 0.0 < refused.value.retry_after_s <= 30.0


async def test_probe_closes_it_again() -> None:
    breaker = await tripped(quick())
    assert await breaker.execute(lambda x, y: x + y, 1, y=1) == 2
    assert breaker.state == "CLOSED"


async def test_cancelled_probe_gives_its_permit_back() -> None:
    breaker = await tripped(quick())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await breaker.execute(asyncio.Event().wait)
    assert await breaker.execute(lambda: "probed") == "probed"


async def test_cancelled_call_is_no_failure() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await breaker.execute(asyncio.Event().wait)
    assert breaker.state == "CLOSED"


async def test_time_out_inside_is_a_failure() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1)

    async def stuck() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await breaker.execute(stuck)
    assert breaker.state == "OPEN"


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (Denied(), False),
        (BreakerOpen("theirs", 1.0), False),
        (Expired(), True),
        (Overloaded(), True),
        (NoService(), True),
        (TimeoutError(), True),
        (ValueError(), True),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_refusal_is_an_answer_and_all_else_a_failure(error: Exception, counts: bool) -> None:
    assert counts_as_failure(error) is counts
    breaker = CircuitBreaker("venue", failure_threshold=1)

    def ends() -> None:
        raise error

    with pytest.raises(type(error)):
        await breaker.execute(ends)
    assert (breaker.state == "OPEN") is counts


async def test_is_failure_of_the_caller_decides() -> None:
    breaker = CircuitBreaker(
        "venue", failure_threshold=1, is_failure=lambda error: isinstance(error, KeyError)
    )
    with pytest.raises(Unavailable):
        await breaker.execute(fails)
    assert breaker.state == "CLOSED"
    with pytest.raises(KeyError):
        await breaker.execute({}.__getitem__, "absent")
    assert breaker.state == "OPEN"


async def test_f65_service_gone_opens_it_and_one_probe_alone_is_sent() -> None:
    breaker, gone, probes, refused = quick(), True, 0, 0
    back = asyncio.Event()

    async def service() -> str:
        nonlocal probes
        if gone:
            raise NoService
        probes += 1
        await back.wait()
        return "here"

    with pytest.raises(NoService):
        await breaker.execute(service)
    gone = False

    async def called() -> str:
        nonlocal refused
        try:
            return await breaker.execute(service)
        except BreakerOpen:
            refused += 1
            if refused == 19:
                back.set()
            return "refused"

    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(called()) for _ in range(20)]
    assert sorted(call.result() for call in calls) == ["here"] + ["refused"] * 19
    assert probes == 1
    assert breaker.state == "CLOSED"


async def test_turns_are_told_once_and_in_order() -> None:
    told: list[Turn] = []

    def tell(breaker: CircuitBreaker, turn: Turn) -> None:
        assert breaker.state  # may be asked: no lock is held
        told.append(turn)

    breaker = await tripped(CircuitBreaker("venue", recovery_timeout=0.0, on_transition=tell))
    assert await breaker.execute(lambda: len(told)) == 2  # of the probe, before it is made
    breaker.force_open("operator")
    breaker.release("operator")
    assert [turn.outcome.name for turn in told] == [
        *("TRIPPED", "COOLED", "SUCCEEDED", "FORCED", "RELEASED"),
    ]
    assert tuple(told) == breaker.story
    assert told[0].reason == "3 failures in a row"


async def test_forced_open_refuses_until_released() -> None:
    breaker = quick()
    breaker.force_open("mode EMERGENCY")
    assert breaker.forced == ("mode EMERGENCY",)
    with pytest.raises(BreakerOpen):
        await breaker.execute(lambda: None)
    breaker.release("mode EMERGENCY")
    await breaker.execute(lambda: None)
    assert breaker.state == "CLOSED"


async def test_f74_cancels_keep_their_way_through_an_open_breaker() -> None:
    cancels = await tripped(CircuitBreaker("venue.cancel", recovery_timeout=30.0, trickle_s=1.0))
    assert await cancels.execute(lambda: "canceled") == "canceled"
    with pytest.raises(BreakerOpen):
        await cancels.execute(lambda: "canceled")
    assert cancels.state == "OPEN"


async def test_probe_is_given_up_behind_the_deadline_of_its_context() -> None:
    breaker = await tripped(quick())
    with within(30.0):
        breaker.admit()
    assert 5.0 < breaker._breaker.until - breaker._breaker.story[-1].when <= 31.0


def test_late_results_are_told_from_those_that_count() -> None:
    breaker = quick()
    early, late = breaker.admit(), breaker.admit()
    assert breaker.record(early, succeeded=False)
    assert not breaker.record(late, succeeded=True)
    assert not breaker.give_back(late)


def test_i12_threads_share_one_probe() -> None:
    breaker, ready = CircuitBreaker("venue", failure_threshold=1, recovery_timeout=0.0), Barrier(8)

    def probes(_: int) -> int:
        ready.wait(timeout=10.0)
        granted = 0
        for _ in range(200):
            try:
                breaker.admit()
                granted += 1
            except BreakerOpen:
                pass
        return granted

    breaker.record(breaker.admit(), succeeded=False)
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(probes, range(8))) == 1


def test_i12_threads_lose_no_count() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=10**9)

    def work(_: int) -> None:
        for _ in range(500):
            breaker.record(breaker.admit(), succeeded=True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    breaker._breaker.check()


# --- one for each key ---


def test_key_has_its_breaker() -> None:
    breakers = Breakers()
    orders = breakers.of("BINANCE", "orders")
    assert breakers.of("BINANCE", "orders") is orders
    assert orders.name == "BINANCE.orders"
    assert breakers.of("BINANCE", "cancels") is not orders


def test_idle_breakers_make_room_and_broken_ones_are_remembered() -> None:
    breakers = Breakers(lambda name: CircuitBreaker(name, 1, 30.0), breakers_max=3)
    broken = breakers.of("broken")
    broken.record(broken.admit(), succeeded=False)
    for n in range(10):
        breakers.of(str(n))
    assert len(breakers) == 3
    assert breakers.of("broken") is broken
    assert {breaker.name for breaker in breakers.all()} == {"broken", "8", "9"}


def test_forced_breakers_are_never_dropped() -> None:
    breakers = Breakers(breakers_max=2)
    for name in "ab":
        breakers.of(name).force_open("operator")
    with pytest.raises(Overloaded):
        breakers.of("c")
    breakers.of("a").release("operator")
    breakers.of("c")  # takes the place of one that is open, for want of an idle one
    assert {breaker.name for breaker in breakers.all()} == {"b", "c"}


def test_adopted_breakers_are_kept_though_they_are_idle() -> None:
    breakers = Breakers(breakers_max=2)
    own = CircuitBreaker("webhook")
    breakers.adopt(own)
    for name in "abc":
        breakers.of(name)
    assert breakers.of("webhook") is own
    with pytest.raises(LocalProtocolError, match="second"):
        breakers.adopt(CircuitBreaker("webhook"))


def test_force_holds_a_kind_of_breakers_also_those_to_come() -> None:
    breakers = Breakers()
    before, other = breakers.of("venue", "keyed"), breakers.of("venue", "urgent")
    breakers.force_open("mode emergency", "keyed")
    after = breakers.of("venue.b", "keyed")
    assert before.forced == after.forced == ("mode emergency",)
    assert other.state == breakers.of("venue.b", "urgent").state == "CLOSED"
    breakers.release("mode emergency")
    assert [breaker.forced for breaker in breakers.all()] == [()] * 4
    assert breakers.of("venue.c", "keyed").state == "CLOSED"


def test_later_turns_are_told_after_earlier_ones_whoever_tells() -> None:
    told: list[str] = []

    def tell(breaker: CircuitBreaker, turn: Turn) -> None:
        if turn.reason == "first":
            breaker.force_open("second")  # as another thread would, meanwhile
        told.append(turn.reason)

    CircuitBreaker("venue", on_transition=tell).force_open("first")
    assert told == ["first", "second"]
