"""Retries (I13): within number, budget and deadline, and never what may have happened."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import BreakerOpen, Denied, OutcomeUnknown, Overloaded, Unavailable
from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.retries import Attempts, RetryBudget

failures = st.one_of(
    st.sampled_from(
        (Unavailable(), ConnectionError(), TimeoutError(), Denied(), OutcomeUnknown())
    ),
    st.floats(0.0, 20.0).map(lambda after_s: Overloaded(retry_after_s=after_s)),
    st.floats(0.0, 20.0).map(lambda after_s: BreakerOpen("x", after_s)),
)
tries = st.tuples(failures, st.floats(0.0, 2.0))  # how it ended, how long it took
seconds = st.floats(0.0, 30.0)


@settings(max_examples=60)
@given(
    calls=st.lists(st.tuples(st.lists(tries, min_size=1, max_size=6), seconds), max_size=12),
    retries_max=st.integers(0, 5),
    once=st.booleans(),
    dice=st.randoms(use_true_random=False),
)
def test_i13_retries_stay_within_number_budget_and_deadline(
    calls: list[tuple[list[tuple[Exception, float]], float]],
    retries_max: int,
    once: bool,
    dice: Random,
) -> None:
    budget, retries, now = RetryBudget(), 0, 0.0
    for number, (ends, left_s) in enumerate(calls, 1):
        began, deadline = now, now + left_s
        policy = BackoffPolicy()
        call = Attempts(policy, retries_max, dice.random, now, deadline, once, budget=budget)
        longest_s = 0.0
        for tried, (error, took_s) in enumerate(ends, 1):
            start, now = now, now + took_s
            longest_s = max(longest_s, took_s)
            wait_s = call.failed(error, start, now)
            if wait_s is None:
                break
            retries += 1
            now += wait_s
            assert tried <= retries_max
            assert not once
            assert not isinstance(error, (Denied, OutcomeUnknown))
            assert now + longest_s <= deadline + 1e-9
            assert wait_s >= getattr(error, "retry_after_s", 0.0)
        assert now >= began
        assert retries <= 10 + number / 10
