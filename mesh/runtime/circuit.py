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
from mesh.errors import BreakerOpen, Expired, LocalProtocolError, Overloaded, Refused
from mesh.protocol import topics
from mesh.protocol.breaker import CLOSED, Breaker, Turn
from mesh.runtime.deadline import deadline_s

__all__ = ["Breakers", "CircuitBreaker", "Permit", "counts_as_failure"]

T = TypeVar("T")
Permit: TypeAlias = tuple[int, float]  # the breaker's, and when the call began
Key: TypeAlias = tuple[str, ...]  # (venue, endpoint class) or (peer, method class)
OnTurn: TypeAlias = "Callable[[CircuitBreaker, Turn], None]"

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
    the breaker and each of its turns, one after the other, in a thread that caused one; it
    must not raise. So does *watcher*, for whoever keeps many breakers.
    """

    def __init__(
        self,
        name: str,
        failure_threshold: int = 3,
        recovery_timeout: float = 2.0,
        *,
        is_failure: Callable[[Exception], bool] = counts_as_failure,
        on_transition: "OnTurn | None" = None,
        slow_s: float = 1.0,
        trickle_s: float = inf,
    ) -> None:
        self.name = name
        self.failure_threshold = failure_threshold
        self.recovery_timeout = recovery_timeout
        self._is_failure = is_failure
        self._on_transition = on_transition
        self.watcher: OnTurn | None = None
        self._lock = Lock()
        self._breaker = Breaker(
            failure_threshold, recovery_timeout, random.random, slow_s, trickle_s
        )
        self._told = self._breaker.generation
        self._telling = False

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
        """Tell of each new turn, outside the lock.

        One thread at a time: what comes meanwhile is told by that one, so that nobody hears of
        a later turn before an earlier one.
        """
        if self._told == self._breaker.generation:
            return
        while new := self._untold():
            try:
                for turn in new:
                    self._tell_of(turn)
            finally:
                self._telling = False

    def _tell_of(self, turn: Turn) -> None:
        for told in (self._on_transition, self.watcher):
            if told is not None:
                told(self, turn)

    def _untold(self) -> list[Turn]:
        """Return what this thread has to tell: nothing while another one tells."""
        with self._lock:
            if self._telling:
                return []
            new = [turn for turn in self._breaker.story if turn.generation > self._told]
            self._told = self._breaker.generation
            self._telling = bool(new)
            return new


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
        self._adopted: set[Key] = set()
        self._forces: dict[str, str] = {}  # reason to the last part of the keys
        self._on_turn: OnTurn | None = None
        self._on_dropped: Callable[[CircuitBreaker], None] = lambda breaker: None

    def __len__(self) -> int:
        return len(self._breakers)

    def of(self, *key: str) -> CircuitBreaker:
        """Return the breaker of *key*, say ("BINANCE", "orders"); its name is the key, dotted.

        Raises Overloaded if there are too many and all are adopted or forced open.
        """
        with self._lock:
            breaker = self._breakers.get(key)
            if breaker is None:
                breaker = self._add(key, self._make(".".join(key)))
            self._breakers.move_to_end(key)
            return breaker

    def adopt(self, breaker: CircuitBreaker) -> None:
        """Keep a breaker made elsewhere, too, for good: what watches these watches it.

        Raises LocalProtocolError if its name is no part of a topic or is taken, Overloaded as
        :meth:`of`.
        """
        topics.check(topics.BREAKER + breaker.name)
        key = (breaker.name,)
        with self._lock:
            if key in self._breakers:
                raise LocalProtocolError(f"a second breaker {breaker.name}")
            self._add(key, breaker)
            self._adopted.add(key)

    def watch(self, on_turn: OnTurn, on_dropped: Callable[[CircuitBreaker], None]) -> None:
        """Tell of every turn of every breaker from now on, and of those that are dropped.

        Both come in any thread, on_dropped with a lock held: they must hand over and return.
        """
        with self._lock:
            self._on_turn, self._on_dropped = on_turn, on_dropped
            for breaker in self._breakers.values():
                breaker.watcher = on_turn

    def force_open(self, reason: str, kind: str) -> None:
        """Force open all whose key ends with *kind*, also those to come, until released.

        One reason holds one kind. As a mode does: force_open("mode emergency", "keyed").
        """
        with self._lock:
            self._forces[reason] = kind
            forced = [breaker for key, breaker in self._breakers.items() if key[-1] == kind]
        for breaker in forced:
            breaker.force_open(reason)

    def release(self, reason: str) -> None:
        """Withdraw *reason* from all; see :meth:`CircuitBreaker.release`."""
        with self._lock:
            self._forces.pop(reason, None)
        for breaker in self.all():
            breaker.release(reason)

    def all(self) -> list[CircuitBreaker]:
        """Return every breaker there is, the least used first; to force, release or show them."""
        with self._lock:
            return list(self._breakers.values())

    def _add(self, key: Key, breaker: CircuitBreaker) -> CircuitBreaker:
        if len(self._breakers) >= self._max:
            self._drop_one()
        self._breakers[key], breaker.watcher = breaker, self._on_turn
        for reason, kind in self._forces.items():
            if key[-1] == kind:
                breaker.force_open(reason)
        return breaker

    def _drop_one(self) -> None:
        for droppable in (CircuitBreaker.idle, lambda breaker: not breaker.forced):
            for key, breaker in self._breakers.items():
                if key not in self._adopted and droppable(breaker):
                    del self._breakers[key]
                    breaker.watcher = None
                    self._on_dropped(breaker)
                    return
        raise Overloaded(f"{self._max} breakers, none to be dropped")
