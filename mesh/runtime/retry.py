"""CircuitBreaker and retry_with_backoff: the guarded call and the repeated call.

Numbers and decisions are in mesh.protocol.breaker and mesh.protocol.backoff.

Never here: policy numbers beyond the two defaults that people know.
"""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from mesh.clock import monotonic_s
from mesh.errors import BreakerOpen, MeshError, Refused
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.breaker import Breaker

T = TypeVar("T")

PROBE_S = 5.0


class CircuitBreaker:
    """Stop calling what keeps failing; let one probe through after *recovery_timeout* seconds."""

    def __init__(
        self, name: str, failure_threshold: int = 3, recovery_timeout: float = 2.0
    ) -> None:
        self.name = name
        self.failure_threshold = failure_threshold
        self.recovery_timeout = recovery_timeout
        self._breaker = Breaker(failure_threshold, recovery_timeout, PROBE_S)

    @property
    def state(self) -> str:
        """Return CLOSED, OPEN or HALF_OPEN."""
        return self._breaker.state.name

    @overload
    async def execute(self, func: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def execute(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T: ...

    async def execute(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what *func* (plain or coroutine) returns, or raise what it raises.

        Raises BreakerOpen without calling while the breaker refuses. A refusal by the callee
        is an answer, not a failure; a cancelled call gives its permit back.
        """
        permit = self._breaker.admit(monotonic_s())
        if permit is None:
            raise BreakerOpen(self.name, max(0.0, self._breaker.until - monotonic_s()))
        try:
            result = func(*args, **kwargs)
            value = await result if inspect.isawaitable(result) else result
        except Exception as error:  # counted and raised again
            # Whatever the callee raises is a failure to count, except an answer that says no.
            self._breaker.record(permit, succeeded=isinstance(error, Refused), now=monotonic_s())
            raise
        except BaseException:  # cancelled: that says nothing about the callee
            self._breaker.give_back(permit, monotonic_s())
            raise
        self._breaker.record(permit, succeeded=True, now=monotonic_s())
        return value


@overload
async def retry_with_backoff(
    func: Callable[[], Awaitable[T]],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    dice: Callable[[], float] = random.random,
) -> T: ...


@overload
async def retry_with_backoff(
    func: Callable[[], T],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    dice: Callable[[], float] = random.random,
) -> T: ...


async def retry_with_backoff(
    func: Callable[[], Any],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    dice: Callable[[], float] = random.random,
) -> Any:
    """Return what *func* returns, after at most *max_retries* further tries.

    Waits with full jitter, doubling from *base_delay* seconds up to 5 s. Never repeats a
    refusal, nor what may already have been executed. Raises the last error with the number
    of tries as a note. Cancelling is safe between tries.
    """
    policy = BackoffPolicy(base_delay)
    for retry in range(max_retries + 1):
        try:
            result = func()
            return await result if inspect.isawaitable(result) else result
        except Exception as error:  # judged and raised again
            # Any failure of the callee may be repeated, except those named below.
            final = isinstance(error, Refused) or (
                isinstance(error, MeshError) and error.executed == "unknown"
            )
            if final or retry == max_retries:
                error.add_note(f"after {retry + 1} tries")
                raise
            after_s = error.retry_after_s if isinstance(error, MeshError) else 0.0
            await asyncio.sleep(policy.delay_s(retry, dice, after_s))
    raise AssertionError("unreachable")  # the last try returns or raises
