"""Roster: membership and mode decided together: what is away or sick tightens the mode.

    expected and not UP yet, at the start   -> SAFE "starting"
    critical and not UP                     -> SAFE "<node> is <state>"
    all well for dwell_s                    -> what the operator asked for

Never here: sockets, files, who may ask.
"""

from dataclasses import dataclass

from mesh.protocol.control import Heartbeat, ModeChange, NodeState, Record, View
from mesh.protocol.membership import UP, Membership
from mesh.protocol.mode import SAFE, ModeKeeper, SystemMode


@dataclass(slots=True)
class Changes:
    """What an input changed: publish the view, commit and publish the mode."""

    view: bool = False
    mode: bool = False


@dataclass(slots=True)
class Roster:
    """Decide view and mode from records, beats and the operator; told the time."""

    membership: Membership
    keeper: ModeKeeper
    expected: frozenset[str]
    critical: frozenset[str]
    term: int
    started: bool = False  # every expected node has been UP once

    def register(self, record: Record, now: float) -> Changes:
        """Admit a run. Raises Fenced, Conflict."""
        return self._judge(now, view=self.membership.register(record, now))

    def beat(self, node: str, epoch: int, beat: Heartbeat, now: float) -> Changes:
        """Learn a heartbeat."""
        return self._judge(now, view=self.membership.beat(node, epoch, beat, now))

    def goodbye(self, node: str, epoch: int, now: float) -> Changes:
        """Learn that a run ended on purpose."""
        return self._judge(now, view=self.membership.goodbye(node, epoch))

    def operator(self, mode: SystemMode, reason: str, by: str, now: float) -> Changes:
        """Set the operator's floor."""
        return Changes(mode=self.keeper.operator(mode, reason, by, now))

    def tick(self, now: float) -> Changes:
        """Judge silences and dwell at *now*."""
        return self._judge(now, view=self.membership.tick(now))

    def view(self) -> View:
        """Return the roster as others hear it."""
        return View(
            self.term,
            self.membership.rev,
            tuple(
                NodeState(name, member.record.epoch, member.state.value, member.record.pid)
                for name, member in sorted(self.membership.members.items())
            ),
        )

    def mode_change(self, since_ns: int) -> ModeChange:
        """Return the mode in force as others hear it."""
        keeper = self.keeper
        return ModeChange(
            keeper.mode.value, keeper.epoch, self.term, keeper.reason, since_ns, keeper.by
        )

    def missing(self) -> dict[str, str]:
        """Return the state of every expected node that is not UP."""
        members = self.membership.members
        return {
            name: members[name].state.value if name in members else "ABSENT"
            for name in sorted(self.expected)
            if name not in members or members[name].state is not UP
        }

    def check(self) -> None:
        """Assert every invariant."""
        self.keeper.check()
        assert self.critical <= self.expected

    def _judge(self, now: float, *, view: bool) -> Changes:
        missing = self.missing()
        self.started = self.started or not missing
        for name in self.expected:
            bad = name in missing and (name in self.critical or not self.started)
            text = f"{name} is {missing.get(name)}"
            self._clear(name, keep=text if bad else "")
            if bad:
                self.keeper.cause(text, SAFE)
        return Changes(view, self.keeper.update(now))

    def _clear(self, name: str, *, keep: str) -> None:
        for cause in [c for c in self.keeper.causes if c.startswith(f"{name} is ") and c != keep]:
            self.keeper.cause(cause, None)
