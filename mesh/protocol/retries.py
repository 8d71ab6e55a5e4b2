"""Retries: whether a call that failed is made again, and when: number, deadline and budget.

Only what surely did not happen is repeated: a mesh error that is Unavailable, or any error
from outside the mesh that does not say otherwise in an attribute *executed*.

Never here: sleeping, a clock, the call.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Final

from mesh.errors import MeshError, Unavailable
from mesh.protocol.backoff import BackoffPolicy

__all__ = ["DEADLINE_MAX_S", "Attempts", "RetryBudget", "RetryBudgets", "is_final"]

DEADLINE_MAX_S: Final = 60.0  # of a request; a call without a deadline gets no longer either
TARGETS_MAX: Final = 1_024
TEXT_MAX: Final = 200  # of an error, in a note
NOTED_MAX: Final = 10  # tries; the first ones

# In tenths of a token, because 0.1 has no exact float: ten calls must pay for one retry.
_FIRST_TENTHS: Final = 1
_RETRY_TENTHS: Final = 10
_MOST_TENTHS: Final = 100


@dataclass(slots=True)
class RetryBudget:
    """Allow one target ten retries at once, and one for every ten first calls after that."""

    tenths: int = _MOST_TENTHS

    def first(self) -> None:
        """Count a first call."""
        self.tenths = min(_MOST_TENTHS, self.tenths + _FIRST_TENTHS)

    def take(self) -> bool:
        """Pay for a retry; False if the budget is empty."""
        if self.tenths < _RETRY_TENTHS:
            return False
        self.tenths -= _RETRY_TENTHS
        return True


@dataclass(slots=True)
class RetryBudgets:
    """The budget of each target, for as many targets as were called last."""

    targets_max: int = TARGETS_MAX
    _budgets: OrderedDict[str, RetryBudget] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._budgets)

    def of(self, target: str) -> RetryBudget:
        """Return the budget of *target*; a new one is full."""
        budget = self._budgets.get(target)
        if budget is None:
            budget = self._budgets[target] = RetryBudget()
            if len(self._budgets) > self.targets_max:
                self._budgets.popitem(last=False)
        self._budgets.move_to_end(target)
        return budget


def is_final(error: BaseException) -> bool:
    """Tell whether *error* forbids to repeat the call that raised it."""
    if not isinstance(error, Exception):
        return True  # cancelled, or the process ends
    if isinstance(error, MeshError) and not isinstance(error, Unavailable):
        return True  # refused, ours, the disk's, or nobody knows
    return getattr(error, "executed", "no") != "no"


@dataclass(slots=True)
class Attempts:
    """One call and its retries: hand each failure to :meth:`failed`, and wait as it says.

    deadline: monotonic seconds; the time of a call must fit before it. once: the method
    must not be repeated, whatever happened. call_s: how long a call usually takes, if known;
    the longest try so far counts as well.
    """

    policy: BackoffPolicy
    retries_max: int
    dice: Callable[[], float]  # uniform in [0, 1)
    began: float
    deadline: float = inf
    once: bool = False
    call_s: float = 0.0
    budget: RetryBudget | None = None
    tries: int = 0
    notes: list[str] = field(default_factory=list)  # what became of each try, in words

    def __post_init__(self) -> None:
        self.deadline = min(self.deadline, self.began + DEADLINE_MAX_S)
        if self.budget:
            self.budget.first()

    def failed(self, error: BaseException, began: float, now: float) -> float | None:
        """Return the seconds to wait before the next try, or None: raise *error*, with notes."""
        self.tries += 1
        self.call_s = max(self.call_s, now - began)
        wait_s = self.policy.delay_s(self.tries - 1, self.dice, _retry_after_s(error))
        reason = self._end(error, now + wait_s)
        told = "" if reason else f"; waited {wait_s:.3f} s"
        if self.tries <= NOTED_MAX:
            text = f"{type(error).__name__}: {error}"[:TEXT_MAX]
            self.notes.append(f"try {self.tries}, {now - self.began:.3f} s: {text}{told}")
        if not reason:
            return wait_s
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        self.notes.append(f"after {tries}: {reason}")
        return None

    def _end(self, error: BaseException, resumes: float) -> str:
        """Return why there is no further try; nothing if there is one."""
        if is_final(error):
            return "not to be repeated"
        if self.once:
            return "the method is to be called once"
        if self.tries > self.retries_max:
            return "no retries left"
        if not (resumes <= self.deadline - self.call_s):
            return "no time left before the deadline"
        if self.budget and not self.budget.take():
            return "the retry budget of the target is used up"
        return ""


def _retry_after_s(error: BaseException) -> float:
    asked = getattr(error, "retry_after_s", 0.0)
    if not isinstance(asked, (int, float)) or asked != asked:  # NaN
        return 0.0
    return float(asked) if isfinite(asked) else inf
