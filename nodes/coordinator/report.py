"""The document that `genesis ps --json` prints, made from the roster.

Never here: presentation.
"""

from typing import Any

from mesh.protocol.membership import Member
from nodes.coordinator.roster import Roster

MIB = 1024 * 1024


def status(roster: Roster, now: float) -> dict[str, Any]:
    """Return mode, term, nodes with state and figures; ages in ms, memory in MiB."""
    keeper = roster.keeper
    return {
        "mode": keeper.mode.name,
        "mode_wanted": keeper.floor.name,  # what the operator last asked for
        "mode_epoch": keeper.epoch,
        "mode_reason": keeper.reason,
        "mode_by": keeper.by,
        "term": roster.term,
        "missing": roster.missing(),
        "nodes": [
            {"node": name, **_node(member, now)}
            for name, member in sorted(roster.membership.members.items())
        ],
    }


def _node(member: Member, now: float) -> dict[str, Any]:
    beat = member.beat
    return {
        "state": member.state.value,
        "epoch": member.record.epoch,
        "pid": member.record.pid,
        "heartbeat_age_ms": int((now - member.heard_at) * 1000),
        "events_in_s": beat.events_in_s if beat else 0.0,
        "events_out_s": beat.events_out_s if beat else 0.0,
        "latency_us": {
            "p50": beat.latency_p50_us if beat else 0,
            "p99": beat.latency_p99_us if beat else 0,
        },
        "lag_p99_us": beat.lag_p99_us if beat else 0,
        "drops": beat.drops if beat else 0,
        "rss_mb": round(beat.rss_bytes / MIB, 1) if beat else 0.0,
        "restarts": member.restarts,
        "figures": beat.figures if beat else {},
    }
