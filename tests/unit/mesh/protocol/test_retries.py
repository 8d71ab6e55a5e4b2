"""Retries: what is repeated, how often, until when, and what a budget lets pass."""

import asyncio
from math import inf, nan

import pytest

from mesh import errors
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.retries import Attempts, RetryBudget, RetryBudgets, is_final


def attempts(
    retries_max: int = 3,
    *,
    deadline: float = inf,
    once: bool = False,
    call_s: float = 0.0,
    budget: RetryBudget | None = None,
) -> Attempts:
    return Attempts(
        policy=BackoffPolicy(base_s=1.0, cap_s=5.0),
        retries_max=retries_max,
        dice=lambda: 0.5,
        began=100.0,
        deadline=deadline,
        once=once,
        call_s=call_s,
        budget=budget,
    )


def test_story() -> None:
    """Four tries, doubling waits, and an error that tells all of them."""
    call = attempts()
    waits = [call.failed(ConnectionError("gone"), 100.0, 100.0) for _ in range(4)]
    assert waits == [0.5, 1.0, 2.0, None]
    assert call.notes == [
        "try 1, 0.000 s: ConnectionError: gone; waited 0.500 s",
        "try 2, 0.000 s: ConnectionError: gone; waited 1.000 s",
        "try 3, 0.000 s: ConnectionError: gone; waited 2.000 s",
        "try 4, 0.000 s: ConnectionError: gone",
        "after 4 tries: no retries left",
    ]


class Marked(Exception):
    """An error from outside the mesh that says what it knows."""

    executed = "unknown"


@pytest.mark.parametrize(
    "error",
    [
        *(errors.Refused(), errors.Invalid(), errors.Denied(), errors.Expired(), errors.Fenced()),
        *(errors.OutcomeUnknown(), errors.MeshError(), Marked()),
        *(errors.RemoteProtocolError(), errors.LocalProtocolError(), errors.InvalidTransition()),
        *(errors.ConfigError(), errors.StorageError(), errors.AlreadyRunning()),
        *(asyncio.CancelledError(), KeyboardInterrupt()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_i13_what_was_refused_broken_unknown_or_cancelled_is_final(error: BaseException) -> None:
    assert is_final(error)
    assert attempts().failed(error, 100.0, 100.0) is None


@pytest.mark.parametrize(
    "error",
    [
        *(errors.Unavailable(), errors.Overloaded(), errors.NoService(), errors.Draining()),
        *(errors.BreakerOpen("x", 0.0), ConnectionError(), TimeoutError(), ValueError()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_did_not_happen_is_repeated(error: Exception) -> None:
    assert not is_final(error)
    assert attempts().failed(error, 100.0, 100.0) is not None


def test_unavailable_that_may_have_happened_is_final() -> None:
    lost = errors.Unavailable()
    lost.executed = "unknown"  # type: ignore[assignment]  # as the wire may say
    assert is_final(lost)


def test_i13_once_is_never_repeated() -> None:
    assert attempts(once=True).failed(errors.Unavailable(), 100.0, 100.0) is None


def test_f74_wait_is_not_shorter_than_the_callee_asks() -> None:
    asked = errors.Overloaded(retry_after_s=7.0)
    assert attempts().failed(asked, 100.0, 100.0) == 7.0


@pytest.mark.parametrize("asked", [nan, inf, -1.0, 1e300, "soon", None])
def test_nonsense_from_the_callee_neither_crashes_nor_waits_for_ever(asked: object) -> None:
    error = ConnectionError()
    error.retry_after_s = asked  # type: ignore[attr-defined]  # errors of libraries carry what they like
    assert attempts().failed(error, 100.0, 100.0) in (None, 0.5)


@pytest.mark.parametrize(
    ("deadline", "took_s", "call_s", "waits"),
    [
        (100.5, 0.0, 0.0, True),  # the wait of 0.5 s fits exactly
        (100.4, 0.0, 0.0, False),
        (101.0, 0.25, 0.0, True),  # ends at 100.75, and 0.25 s are left for the call
        (100.9, 0.25, 0.0, False),
        (101.0, 0.0, 0.6, False),  # a call is known to take longer than the one that failed
        (inf, 59.4, 0.0, False),  # nobody waits longer than a minute in all
    ],
)
def test_i13_no_wait_that_leaves_no_time_for_a_call(
    deadline: float, took_s: float, call_s: float, waits: bool
) -> None:
    call = attempts(deadline=deadline, call_s=call_s)
    wait_s = call.failed(ConnectionError(), 100.0, 100.0 + took_s)
    assert (wait_s is not None) is waits
    assert waits or call.notes[-1] == "after 1 try: no time left before the deadline"


@pytest.mark.parametrize(("after_s", "waits"), [(2.0, True), (3.1, False)])
def test_open_breaker_is_retried_only_if_it_says_so_in_time(after_s: float, waits: bool) -> None:
    call = attempts(deadline=103.0)
    wait_s = call.failed(errors.BreakerOpen("venue", after_s), 100.0, 100.0)
    assert wait_s == (after_s if waits else None)


def test_longest_try_so_far_is_the_time_of_a_call() -> None:
    call = attempts(deadline=105.0)
    assert call.failed(ConnectionError(), 100.0, 102.0) == 0.5
    assert call.failed(ConnectionError(), 102.5, 102.5) is None


def test_i13_retries_are_a_tenth_of_the_calls_in_an_outage() -> None:
    budget, calls, retries = RetryBudget(), 1_000, 0
    for _ in range(calls):
        call = attempts(budget=budget)
        while call.failed(ConnectionError(), 100.0, 100.0) is not None:
            retries += 1
    assert retries == 10 + calls // 10 - 1  # the first call met a full budget
    assert call.notes[-1] == "after 1 try: the retry budget of the target is used up"


def test_what_is_not_repeated_costs_nothing() -> None:
    budget = RetryBudget()
    for error in (errors.Denied(), errors.Overloaded(retry_after_s=1e9)):
        assert attempts(budget=budget).failed(error, 100.0, 100.0) is None
    assert attempts(0, budget=budget).failed(ConnectionError(), 100.0, 100.0) is None
    assert all(budget.take() for _ in range(10))
    assert not budget.take()


def test_budgets_are_of_a_target_and_bounded() -> None:
    budgets = RetryBudgets(targets_max=2)
    first = budgets.of("a")
    assert budgets.of("a") is first
    budgets.of("b")
    budgets.of("a")
    budgets.of("c")  # b was used least recently
    assert len(budgets) == 2
    assert budgets.of("a") is first


def test_notes_are_bounded() -> None:
    call = attempts(1_000)
    for _ in range(1_001):
        call.failed(ConnectionError("x" * 10_000), 100.0, 100.0)
    assert len(call.notes) == 11
    assert max(map(len, call.notes)) < 300
