"""The notification node on the mesh: hears what matters, tells people.

Never here: which events matter, how a channel works.
"""

import asyncio
from typing import Any, ClassVar

import msgspec

from mesh.errors import Invalid
from mesh.protocol.control import EPHEMERAL, ModeChange
from mesh.runtime.component import Component, EventMeta, event, request
from nodes.domain.decisions import Alert, RiskDecision
from nodes.domain.market import FeedStatus
from nodes.domain.orders import Fill
from nodes.domain.schemas import SCHEMAS
from nodes.notification.channels import Channels
from nodes.notification.rules import INFO, Rules
from nodes.notification.settings import NotificationSettings

UNSENT_MAX = 256  # alerts that wait for delivery; the newest are dropped beyond
MUTE_MAX_S = 86_400.0


class MuteOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What notification.mute is asked; 0 ends the silence."""

    seconds: float = 3_600.0


class NotificationNode(Component):
    """Tells people what they should know."""

    says: ClassVar = {"alert.sent": EPHEMERAL}
    schemas = SCHEMAS

    def __init__(self, settings: NotificationSettings) -> None:
        super().__init__(settings)
        self.rules = Rules(settings.severity_min, settings.repeat_s, settings.per_minute_max)
        self.channels = Channels(settings.channels, self.write)
        self.unsent: asyncio.Queue[Alert] = asyncio.Queue(UNSENT_MAX)

    async def on_start(self) -> None:
        """Check the channels."""
        await self.channels.open()
        for breaker in self.channels.breakers:
            self.breakers.adopt(breaker)
        self.spawn(self.deliver(), "deliver alerts")

    async def on_stop(self) -> None:
        """Let go of the channels."""
        self.channels.close()

    @event("fill.", durable=True)
    async def on_fill(self, fill: Fill, meta: EventMeta) -> None:
        """Tell of a fill."""
        self.consider(fill)

    @event("sys.mode", durable=True)
    async def on_mode_change(self, change: ModeChange, meta: EventMeta) -> None:
        """Tell of a change of mode."""
        self.consider(change)

    @event("risk.decision.", durable=True)
    async def on_decision(self, decision: RiskDecision, meta: EventMeta) -> None:
        """Tell of a denial."""
        self.consider(decision)

    @event("md.status.")
    def on_status(self, status: FeedStatus, meta: EventMeta) -> None:
        """Tell of a feed that failed or came back; not of how things were when we started."""
        if not meta.snapshot:
            self.consider(status)

    @request("notification.test", kind="once", timeout_s=30.0)
    async def send_test(self, arg: dict[str, Any] | None, caller: str) -> dict[str, list[str]]:
        """Send a message through every channel; return which worked."""
        text = str((arg or {}).get("text", "a test of the channels"))[:500]
        return await self.tell(Alert(INFO, "Genesis test", text, self.now_ns()))

    @request("notification.mute", timeout_s=1.0)
    def mute(self, arg: dict[str, Any] | None, caller: str) -> dict[str, float]:
        """Say nothing but critical for some time; return for how long."""
        try:
            order = msgspec.convert(arg or {}, MuteOrder)
        except msgspec.ValidationError as error:
            raise Invalid(f"notification.mute: {error}") from None
        if not 0.0 <= order.seconds <= MUTE_MAX_S:
            raise Invalid(f"mute for 0 to {MUTE_MAX_S:.0f} seconds")
        self.rules.mute(order.seconds, self.monotonic_s())
        return {"seconds": order.seconds}

    def consider(self, happened: object) -> None:
        """Queue the alert that an event deserves, if any."""
        alert = self.rules.handle(happened, self.monotonic_s())
        if alert is None:
            return
        if self.unsent.full():
            self.rules.dropped += 1
        else:
            self.unsent.put_nowait(alert)
        self.report("alerts_dropped", self.rules.dropped)

    async def deliver(self) -> None:
        """Deliver one alert after the other."""
        while True:
            await self.tell(await self.unsent.get())

    async def tell(self, alert: Alert) -> dict[str, list[str]]:
        """Send an alert everywhere and tell the mesh of it."""
        sent, failed = await self.channels.send(alert)
        if failed:
            self.log.warning("alert_not_delivered", title=alert.title, channels=failed)
        self.emit("alert.sent", alert)
        return {"sent": sent, "failed": failed}

    def write(self, alert: Alert) -> None:
        """Put an alert into the log, where it cannot be lost on the way."""
        log = self.log.info if alert.severity == INFO else self.log.warning
        log("alert", severity=alert.severity, title=alert.title, body=alert.body)
