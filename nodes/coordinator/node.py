"""The coordinator on the mesh: registrations and heartbeats in, view and mode out.

Never here: decisions (roster).
"""

from typing import Any, ClassVar

from mesh.errors import Invalid
from mesh.protocol import topics
from mesh.protocol.control import (
    DURABLE,
    LASTVALUE,
    Bye,
    Heartbeat,
    ModeChange,
    Register,
)
from mesh.protocol.envelope import decode_event, decode_value
from mesh.protocol.membership import Membership
from mesh.protocol.mode import NORMAL, ModeKeeper, SystemMode, parse_mode
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.storage.checkpoint import Checkpointer
from nodes.coordinator.report import status
from nodes.coordinator.roster import Changes, Roster
from nodes.coordinator.settings import CoordinatorSettings

TICK_S = 0.25
SYS_MODE = "sys.mode"


class Coordinator(Component):
    """Watch the heartbeats, keep the mode. Nobody's data passes through."""

    says: ClassVar = {topics.VIEW: LASTVALUE, topics.MODE: LASTVALUE, SYS_MODE: DURABLE}

    def __init__(self, settings: CoordinatorSettings) -> None:
        super().__init__(settings)
        self._since_ns = self.now_ns()
        keeper = ModeKeeper(settings.dwell_s, parse_mode(settings.start_mode))
        self._roster = Roster(
            Membership(settings.suspect_s, settings.down_s),
            keeper,
            frozenset(settings.expected),
            frozenset(settings.critical),
            term=1,
        )

    async def on_start(self) -> None:
        """Take up term, mode epoch and the operator's wish where the last run left them."""
        self._checkpoint = Checkpointer("coordinator", self.paths.checkpoints)
        saved = self._checkpoint.restore_checkpoint() or {}
        keeper = self._roster.keeper
        last = self._last_change()  # a lost checkpoint must not make us an old coordinator
        self._roster.term = max(int(saved.get("term", 0)), last.term) + 1
        keeper.epoch = max(int(saved.get("mode_epoch", 0)), last.mode_epoch) + 1
        floor = parse_mode(str(saved.get("floor", NORMAL)))
        keeper.floor = max(keeper.floor, floor, key=lambda mode: mode.severity)
        if keeper.floor.severity > keeper.mode.severity:
            keeper.mode = keeper.floor
        self._register_self()
        await self._publish(Changes(view=True, mode=True))
        self.every(TICK_S, self._tick)

    @request("mesh.register", kind="once", at_once=True)
    async def register_component(self, ask: Register, caller: str) -> ModeChange:
        """Admit a run of a node; answer with the mode in force. Raises Fenced, Denied."""
        if caller != ask.record.node:
            raise Invalid(f"{caller} registers as {ask.record.node}")
        await self._publish(self._roster.register(ask.record, self.monotonic_s()))
        return self._roster.mode_change(self._since_ns)

    @request("mesh.bye", kind="once", at_once=True)
    async def bye(self, bye: Bye, caller: str) -> None:
        """Learn that a node leaves on purpose."""
        if caller == bye.node:
            await self._publish(self._roster.goodbye(bye.node, bye.epoch, self.monotonic_s()))

    @event(topics.HEARTBEAT)
    async def on_beat(self, beat: Heartbeat, meta: EventMeta) -> None:
        """Learn how a node is."""
        now = self.monotonic_s()
        await self._publish(self._roster.beat(meta.node, meta.epoch, beat, now))

    @request("mesh.set_mode", kind="once", urgent=True, at_once=True)
    async def set_mode(self, ask: dict[str, Any], caller: str) -> dict[str, Any]:
        """Set the operator's mode; answer mode, mode_epoch, term. Raises Invalid."""
        try:
            mode = SystemMode(str(ask.get("mode", "")).lower())
        except ValueError:
            raise Invalid("mode must be normal, safe or emergency") from None
        by, reason = str(ask.get("by") or caller)[:100], str(ask.get("reason") or "")[:200]
        await self._publish(self._roster.operator(mode, reason, by, self.monotonic_s()))
        self._save()
        keeper = self._roster.keeper
        return {
            "mode": keeper.mode.name,
            "mode_epoch": keeper.epoch,
            "term": self._roster.term,
            "reason": keeper.reason,
        }

    @request("coordinator.status")
    async def status(self, _: object) -> dict[str, Any]:
        """Return the document of `genesis ps --json`."""
        await self._publish(self._beat_self())
        return status(self._roster, self.monotonic_s())

    async def _tick(self) -> None:
        await self._publish(self._beat_self())
        await self._publish(self._roster.tick(self.monotonic_s()))

    def _last_change(self) -> ModeChange:
        change = ModeChange("safe", 0, 0, "", 0, "")
        for record in self.journal.read():
            change = decode_value(decode_event(record.frame).payload, ModeChange)
        self.release(self.journal.last - 1)
        return change

    def _register_self(self) -> None:
        self._roster.register(self.bus.record, self.monotonic_s())
        self._beat_self()

    def _beat_self(self) -> Changes:
        return self._roster.beat(self.node, self.epoch, self.bus.heartbeat(), self.monotonic_s())

    async def _publish(self, changes: Changes) -> None:
        if changes.mode:
            self._since_ns = self.now_ns()
            change = self._roster.mode_change(self._since_ns)
            self._save()
            self.bus.learn_mode(change)
            await self.commit((SYS_MODE, change), patient=True)
            self.emit(topics.MODE, change)
            self.log.warning("mode", mode=change.mode, epoch=change.mode_epoch, why=change.reason)
        if changes.view:
            self.emit(topics.VIEW, self._roster.view())

    def _save(self) -> None:
        keeper = self._roster.keeper
        self._checkpoint.save_checkpoint(
            {"term": self._roster.term, "mode_epoch": keeper.epoch, "floor": keeper.floor.value}
        )
