"""retry_with_backoff: the seed's name and defaults, with its promises."""

import asyncio
import inspect

import pytest

from mesh.errors import BreakerOpen, Denied, OutcomeUnknown, Overloaded, Unavailable
from mesh.runtime.deadline import within
from mesh.runtime.retry import CircuitBreaker, RetryBudget, retry_with_backoff


class Service:
    """Fails with what it is given, then answers; counts its calls."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def plain(self) -> str:
        """Do the same without a coroutine."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_defaults_are_the_documented_ones() -> None:
    retry = inspect.signature(retry_with_backoff).parameters
    assert (retry["max_retries"].default, retry["base_delay"].default) == (3, 0.1)


async def test_retry_returns_what_the_last_try_returns() -> None:
    service = Service(Unavailable("a"), ConnectionError("b"))
    assert await retry_with_backoff(service.call, base_delay=0.0) == "done"
    assert service.calls == 3


async def test_plain_functions_are_repeated_as_well() -> None:
    service = Service(Unavailable("a"))
    assert await retry_with_backoff(service.plain, base_delay=0.0) == "done"


async def test_retry_gives_up_after_three_with_every_try_as_a_note() -> None:
    service = Service(*(Unavailable(name) for name in "abcde"))
    with pytest.raises(Unavailable, match="d") as found:
        await retry_with_backoff(service.call, base_delay=0.0)
    notes = found.value.__notes__
    assert [note.partition("Unavailable: ")[2][:1] for note in notes[:4]] == ["a", "b", "c", "d"]
    assert notes[4] == "after 4 tries: no retries left"


@pytest.mark.parametrize("error", [Denied, OutcomeUnknown, asyncio.CancelledError])
async def test_i13_refused_unknown_and_cancelled_are_never_repeated(
    error: type[BaseException],
) -> None:
    service = Service(error())
    with pytest.raises(error):
        await retry_with_backoff(service.call, base_delay=0.0)
    assert service.calls == 1


async def test_i13_once_is_called_once() -> None:
    service = Service(Unavailable("a"))
    with pytest.raises(Unavailable):
        await retry_with_backoff(service.call, base_delay=0.0, once=True)
    assert service.calls == 1


async def test_i13_no_wait_past_the_deadline_of_the_context() -> None:
    service = Service(Overloaded("busy", retry_after_s=30.0))
    with within(5.0), pytest.raises(Overloaded) as found:
        await retry_with_backoff(service.call)
    assert found.value.__notes__[-1] == "after 1 try: no time left before the deadline"


async def test_i13_budget_of_the_target_is_shared_by_its_callers() -> None:
    budget, calls = RetryBudget(), 0
    for _ in range(10):
        service = Service(*(Unavailable() for _ in range(9)))
        with pytest.raises(Unavailable):
            await retry_with_backoff(service.call, base_delay=0.0, budget=budget)
        calls += service.calls
    assert calls == 10 + 10  # ten first calls, ten retries of a full budget


async def test_order_is_retry_around_breaker_around_call() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=2, recovery_timeout=30.0)
    service = Service(*(Unavailable() for _ in range(9)))
    with within(5.0), pytest.raises(BreakerOpen):  # whose retry_after does not fit
        await retry_with_backoff(lambda: breaker.execute(service.call), base_delay=0.0)
    assert service.calls == 2


async def test_refused_permit_is_retried_if_the_breaker_probes_in_time() -> None:
    breaker = CircuitBreaker("venue", failure_threshold=1, recovery_timeout=0.05)
    service = Service(Unavailable())
    assert (
        await retry_with_backoff(lambda: breaker.execute(service.call), base_delay=0.0) == "done"
    )
    assert service.calls == 2


async def test_cancelling_a_wait_ends_it() -> None:
    service = Service(Overloaded(retry_after_s=30.0))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await retry_with_backoff(service.call)
    assert service.calls == 1
