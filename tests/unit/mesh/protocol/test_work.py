"""Work: its stages, and its credit in parts."""

import pytest

from mesh.protocol.rpcs import PARTS, Caller, Method
from mesh.protocol.work import QUEUED, START, STORE, TRANSITIONS, Step, Work


def work(prio: int = 500, *, streams: bool = False) -> Work:
    method = Method("a.b", streams=streams)
    return Work(1, Caller("risk", "risk", 7), method, 9, b"body", 10.0, prio)


def test_table_is_the_only_way() -> None:
    for stage, steps in TRANSITIONS.items():
        for step in Step:
            item = work()
            item.stage = stage
            if step in steps:
                item.turn(step)
                assert item.stage is steps[step]
            else:
                with pytest.raises(KeyError):
                    item.turn(step)
    assert (work().stage, START in TRANSITIONS[QUEUED], STORE in TRANSITIONS[QUEUED]) == (
        QUEUED,
        True,
        False,
    )


def test_urgent_is_below_a_hundred() -> None:
    assert [work(prio).urgent for prio in (0, 99, 100)] == [True, True, False]


def test_parts_go_as_far_as_the_caller_takes_them() -> None:
    item = work(streams=True)
    item.parts = PARTS
    assert not item.grant(PARTS)  # nothing new
    assert item.grant(PARTS + 1)
    assert not item.grant(PARTS + 2)  # more, but nobody waited
    item.parts = item.parts_max
    item.grant(1 << 60)
    assert item.parts_max == item.parts + PARTS


def test_a_plain_reply_has_no_parts() -> None:
    item = work()
    item.parts = PARTS
    assert not item.grant(PARTS + 1)
