"""Membership: a newer run beats all, silence leads to DOWN, only a register brings it back."""

from random import Random

import pytest

from mesh.errors import Conflict, Fenced
from mesh.protocol.control import Heartbeat, Record
from mesh.protocol.membership import DOWN, JOINING, LEFT, SUSPECT, TRANSITIONS, UP, Membership


def record(node: str, epoch: int, nid: int = 0) -> Record:
    return Record(node, nid or sum(node.encode()), epoch, 1, (), {}, {})


def beat(state: str = "ready") -> Heartbeat:
    return Heartbeat(1, state, "normal", 1, 1, 0, 0, 0, 0, 0.0, 0.0, 0, 0)


def test_story() -> None:
    roster = Membership(suspect_s=1.5, down_s=5.0)
    assert roster.register(record("risk", 1), now=0.0)
    assert roster.members["risk"].state is JOINING
    assert roster.beat("risk", 1, beat(), now=0.5)
    assert roster.up() == {"risk"}
    assert roster.tick(now=2.0)
    assert roster.members["risk"].state is SUSPECT
    assert roster.beat("risk", 1, beat(), now=2.1)
    assert roster.tick(now=9.0)
    assert roster.members["risk"].state is DOWN
    assert not roster.beat("risk", 1, beat(), now=9.1)  # a zombie passes admission again
    assert roster.register(record("risk", 1), now=9.2)
    assert roster.beat("risk", 1, beat(), now=9.3)
    assert roster.goodbye("risk", 1)
    assert roster.members["risk"].state is LEFT


def test_newer_run_replaces_and_counts_a_restart() -> None:
    roster = Membership()
    roster.register(record("risk", 1), 0.0)
    roster.register(record("risk", 2), 0.1)
    assert roster.members["risk"].restarts == 1
    assert not roster.beat("risk", 1, beat(), 0.2)
    with pytest.raises(Fenced):
        roster.register(record("risk", 1), 0.3)


def test_two_names_with_one_id_are_refused() -> None:
    roster = Membership()
    roster.register(record("a", 1, nid=7), 0.0)
    with pytest.raises(Conflict):
        roster.register(record("b", 1, nid=7), 0.0)


def test_lost_needs_no_silence() -> None:
    roster = Membership()
    roster.register(record("risk", 1), 0.0)
    roster.beat("risk", 1, beat(), 0.0)
    assert roster.lost("risk")
    assert roster.members["risk"].state is DOWN
    assert not roster.lost("nobody")


def test_walk_changes_state_only_by_the_table_and_rev_with_every_change() -> None:
    dice, roster, now, epoch = Random(5), Membership(), 0.0, 1
    roster.register(record("n", epoch), now)
    seen = set()
    for _ in range(5_000):
        now += dice.random() * 3
        before, rev = roster.members["n"].state, roster.rev
        step = dice.choice(("register", "beat", "beat", "drain", "bye", "tick", "tick", "newer"))
        epoch += step == "newer"
        if step in ("register", "newer"):
            changed = roster.register(record("n", epoch), now)
        elif step in ("beat", "drain"):
            changed = roster.beat(
                "n", epoch, beat("draining" if step == "drain" else "ready"), now
            )
        else:
            changed = roster.goodbye("n", epoch) if step == "bye" else roster.tick(now)
        after = roster.members["n"].state
        assert (roster.rev > rev) is changed
        if step not in ("newer", "tick") and after is not before:
            assert after in TRANSITIONS[before].values()
        seen.add(after)
    assert seen == set(TRANSITIONS)
    assert UP in seen
