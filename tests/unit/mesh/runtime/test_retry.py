"""CircuitBreaker and retry_with_backoff: the seed's names and defaults, with their promises."""

import asyncio
import inspect

import pytest

from mesh.errors import BreakerOpen, Denied, OutcomeUnknown, Unavailable
from mesh.runtime.retry import CircuitBreaker, retry_with_backoff


async def fails() -> None:
    raise Unavailable("away")


def test_defaults_are_the_documented_ones() -> None:
    breaker = inspect.signature(CircuitBreaker).parameters
    retry = inspect.signature(retry_with_backoff).parameters
    assert (breaker["failure_threshold"].default, breaker["recovery_timeout"].default) == (3, 2.0)
    assert (retry["max_retries"].default, retry["base_delay"].default) == (3, 0.1)


async def test_breaker_opens_at_the_third_failure_and_refuses() -> None:
    breaker = CircuitBreaker("venue")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await breaker.execute(fails)
    assert breaker.state == "OPEN"
    with pytest.raises(BreakerOpen):
        await breaker.execute(fails)


async def test_probe_closes_it_again() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1, recovery_timeout=0.0)
    with pytest.raises(Unavailable):
        await breaker.execute(fails)
    assert await breaker.execute(lambda x: x + 1, 1) == 2
    assert breaker.state == "CLOSED"


async def test_refusal_is_an_answer() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1)

    async def refuses() -> None:
        raise Denied

    with pytest.raises(Denied):
        await breaker.execute(refuses)
    assert breaker.state == "CLOSED"


async def test_cancelled_probe_gives_its_permit_back() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1, recovery_timeout=0.0)
    with pytest.raises(Unavailable):
        await breaker.execute(fails)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await breaker.execute(asyncio.Event().wait)
    assert await breaker.execute(lambda: "probed") == "probed"


async def test_retry_returns_what_the_last_try_returns() -> None:
    left = [Unavailable("a"), Unavailable("b")]

    async def flaky() -> str:
        if left:
            raise left.pop()
        return "done"

    assert await retry_with_backoff(flaky, base_delay=0.0) == "done"
    assert not left


async def test_retry_gives_up_after_three_and_says_so() -> None:
    with pytest.raises(Unavailable) as found:
        await retry_with_backoff(fails, base_delay=0.0)
    assert found.value.__notes__ == ["after 4 tries"]


@pytest.mark.parametrize("error", [Denied, OutcomeUnknown])
async def test_refused_and_unknown_are_never_repeated(error: type[Exception]) -> None:
    calls = 0

    def once() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(error):
        await retry_with_backoff(once, base_delay=0.0)
    assert calls == 1
