"""retry_with_backoff: the repeated call. CircuitBreaker, the guarded one, is offered here too.

One layer retries: retry(breaker(time-out(call))), and libraries have their own retries off.
Decisions are in mesh.protocol.retries, delays in mesh.protocol.backoff.

Never here: policy numbers beyond the two defaults that people know.
"""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, TypeVar, overload

from mesh.clock import monotonic_s
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.retries import Attempts, RetryBudget, RetryBudgets
from mesh.runtime.circuit import Breakers, CircuitBreaker
from mesh.runtime.deadline import deadline_s

__all__ = ["Breakers", "CircuitBreaker", "RetryBudget", "RetryBudgets", "retry_with_backoff"]

T = TypeVar("T")


@overload
async def retry_with_backoff(
    func: Callable[[], Awaitable[T]],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    once: bool = False,
    budget: RetryBudget | None = None,
    call_s: float = 0.0,
    dice: Callable[[], float] = random.random,
) -> T: ...


@overload
async def retry_with_backoff(
    func: Callable[[], T],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    once: bool = False,
    budget: RetryBudget | None = None,
    call_s: float = 0.0,
    dice: Callable[[], float] = random.random,
) -> T: ...


async def retry_with_backoff(
    func: Callable[[], Any],
    max_retries: int = 3,
    base_delay: float = 0.1,
    *,
    once: bool = False,
    budget: RetryBudget | None = None,
    call_s: float = 0.0,
    dice: Callable[[], float] = random.random,
) -> Any:
    """Return what *func* returns, after at most *max_retries* further tries.

    Waits with full jitter, doubling from *base_delay* seconds up to 5 s, and not shorter than
    the callee asks. Never repeats a refusal, what may have been executed, or anything if *once*.
    A wait that leaves no time for a call (the longest so far, *call_s* at least) before the
    deadline of the context is not begun. *budget*: of the target, shared by its callers. Raises
    the last error with its tries as notes. Cancelling is safe between tries.
    """
    deadline = deadline_s()
    attempts = Attempts(
        policy=BackoffPolicy(base_delay),
        retries_max=max_retries,
        dice=dice,
        began=monotonic_s(),
        deadline=inf if deadline is None else deadline,
        once=once,
        call_s=call_s,
        budget=budget,
    )
    while True:
        began = monotonic_s()
        try:
            result = func()
            return await result if inspect.isawaitable(result) else result
        except Exception as error:  # judged, and raised again unless there is another try
            # Any failure of the callee may be repeated, except those that Attempts names.
            wait_s = attempts.failed(error, began, monotonic_s())
            if wait_s is None:
                for note in attempts.notes:
                    error.add_note(note)
                raise
        await asyncio.sleep(wait_s)
