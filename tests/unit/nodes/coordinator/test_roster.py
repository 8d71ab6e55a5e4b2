"""Roster: the mesh is SAFE until all expected are UP, and when a critical node is away."""

from mesh.protocol.control import Heartbeat, Record
from mesh.protocol.membership import Membership
from mesh.protocol.mode import EMERGENCY, NORMAL, SAFE, ModeKeeper
from nodes.coordinator.roster import Roster


def beat() -> Heartbeat:
    return Heartbeat(1, "ready", "normal", 1, 1, 0, 0, 0, 0, 0.0, 0.0, 0, 0)


def join(roster: Roster, node: str, now: float, epoch: int = 1) -> None:
    roster.register(Record(node, sum(node.encode()), epoch, 1, (), {}, {}), now)
    roster.beat(node, epoch, beat(), now)


def make() -> Roster:
    keeper = ModeKeeper(dwell_s=1.0)
    names = frozenset({"risk", "api"})
    return Roster(Membership(), keeper, names, frozenset({"risk"}), term=1)


def test_story() -> None:
    roster = make()
    roster.tick(0.0)
    join(roster, "risk", 0.1)
    assert roster.missing() == {"api": "ABSENT"}
    assert roster.keeper.mode is SAFE
    join(roster, "api", 0.2)
    assert roster.tick(1.3).mode
    assert roster.keeper.mode is NORMAL
    roster.check()


def test_absent_critical_node_means_safe_until_it_is_back() -> None:
    roster = make()
    for node in ("risk", "api"):
        join(roster, node, 0.0)
    roster.tick(1.0)
    roster.beat("api", 1, beat(), 2.0)
    assert roster.tick(2.0).mode
    assert (roster.keeper.mode, roster.keeper.reason) == (SAFE, "risk is SUSPECT")
    join(roster, "risk", 2.1, epoch=2)
    roster.beat("api", 1, beat(), 3.1)
    roster.beat("risk", 2, beat(), 3.1)
    assert roster.keeper.mode is NORMAL


def test_absent_common_node_changes_nothing_once_started() -> None:
    roster = make()
    for node in ("risk", "api"):
        join(roster, node, 0.0)
    roster.tick(1.0)
    for second in range(1, 10):
        roster.beat("risk", 1, beat(), float(second))
        roster.tick(float(second))
    assert roster.missing() == {"api": "DOWN"}
    assert roster.keeper.mode is NORMAL


def test_view_and_mode_carry_the_term() -> None:
    roster = make()
    join(roster, "risk", 0.0)
    roster.operator(EMERGENCY, "drill", "ada", 0.1)
    change = roster.mode_change(since_ns=5)
    assert (change.mode, change.term, change.by, change.since) == ("emergency", 1, "ada", 5)
    assert [state.node for state in roster.view().nodes] == ["risk"]


def test_goodbye_of_a_critical_node_is_safe_at_once() -> None:
    roster = make()
    for node in ("risk", "api"):
        join(roster, node, 0.0)
    roster.tick(1.0)
    assert roster.goodbye("risk", 1, 1.1).mode
    assert roster.keeper.mode is SAFE
