"""The notification node in a simulated mesh: what it hears becomes what people are told."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from mesh.errors import Invalid
from mesh.protocol.control import DURABLE, LASTVALUE, ModeChange
from mesh.sim.loopback import LoopbackMesh
from nodes.domain.decisions import Alert, RiskDecision
from nodes.domain.market import BUY, FeedState, FeedStatus
from nodes.domain.orders import Fill
from nodes.domain.schemas import SCHEMAS
from nodes.notification.node import NotificationNode
from nodes.notification.settings import NotificationSettings

BTC = "BTC-USDT.BINANCE"
FILL = Fill(
    "paper", "f1", "s-1-1", "v1", "strategy.ema", BTC, BUY, Decimal(100), Decimal(2), Decimal(1),
    "USDT", "TAKER",
)  # fmt: skip
SETTINGS = NotificationSettings(
    channels=("log",), severity_min="info", repeat_s=60.0, per_minute_max=100
)


def node() -> NotificationNode:
    return NotificationNode(SETTINGS)


def titles(mesh: LoopbackMesh) -> list[str]:
    return [alert.title for _, alert in mesh.said("alert.sent")]


@pytest.fixture
def mesh() -> Iterator[LoopbackMesh]:
    with LoopbackMesh(schemas=SCHEMAS) as mesh:
        yield mesh


def test_fills_denials_and_modes_are_told_in_the_log_and_on_the_mesh(mesh: LoopbackMesh) -> None:
    mesh.start("notification", node())
    mesh.publish(f"fill.{BTC}", FILL, DURABLE)
    denied = RiskDecision("s-1-2", "strategy.ema", approved=False, code="STALE", detail="old")
    mesh.publish("risk.decision.strategy.ema", denied, DURABLE)
    mesh.publish("sys.mode", ModeChange("safe", 2, 1, "a feed is down", 0, "coordinator"), DURABLE)
    assert titles(mesh) == ["strategy.ema filled", "strategy.ema denied: STALE", "mode safe"]
    logged = [
        line.fields["title"] for line in mesh.logged("notification") if line.event == "alert"
    ]
    assert logged == titles(mesh)


def test_how_feeds_were_before_it_came_is_no_news(mesh: LoopbackMesh) -> None:
    down = FeedStatus(BTC, "trade", FeedState.DOWN, 0, "lost")
    mesh.publish(f"md.status.{BTC}", down, LASTVALUE)
    mesh.start("notification", node())
    assert titles(mesh) == []
    mesh.publish(f"md.status.{BTC}", FeedStatus(BTC, "trade", FeedState.DOWN, 1, "lost again"))
    assert len(titles(mesh)) == 1


def test_silence_ends_by_itself(mesh: LoopbackMesh) -> None:
    mesh.start("notification", node())
    mesh.call("notification.mute", {"seconds": 30}, dict)
    mesh.publish(f"fill.{BTC}", FILL, DURABLE)
    assert titles(mesh) == []
    mesh.advance(31.0)
    mesh.publish("risk.decision.s", RiskDecision("s-1-2", "s", False, "STALE"), DURABLE)
    assert titles(mesh) == ["s denied: STALE"]


def test_a_mute_that_is_none_is_refused(mesh: LoopbackMesh) -> None:
    mesh.start("notification", node())
    for wrong in ({"seconds": -1}, {"second": 1}, {"seconds": "long"}):
        with pytest.raises(Invalid):
            mesh.call("notification.mute", wrong, dict)


def test_a_test_message_goes_through_every_channel(mesh: LoopbackMesh) -> None:
    mesh.start("notification", node())
    told = mesh.call("notification.test", {"text": "hello"}, dict)
    assert told == {"sent": ["log"], "failed": []}
    assert [(alert.severity, alert.body) for _, alert in mesh.said("alert.sent", Alert)] == [
        ("info", "hello")
    ]
