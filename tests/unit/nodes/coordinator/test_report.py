"""Report: the document of `genesis ps --json` has the fields that others rely on."""

from mesh.protocol.control import Heartbeat, Record
from mesh.protocol.membership import Membership
from mesh.protocol.mode import ModeKeeper
from nodes.coordinator.report import MIB, status
from nodes.coordinator.roster import Roster


def test_document_of_a_node_that_beats_and_one_that_does_not() -> None:
    roster = Roster(Membership(), ModeKeeper(10.0), frozenset(), frozenset(), term=4)
    for node in ("risk", "api"):
        roster.register(Record(node, sum(node.encode()), 9, 77, (), {}, {}), 0.0)
    beat = Heartbeat(1, "ready", "safe", 1, 1, 5, 0, 2, 30 * MIB, 1.5, 2.5, 80, 300)
    roster.beat("risk", 9, beat, 1.0)
    found = status(roster, 1.25)
    assert (found["mode"], found["term"]) == ("SAFE", 4)
    api, risk = found["nodes"]
    assert api["state"] == "JOINING"
    assert risk["heartbeat_age_ms"] == 250
    assert risk["latency_us"] == {"p50": 80, "p99": 300}
    assert (risk["rss_mb"], risk["pid"], risk["restarts"]) == (30.0, 77, 0)
