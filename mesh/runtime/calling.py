"""Calling: a call finds an instance that serves the method, and makes another attempt if it may.

What surely did not happen, and what may be repeated, is tried again within the budget of the
call: elsewhere, or at the same instance as soon as it is back. Retries are at most a tenth of
the calls to a node. A keyed call sticks to its instance, which alone knows what the key has
seen.

Never here: sockets' frames, reading records, what methods mean.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import inf
from typing import Final

from mesh.clock import monotonic_s
from mesh.errors import BreakerOpen, MeshError, NoService, Overloaded
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.balancing import Candidate, choose
from mesh.protocol.control import Failure, Record
from mesh.protocol.envelope import NO_IDEM
from mesh.protocol.outcomes import Failed, Replied, after, verdict
from mesh.protocol.retries import RetryBudgets
from mesh.protocol.rpcs import PRIO, Ask, clamped_s, kind_of
from mesh.runtime.circuit import Breakers, CircuitBreaker, Permit
from mesh.runtime.deadline import left_s
from mesh.transport.handled import cause_now
from mesh.transport.requester import Requester
from mesh.transport.rpc import error_of, failure_of

PAUSE: Final = BackoffPolicy(0.01, 0.25)
LOOK_S: Final = 0.25  # between two looks at the records, while nobody can be asked
TRICKLE_S: Final = 1.0  # urgent calls pass an open breaker so often
OWN: Final = "mesh."  # methods of the mesh itself: who calls them paces itself


@dataclass(frozen=True, slots=True)
class Wanted:
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


@dataclass(slots=True)
class _Course:
    """How a call goes on over its attempts."""

    wanted: Wanted
    deadline: float
    attempt: int = 0
    known: Failure | None = None  # what its attempts are known to have done
    pinned: str | None = None  # the instance that may have executed a keyed one
    tried: set[str] = field(default_factory=set)


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
            record = await self._chosen(course)
            outcome = await self._attempt(course, record)
            if isinstance(outcome, Replied):
                return outcome.body
            course.known = after(course.known, outcome.failure)
            if not outcome.again or not await self._again(course, record, outcome.failure):
                raise error_of(course.known)

    async def stream(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """Yield the parts of a reply. Raises MeshError; nothing is tried again."""
        course = self._course(wanted)
        requester = self._requester(await self._chosen(course))
        parts = requester.stream(self._ask(course))
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

    async def _chosen(self, course: _Course) -> Record:
        """Return whom to ask, as soon as there is somebody."""
        while True:
            records = self._serving(course.wanted.method, course.wanted.target)
            if not records and course.known is None:
                raise _nobody(course)
            found = self._choice(course, {record.node: record for record in records})
            if found is not None:
                return found
            left = course.deadline - monotonic_s()
            if left <= 0:
                raise _nobody(course)
            news = self._news
            try:
                async with asyncio.timeout(min(left, LOOK_S)):
                    await news.wait()
            except TimeoutError:
                continue

    def _choice(self, course: _Course, records: dict[str, Record]) -> Record | None:
        if course.pinned is not None:
            record = records.get(course.pinned)
            usable = record is not None and not self._requester(record).refusing
            return record if usable else None
        asked = {node: self._requester(record) for node, record in records.items()}
        if len(records) == 1:
            ((node, only),) = asked.items()
            return None if only.refusing and course.known is not None else records[node]
        now, idem = monotonic_s(), course.wanted.idem
        keyed = idem != NO_IDEM
        candidates = [
            Candidate(node, requester.latency.cost(now), _reachable(requester, keyed=keyed))
            for node, requester in asked.items()
        ]
        if keyed:  # always the same one, as long as it is there
            name = choose(candidates, random.random, idem)
        else:
            name = choose(self._best(course, asked, candidates), random.random)
        return None if name is None else records[name]

    def _best(
        self, course: _Course, asked: dict[str, Requester], candidates: list[Candidate]
    ) -> list[Candidate]:
        """Return of the usable ones those with a way open, of these those not yet tried.

        If all breakers refuse, the call is refused as well, at once, as it is where one serves.
        """
        usable = [candidate for candidate in candidates if candidate.usable]
        closed = [c for c in usable if self._ready(course.wanted, c.instance, asked[c.instance])]
        return [c for c in closed if c.instance not in course.tried] or closed or usable

    def _ready(self, wanted: Wanted, node: str, requester: Requester) -> bool:
        breaker = self._breaker_of(wanted, node, requester)
        return breaker is None or breaker.ready()

    # An attempt.

    async def _attempt(self, course: _Course, record: Record) -> Replied | Failed:
        node, requester = record.node, self._requester(record)
        course.attempt += 1
        course.tried.add(node)
        breaker = self._breaker_of(course.wanted, node, requester)
        try:
            permit = None if breaker is None else breaker.admit()
        except BreakerOpen as refused:
            # A first attempt fails at once; one under way waits if its time allows that.
            return Failed(0, failure_of(refused), again=course.attempt > 1)
        if not self._paid(course, node):
            assert course.known is not None, "only a retry has to be paid for"
            _judge(breaker, permit, None)
            return Failed(0, course.known, again=False)
        began = monotonic_s()
        requester.latency.asked()
        try:
            outcome = await requester.call(self._ask(course))
        except BaseException:  # cancelled, or a body too large: neither speaks against the peer
            requester.latency.left()
            _judge(breaker, permit, None)
            raise
        good, now = verdict(outcome), monotonic_s()
        full = isinstance(outcome, Failed) and outcome.failure.code == Overloaded.code
        if good:
            requester.latency.answered(now - began, now)
        elif good is False or full:  # also if the queue is our own: others have less to do
            requester.latency.failed(now)
        else:
            requester.latency.left()
        _judge(breaker, permit, good)
        return outcome

    def _paid(self, course: _Course, node: str) -> bool:
        """Count a first attempt; say whether a retry is within the tenth that *node* may get."""
        budget = self._budgets.of(node)
        if course.attempt > 1:
            return budget.take()
        budget.first()
        return True

    @staticmethod
    def _ask(course: _Course) -> Ask:
        wanted = course.wanted
        return Ask(
            wanted.method,
            wanted.body,
            max(0.0, course.deadline - monotonic_s()),
            None,
            PRIO // 10 if wanted.urgent else PRIO,
            wanted.idem,
            max(1, course.attempt),
            cause_now(),
        )

    async def _again(self, course: _Course, record: Record, why: Failure) -> bool:
        """Wait before another attempt; say whether there is one."""
        if why.executed != "no" and course.wanted.key is not None:
            course.pinned = record.node  # nobody else knows whether the key had its effect
        pause_s = PAUSE.delay_s(course.attempt - 1, random.random, why.retry_after_ms / 1000)
        if monotonic_s() + pause_s >= course.deadline:
            return False
        await asyncio.sleep(pause_s)
        return True

    def _breaker_of(
        self, wanted: Wanted, node: str, requester: Requester
    ) -> CircuitBreaker | None:
        if wanted.method.startswith(OWN):
            return None
        if wanted.urgent:
            return self.breakers.of(node, "urgent")
        kind = kind_of(Ask(wanted.method, b""), requester.asking.welcome)
        return self.breakers.of(node, kind.name.lower())


def _reachable(requester: Requester, *, keyed: bool) -> bool:
    """Say whether to choose among others. One only away for a moment keeps its keys."""
    return not requester.refusing if keyed else requester.ready


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
