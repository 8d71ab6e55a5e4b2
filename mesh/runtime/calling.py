"""Calling: a call finds an instance that serves the method, and makes another attempt if it may.

What surely did not happen, and what may be repeated, is tried again within the budget of the
call: elsewhere, or at the same instance as soon as it is back. Retries are at most a tenth of
the calls to a node, but for those that a draining one sends elsewhere. A keyed call sticks to
its instance, which alone knows what the key has seen.

Never here: sockets' frames, reading records, what methods mean.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import blake2b
from math import inf
from typing import Final, TypeAlias

import msgspec

from mesh.clock import monotonic_s
from mesh.errors import BreakerOpen, Draining, MeshError, NoService, Overloaded
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.balancing import Candidate, choose
from mesh.protocol.control import Failure, Record
from mesh.protocol.envelope import NO_IDEM
from mesh.protocol.outcomes import Failed, Replied, after, verdict
from mesh.protocol.retries import RetryBudget, RetryBudgets
from mesh.protocol.rpcs import PRIO, Ask, Welcome, clamped_s, kind_of
from mesh.runtime.circuit import Breakers, CircuitBreaker, Permit
from mesh.runtime.deadline import left_s
from mesh.transport.handled import cause_now
from mesh.transport.requester import Requester
from mesh.transport.rpc import error_of, failure_of

PAUSE: Final = BackoffPolicy(0.01, 0.25)
WAYS_MAX: Final = 1_024  # methods whose ways are kept; a node calls some dozens
LOOK_S: Final = 0.25  # between two looks at the records, while nobody can be asked
TRICKLE_S: Final = 1.0  # urgent calls pass an open breaker so often
OWN: Final = "mesh."  # methods of the mesh itself: who calls them paces itself


class Wanted(msgspec.Struct, frozen=True):
    """One call. key: of a keyed method, of the caller's business; urgent: cancels and mode."""

    method: str
    body: bytes
    timeout_s: float
    target: str | None = None
    key: str | None = None
    urgent: bool = False

    @property
    def idem(self) -> bytes:
        """Return the key as it travels."""
        if self.key is None:
            return NO_IDEM
        return blake2b(f"{self.method}\0{self.key}".encode(), digest_size=16).digest()


class _Course(msgspec.Struct):
    """How a call goes on over its attempts."""

    wanted: Wanted
    deadline: float
    attempt: int = 0
    known: Failure | None = None  # what its attempts are known to have done
    pinned: str | None = None  # the instance that may have executed a keyed one
    tried: set[str] = msgspec.field(default_factory=set)


class _Way(msgspec.Struct):
    """How calls of one method reach one instance. welcome: what its session began with."""

    node: str
    requester: Requester
    welcome: Welcome | None
    breaker: CircuitBreaker | None  # None: who calls a method of the mesh itself paces itself
    budget: RetryBudget

    @property
    def open(self) -> bool:
        """Say whether its breaker lets a call pass."""
        return self.breaker is None or self.breaker.ready()


_Ways: TypeAlias = tuple[Sequence[Record], dict[str, _Way]]


class Calling:
    """Call by method.

    serving: the records of whoever serves a method, or of a node; requester: who asks a node.
    """

    def __init__(
        self,
        serving: Callable[[str, str | None], Sequence[Record]],
        requester: Callable[[Record], Requester],
        breakers: Breakers | None = None,
    ) -> None:
        self._serving, self._requester = serving, requester
        self.breakers = Breakers(_breaker) if breakers is None else breakers
        self._budgets = RetryBudgets()
        self._ways: dict[tuple[str, str | None, bool], _Ways] = {}
        self._news = asyncio.Event()

    def ready(self) -> None:
        """Learn that a session is open: who waits for one looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def call(self, wanted: Wanted) -> bytes:
        """Return the reply. Raises MeshError; its executed holds for all attempts together.

        NoService comes at once if no record names the method.
        """
        course = self._course(wanted)
        while True:
            way = self._choice(course) or await self._awaited(course)
            outcome = await self._attempt(course, way)
            if isinstance(outcome, Replied):
                return outcome.body
            course.known = after(course.known, outcome.failure)
            if not outcome.again or not await self._again(course, way.node, outcome.failure):
                raise error_of(course.known)

    async def stream(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """Yield the parts of a reply. Raises MeshError; nothing is tried again."""
        course = self._course(wanted)
        way = self._choice(course) or await self._awaited(course)
        parts = way.requester.stream(_ask(course, monotonic_s()))
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()  # type: ignore[attr-defined]  # it is a generator

    @staticmethod
    def _course(wanted: Wanted) -> _Course:
        left = left_s()
        budget_s = clamped_s(wanted.timeout_s)
        return _Course(wanted, monotonic_s() + (budget_s if left is None else min(budget_s, left)))

    # Whom to ask.

    async def _awaited(self, course: _Course) -> _Way:
        """Return whom to ask, as soon as there is somebody."""
        while True:
            left = course.deadline - monotonic_s()
            if left <= 0:
                raise _nobody(course)
            news = self._news
            try:
                async with asyncio.timeout(min(left, LOOK_S)):
                    await news.wait()
            except TimeoutError:
                pass  # the records may tell of somebody new
            found = self._choice(course)
            if found is not None:
                return found

    def _choice(self, course: _Course) -> _Way | None:
        """Return whom to ask now. Raises NoService if no record names the method."""
        ways = self._ways_of(course)
        if course.pinned is not None:
            way = ways.get(course.pinned)
            return None if way is None or way.requester.refusing else way
        if len(ways) == 1:
            (only,) = ways.values()
            return None if course.known is not None and only.requester.refusing else only
        now, idem = monotonic_s(), course.wanted.idem
        keyed = idem != NO_IDEM
        candidates = [
            Candidate(node, way.requester.latency.cost(now), _reachable(way, keyed=keyed))
            for node, way in ways.items()
        ]
        if keyed:  # always the same one, as long as it is there
            name = choose(candidates, random.random, idem)
        else:
            name = choose(_best(course, ways, candidates), random.random)
        return None if name is None else ways[name]

    def _ways_of(self, course: _Course) -> dict[str, _Way]:
        """Return the ways to each that serves the method; kept while the records stay."""
        wanted = course.wanted
        records = self._serving(wanted.method, wanted.target)
        if not records and course.known is None:
            raise _nobody(course)
        key = wanted.method, wanted.target, wanted.urgent
        known = self._ways.get(key)
        if known is not None and known[0] is records:
            for way in known[1].values():
                if way.requester.asking.welcome is not way.welcome:
                    break  # another session: methods may be of another kind there
            else:
                return known[1]
        if len(self._ways) >= WAYS_MAX:
            self._ways.clear()
        ways = {record.node: self._way(wanted, record) for record in records}
        self._ways[key] = records, ways
        return ways

    def _way(self, wanted: Wanted, record: Record) -> _Way:
        node, requester = record.node, self._requester(record)
        welcome = requester.asking.welcome
        breaker = None
        if not wanted.method.startswith(OWN):
            kind = kind_of(Ask(wanted.method, b""), welcome).name.lower()
            breaker = self.breakers.of(node, "urgent" if wanted.urgent else kind)
        return _Way(node, requester, welcome, breaker, self._budgets.of(node))

    # An attempt.

    async def _attempt(self, course: _Course, way: _Way) -> Replied | Failed:
        breaker, requester = way.breaker, way.requester
        course.attempt += 1
        course.tried.add(way.node)
        try:
            permit = None if breaker is None else breaker.admit()
        except BreakerOpen as refused:
            # A first attempt fails at once; one under way waits if its time allows that.
            return Failed(0, failure_of(refused), again=course.attempt > 1)
        if course.attempt == 1:
            way.budget.first()
        elif not (_is_free(course) or way.budget.take()):
            assert course.known is not None, "only a retry has to be paid for"
            _judge(breaker, permit, None)
            return Failed(0, course.known, again=False)
        latency, began = requester.latency, monotonic_s() if permit is None else permit[1]
        latency.asked()
        try:
            outcome = await requester.call(_ask(course, began))
        except BaseException:  # cancelled, or a body too large: neither speaks against the peer
            latency.left()
            _judge(breaker, permit, None)
            raise
        good, now = verdict(outcome), monotonic_s()
        if good:
            latency.answered(now - began, now)
        elif good is False or _is_overload(outcome):  # also if the queue is our own
            latency.failed(now)  # others have less to do
        else:
            latency.left()
        _judge(breaker, permit, good)
        return outcome

    async def _again(self, course: _Course, node: str, why: Failure) -> bool:
        """Wait before another attempt; say whether there is one."""
        if why.executed != "no" and course.wanted.key is not None:
            course.pinned = node  # nobody else knows whether the key had its effect
        pause_s = PAUSE.delay_s(course.attempt - 1, random.random, why.retry_after_ms / 1000)
        if monotonic_s() + pause_s >= course.deadline:
            return False
        await asyncio.sleep(pause_s)
        return True


def _best(course: _Course, ways: dict[str, _Way], candidates: list[Candidate]) -> list[Candidate]:
    """Return of the usable ones those with a way open, of these those not yet tried.

    If all breakers refuse, the call is refused as well, at once, as it is where one serves.
    """
    usable = [candidate for candidate in candidates if candidate.usable]
    closed = [c for c in usable if ways[c.instance].open]
    return [c for c in closed if c.instance not in course.tried] or closed or usable


def _reachable(way: _Way, *, keyed: bool) -> bool:
    """Say whether to choose among others. One only away for a moment keeps its keys."""
    return not way.requester.refusing if keyed else way.requester.ready


def _ask(course: _Course, now: float) -> Ask:
    wanted = course.wanted
    return Ask(
        wanted.method,
        wanted.body,
        max(0.0, course.deadline - now),
        None,
        PRIO // 10 if wanted.urgent else PRIO,
        wanted.idem,
        max(1, course.attempt),
        cause_now(),
    )


def _is_free(course: _Course) -> bool:
    """Say whether another attempt costs nothing: who drains has done nothing for the last one.

    All others are at most a tenth of the calls to a node.
    """
    return course.known is not None and course.known.code == Draining.code


def _is_overload(outcome: Replied | Failed) -> bool:
    return isinstance(outcome, Failed) and outcome.failure.code == Overloaded.code


def _judge(breaker: CircuitBreaker | None, permit: Permit | None, good: bool | None) -> None:
    """Tell *breaker* how the call of *permit* ended; None: in a way that says nothing."""
    if breaker is None or permit is None:
        return
    if good is None:
        breaker.give_back(permit)
    else:
        breaker.record(permit, succeeded=good)


def _nobody(course: _Course) -> MeshError:
    if course.known is not None:
        return error_of(course.known)
    wanted = course.wanted
    return NoService(
        f"nobody serves {wanted.method}" + (f" as {wanted.target}" if wanted.target else "")
    )


def _breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, trickle_s=TRICKLE_S if name.endswith(".urgent") else inf)
