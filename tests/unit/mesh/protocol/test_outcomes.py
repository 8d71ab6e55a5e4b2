"""Outcomes: sent and not answered is unknown; what was not sent is surely not executed."""

import pytest

from mesh.errors import (
    BreakerOpen,
    Conflict,
    Draining,
    Expired,
    MeshError,
    OutcomeUnknown,
    Overloaded,
    Refused,
    Unavailable,
)
from mesh.protocol.calls import QUEUED, SENT, Call, CallStage
from mesh.protocol.outcomes import Failed, Replied, after, ended, failed, lost, overdue, verdict
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, End, MethodClass, cancelled, failure

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


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Replied(1, b""), True),
        (failed(call(), failure(Conflict, "no")), True),
        (failed(call(), failure(BreakerOpen, "theirs")), True),
        (failed(call(), failure(Refused, "cut at work", "unknown")), False),
        (failed(call(), failure(Expired, "waited too long there")), False),
        (failed(call(), failure(Overloaded, "theirs is full")), False),
        (failed(call(), failure(OutcomeUnknown, "?")), False),
        (Failed(1, failure(MeshError, "a code of a later wire"), again=False), False),
        (lost(call(), GONE), False),
        (lost(call(stage=QUEUED), GONE), False),
        (overdue(call(), "x", ready=True), False),
        (overdue(call(stage=QUEUED), "x", ready=False), False),
        (overdue(call(stage=QUEUED), "x", ready=True), None),
        (failed(call(), failure(Overloaded, "ours is full"), ours=True), None),
        (failed(call(), failure(Expired, "no time left"), ours=True), None),
        (failed(call(), cancelled("unknown")), None),
        (failed(call(), failure(Draining, "it stops")), None),
    ],
)
def test_what_an_outcome_says_of_its_peer(outcome: Replied | Failed, says: bool | None) -> None:
    assert verdict(outcome) is says


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
