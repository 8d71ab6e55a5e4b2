"""Membership: the coordinator's roster and what each sign of life does to it.

    JOINING -> UP <-> SUSPECT -> DOWN        any -> LEFT on goodbye
    a higher epoch beats everything; only a register refutes DOWN

Never here: timers, sockets, what a death means for the mode.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mesh.errors import Conflict, Fenced
from mesh.protocol.control import Heartbeat, Record


class MemberState(StrEnum):
    """What is known of a node."""

    JOINING = "JOINING"
    UP = "UP"
    SUSPECT = "SUSPECT"
    DOWN = "DOWN"
    DRAINING = "DRAINING"
    LEFT = "LEFT"


JOINING = MemberState.JOINING
UP = MemberState.UP
SUSPECT = MemberState.SUSPECT
DOWN = MemberState.DOWN
DRAINING = MemberState.DRAINING
LEFT = MemberState.LEFT


class Sign(StrEnum):
    """What is learned of a node; register opens a run, the others belong to it."""

    REGISTER = "register"
    BEAT = "beat"
    SILENT = "silent"  # for suspect_s
    LOST = "lost"  # silent for down_s
    DRAIN = "drain"
    GOODBYE = "goodbye"


# Exact: what is not written here changes nothing.
TRANSITIONS: Final = {
    JOINING: {Sign.BEAT: UP, Sign.LOST: DOWN, Sign.DRAIN: DRAINING, Sign.GOODBYE: LEFT},
    UP: {Sign.SILENT: SUSPECT, Sign.DRAIN: DRAINING, Sign.GOODBYE: LEFT},
    SUSPECT: {Sign.BEAT: UP, Sign.LOST: DOWN, Sign.DRAIN: DRAINING, Sign.GOODBYE: LEFT},
    DRAINING: {Sign.LOST: DOWN, Sign.GOODBYE: LEFT},
    DOWN: {Sign.REGISTER: JOINING},
    LEFT: {Sign.REGISTER: JOINING},
}


@dataclass(slots=True)
class Member:
    """One node as the coordinator knows it; heard_at in monotonic seconds."""

    record: Record
    state: MemberState
    heard_at: float
    restarts: int = 0
    beat: Heartbeat | None = None


@dataclass(slots=True)
class Membership:
    """Keep the roster; every method returns True if the view changed."""

    suspect_s: float = 1.5
    down_s: float = 5.0
    members: dict[str, Member] = field(default_factory=dict)
    rev: int = 0

    def register(self, record: Record, now: float) -> bool:
        """Admit a run. Raises Fenced for an older epoch, Conflict for a stolen nid."""
        for other in self.members.values():
            if other.record.nid == record.nid and other.record.node != record.node:
                raise Conflict(f"{record.node} and {other.record.node} share a node id")
        known = self.members.get(record.node)
        if known is None:
            self.members[record.node] = Member(record, JOINING, now)
            return self._changed()
        if record.epoch < known.record.epoch:
            raise Fenced(f"{record.node}: epoch {record.epoch} is over")
        if record.epoch == known.record.epoch:
            known.heard_at = now
            known.record = record
            return self._learn(known, Sign.REGISTER)
        restarts = known.restarts + 1
        self.members[record.node] = Member(record, JOINING, now, restarts)
        return self._changed()

    def beat(self, node: str, epoch: int, beat: Heartbeat, now: float) -> bool:
        """Learn a heartbeat; one of an older or unknown run changes nothing."""
        member = self._run(node, epoch)
        if member is None:
            return False
        member.heard_at, member.beat = now, beat
        return self._learn(member, Sign.DRAIN if beat.state == "draining" else Sign.BEAT)

    def goodbye(self, node: str, epoch: int) -> bool:
        """Learn that a run ended on purpose."""
        member = self._run(node, epoch)
        return member is not None and self._learn(member, Sign.GOODBYE)

    def lost(self, node: str) -> bool:
        """Learn from better evidence than silence that a node is dead."""
        member = self.members.get(node)
        if member is None:
            return False
        silent = self._learn(member, Sign.SILENT)
        return self._learn(member, Sign.LOST) or silent

    def tick(self, now: float) -> bool:
        """Judge the silence of every node at *now*."""
        changed = False
        for member in self.members.values():
            silence = now - member.heard_at
            if silence >= self.suspect_s:
                changed |= self._learn(member, Sign.SILENT)
            if silence >= self.down_s:
                changed |= self._learn(member, Sign.LOST)
        return changed

    def up(self) -> set[str]:
        """Return the names of all nodes that are UP."""
        return {name for name, member in self.members.items() if member.state is UP}

    def _run(self, node: str, epoch: int) -> Member | None:
        member = self.members.get(node)
        return member if member is not None and member.record.epoch == epoch else None

    def _learn(self, member: Member, sign: Sign) -> bool:
        after = TRANSITIONS[member.state].get(sign)
        if after is None:
            return False
        member.state = after
        return self._changed()

    def _changed(self) -> bool:
        self.rev += 1
        return True
