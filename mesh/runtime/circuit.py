"""CircuitBreaker: the guarded call; Breakers: one for each key.

Decisions are in mesh.protocol.breaker. One lock makes them safe between threads: it is held
for a decision, never for a call.

Never here: what a failed call means for the mode, publishing, retries.
"""

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf
from threading import Lock
from typing import Any, Final, TypeAlias, TypeVar, overload

from mesh.clock import monotonic_s
from mesh.errors import BreakerOpen, Expired, Overloaded, Refused
from mesh.protocol.breaker import CLOSED, Breaker, Turn
from mesh.runtime.deadline import deadline_s

__all__ = ["Breakers", "CircuitBreaker", "Permit", "counts_as_failure"]

T = TypeVar("T")
Permit: TypeAlias = tuple[int, float]  # the breaker's, and when the call began
Key: TypeAlias = tuple[str, ...]  # (venue, endpoint class) or (peer, method class)

BREAKERS_MAX: Final = 1_024


def counts_as_failure(error: Exception) -> bool:
    """Tell whether *error* speaks against the callee: all do, but an answer that says no.

    Expired is no answer: a callee too slow to begin in time is in trouble. BreakerOpen is
    one: the callee is well, and what it depends on has a breaker of its own.
    """
    return isinstance(error, Expired) or not isinstance(error, (Refused, BreakerOpen))


class CircuitBreaker:
    """Stop calling what keeps failing; let one probe through after *recovery_timeout* seconds.

    It opens after failure_threshold failures in a row, or when in ten seconds with ten calls
    or more half of them failed or four fifths took longer than *slow_s*. A failure is an
    Exception for which *is_failure* says so. With *trickle_s* one call passes so often while
    all others are refused: for cancels, which must always have a way. *on_transition* gets
    the breaker and each of its turns, in the thread that caused it; it must not raise.
    """

    def __init__(
        self,
        name: str,
        failure_threshold: int = 3,
        recovery_timeout: float = 2.0,
        *,
        is_failure: Callable[[Exception], bool] = counts_as_failure,
        on_transition: "Callable[[CircuitBreaker, Turn], None] | None" = None,
        slow_s: float = 1.0,
        trickle_s: float = inf,
    ) -> None:
        self.name = name
        self.failure_threshold = failure_threshold
        self.recovery_timeout = recovery_timeout
        self._is_failure = is_failure
        self._on_transition = on_transition
        self._lock = Lock()
        self._breaker = Breaker(
            failure_threshold, recovery_timeout, random.random, slow_s, trickle_s
        )
        self._told = self._breaker.generation

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name} {self.state} failures={self._breaker.failures}>"

    @property
    def state(self) -> str:
        """Return CLOSED, OPEN or HALF_OPEN."""
        return self._breaker.state.name

    @property
    def forced(self) -> tuple[str, ...]:
        """Return the reasons that hold it open."""
        with self._lock:
            return tuple(sorted(self._breaker.forced))

    @property
    def story(self) -> tuple[Turn, ...]:
        """Return its last turns, oldest first."""
        with self._lock:
            return tuple(self._breaker.story)

    @overload
    async def execute(self, func: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T: ...

    @overload
    async def execute(self, func: Callable[..., T], *args: Any, **kwargs: Any) -> T: ...

    async def execute(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what *func* (plain or coroutine) returns, or raise what it raises.

        Raises BreakerOpen without calling while the breaker refuses. A cancelled call gives
        its permit back. The time of the call is not limited here: put a time-out inside.
        """
        permit = self.admit()
        try:
            result = func(*args, **kwargs)
            value = await result if hasattr(type(result), "__await__") else result
        except Exception as error:  # counted and raised again
            # Whatever the callee raises may count; is_failure knows.
            self.record(permit, succeeded=not self._is_failure(error))
            raise
        except BaseException:  # cancelled: that says nothing about the callee
            self.give_back(permit)
            raise
        self.record(permit, succeeded=True)
        return value

    def admit(self) -> Permit:
        """Return the permit of a call that starts now, with the deadline of the context.

        Hand it to :meth:`record` or :meth:`give_back`, once. Raises BreakerOpen.
        """
        now, breaker = monotonic_s(), self._breaker
        # Without the lock while CLOSED, for it costs as much as the rest. The generation is read
        # first: if another thread turns the breaker in between, this permit is merely void.
        generation = breaker.generation
        if breaker.state is CLOSED:
            return generation, now
        with self._lock:
            permit = breaker.admit(now, deadline_s())
            after_s = breaker.retry_after_s(now) if permit is None else 0.0
        self._tell()
        if permit is None:
            raise BreakerOpen(self.name, after_s)
        return permit, now

    def record(self, permit: Permit, *, succeeded: bool) -> bool:
        """Learn how the call ended; return False if it ended too late to count."""
        number, began = permit
        now = monotonic_s()
        with self._lock:
            counted = self._breaker.record(
                number, succeeded=succeeded, now=now, took_s=now - began
            )
        self._tell()
        return counted

    def give_back(self, permit: Permit) -> bool:
        """Learn nothing from a cancelled call; if it was the probe, the next one may probe."""
        with self._lock:
            counted = self._breaker.give_back(permit[0], monotonic_s())
        self._tell()
        return counted

    def ready(self) -> bool:
        """Tell whether a call would pass now, for whoever chooses between callees."""
        with self._lock:
            ready = self._breaker.ready(monotonic_s())
        self._tell()
        return ready

    def force_open(self, reason: str) -> None:
        """Refuse calls, by mode or operator, until each reason given is released."""
        with self._lock:
            self._breaker.force_open(reason, monotonic_s())
        self._tell()

    def release(self, reason: str) -> None:
        """Withdraw *reason*; without any left, the next call after the cooldown probes."""
        with self._lock:
            self._breaker.release(reason, monotonic_s())
        self._tell()

    def idle(self) -> bool:
        """Tell whether nothing would be lost with this breaker: CLOSED, and no recent failure."""
        breaker = self._breaker
        with self._lock:
            return breaker.state is CLOSED and not breaker.failures

    def _tell(self) -> None:
        """Call on_transition for each new turn, outside the lock; at most two came at once."""
        if self._told == self._breaker.generation:
            return
        with self._lock:
            new = [turn for turn in self._breaker.story if turn.generation > self._told]
            self._told = self._breaker.generation
        if self._on_transition:
            for turn in new:
                self._on_transition(self, turn)


class Breakers:
    """The breaker of each key, at most 1,024: the least used idle one makes room.

    make: returns a new breaker for a key, with the options of its class of calls. A breaker
    that is forced open is never dropped; one that is open goes only before no idle one is left.
    """

    def __init__(
        self,
        make: Callable[[str], CircuitBreaker] = CircuitBreaker,
        *,
        breakers_max: int = BREAKERS_MAX,
    ) -> None:
        self._make = make
        self._max = breakers_max
        self._lock = Lock()
        self._breakers: OrderedDict[Key, CircuitBreaker] = OrderedDict()  # last used last

    def __len__(self) -> int:
        return len(self._breakers)

    def of(self, *key: str) -> CircuitBreaker:
        """Return the breaker of *key*, say ("BINANCE", "orders"); its name is the key, dotted.

        Raises Overloaded if there are too many and all are forced open.
        """
        with self._lock:
            breaker = self._breakers.get(key)
            if breaker is None:
                if len(self._breakers) >= self._max:
                    self._drop_one()
                breaker = self._breakers[key] = self._make(".".join(key))
            self._breakers.move_to_end(key)
            return breaker

    def all(self) -> list[CircuitBreaker]:
        """Return every breaker there is, the least used first; to force, release or show them."""
        with self._lock:
            return list(self._breakers.values())

    def _drop_one(self) -> None:
        for droppable in (CircuitBreaker.idle, lambda breaker: not breaker.forced):
            for key, breaker in self._breakers.items():
                if droppable(breaker):
                    del self._breakers[key]
                    return
        raise Overloaded(f"{self._max} breakers, all forced open")
