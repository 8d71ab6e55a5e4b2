"""Outcomes: sent and not answered is unknown; what was not sent is surely not executed."""

import pytest

from mesh.errors import Draining, MeshError, Overloaded, Refused, Unavailable
from mesh.protocol.calls import QUEUED, SENT, Call, CallStage
from mesh.protocol.outcomes import Replied, after, ended, failed, lost, overdue
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, End, MethodClass, failure

GONE = failure(Unavailable, "execution is gone")


def call(kind: MethodClass = SAFE, stage: CallStage = SENT) -> Call:
    return Call(1, 9, Ask("a.b", b""), 10.0, kind, stage)


@pytest.mark.parametrize(
    ("kind", "stage", "code", "executed", "again"),
    [
        (SAFE, SENT, "UNAVAILABLE", "unknown", True),
        (KEYED, SENT, "OUTCOME_UNKNOWN", "unknown", True),
        (ONCE, SENT, "OUTCOME_UNKNOWN", "unknown", False),
        (SAFE, QUEUED, "UNAVAILABLE", "no", True),
        (KEYED, QUEUED, "UNAVAILABLE", "no", True),
        (ONCE, QUEUED, "UNAVAILABLE", "no", False),
    ],
)
def test_f59_i13_lost_connection(
    kind: MethodClass, stage: CallStage, code: str, executed: str, again: bool
) -> None:
    end = lost(call(kind, stage), GONE)
    assert (end.failure.code, end.failure.executed, end.again) == (code, executed, again)


@pytest.mark.parametrize(
    ("kind", "stage", "ready", "code", "executed"),
    [
        (SAFE, SENT, True, "DEADLINE", "unknown"),
        (KEYED, SENT, True, "OUTCOME_UNKNOWN", "unknown"),
        (ONCE, SENT, True, "OUTCOME_UNKNOWN", "unknown"),
        (ONCE, QUEUED, True, "DEADLINE", "no"),
        (ONCE, QUEUED, False, "UNAVAILABLE", "no"),
    ],
)
def test_deadline_passed(
    kind: MethodClass, stage: CallStage, ready: bool, code: str, executed: str
) -> None:
    end = overdue(call(kind, stage), "execution", ready=ready)
    assert (end.failure.code, end.failure.executed, end.again) == (code, executed, False)


@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        (Overloaded, SAFE, True),
        (Draining, KEYED, True),
        (Draining, ONCE, False),
        (Refused, SAFE, False),
        (MeshError, SAFE, False),  # executed unknown
    ],
)
def test_another_attempt_only_where_nothing_was_started(
    error: type[MeshError], kind: MethodClass, again: bool
) -> None:
    assert failed(call(kind), failure(error, "x")).again is again


def test_reply_in_parts_is_whole_or_none() -> None:
    made = call()
    made.parts = 2
    assert ended(made, End(2, b"x")) == Replied(1, b"x")
    assert not isinstance(ended(made, End(3)), Replied)


def test_no_after_an_unknown_is_unknown() -> None:
    unknown, no = failure(MeshError, "lost", "unknown"), failure(Overloaded, "full")
    assert after(None, no) is no
    assert after(no, no) is no
    assert after(no, unknown) is unknown
    assert (after(unknown, no).code, after(unknown, no).executed) == ("OUTCOME_UNKNOWN", "unknown")
