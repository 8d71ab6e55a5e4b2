"""Which events become alerts, and how often one says so. Never here: channels."""

from decimal import Decimal

import msgspec
import pytest

from mesh.protocol.control import ModeChange
from nodes.domain.decisions import Alert, RiskDecision
from nodes.domain.market import BUY, FeedState, FeedStatus, Quote
from nodes.domain.orders import Fill
from nodes.notification.rules import Rules, alert_of


def fill(number: int) -> Fill:
    ids = "paper", f"f{number}", "ema-1-1", "v1", "ema", "X"
    return Fill(*ids, BUY, Decimal("9.50"), Decimal("0.10"), Decimal("0.01"), "USDT", "TAKER")


def mode(name: str, epoch: int = 1) -> ModeChange:
    return ModeChange(name, epoch, 1, "recorder is DOWN", 7, "coordinator")


def feed(state: FeedState) -> FeedStatus:
    return FeedStatus("X", "trade", state, 7, "no data")


def rules(severity_min: str = "info", per_minute_max: int = 100) -> Rules:
    return Rules(severity_min, repeat_s=60.0, per_minute_max=per_minute_max)


def said(heard: Alert | None) -> Alert:
    assert heard is not None
    return heard


def test_a_fill_is_told_with_its_numbers() -> None:
    alert = said(rules().handle(fill(1), 0.0))
    assert (alert.severity, alert.title) == ("info", "ema filled")
    assert alert.body == "BUY 0.1 X at 9.5, fee 0.01 USDT"


@pytest.mark.parametrize(
    ("name", "severity"),
    [("normal", "info"), ("safe", "warning"), ("emergency", "critical"), ("?", "warning")],
)
def test_a_change_of_mode_is_as_severe_as_the_mode(name: str, severity: str) -> None:
    alert = said(rules().handle(mode(name), 0.0))
    assert alert.severity == severity
    assert alert.body == "recorder is DOWN (by coordinator)"


def test_denials_are_told_and_approvals_are_not() -> None:
    denied = RiskDecision("ema-1-1", "ema", approved=False, code="COLLAR", detail="too far")
    assert said(rules().handle(denied, 0.0)).title == "ema denied: COLLAR"
    assert rules().handle(RiskDecision("ema-1-1", "ema", approved=True), 0.0) is None


def test_a_feed_is_told_when_it_fails_and_when_it_is_back() -> None:
    heard = rules()
    assert heard.handle(feed(FeedState.LIVE), 0.0) is None, "as it should be"
    assert said(heard.handle(feed(FeedState.DOWN), 1.0)).severity == "critical"
    ended = msgspec.structs.replace(feed(FeedState.DOWN), reason="END", channel="book")
    assert said(heard.handle(ended, 2.0)).severity == "info"
    assert said(heard.handle(feed(FeedState.LIVE), 2.0)).severity == "info"
    assert heard.handle(feed(FeedState.LIVE), 99.0) is None
    assert heard.handle(feed(FeedState.RESYNCING), 99.0) is None, "that passes by itself"


def test_other_events_are_no_alerts() -> None:
    one = Decimal(1)
    assert alert_of(Quote("X", one, one, Decimal(2), one)) is None


def test_the_same_alert_is_said_once_per_window() -> None:
    heard = rules()
    denied = [RiskDecision(f"ema-1-{n}", "ema", approved=False, code="RATE") for n in range(3)]
    assert heard.handle(denied[0], 0.0) is not None
    assert heard.handle(denied[1], 59.0) is None
    assert heard.handle(denied[2], 60.0) is not None
    assert heard.dropped == 1


def test_beyond_the_rate_only_critical_passes_and_the_next_tells_what_was_not_sent() -> None:
    heard = rules(per_minute_max=2)
    assert [heard.handle(fill(n), 1.0) is not None for n in range(5)] == [True, True] + [False] * 3
    alert = said(heard.handle(mode("emergency"), 2.0))
    assert alert.body.endswith("(+3 not sent)")
    assert not said(heard.handle(fill(9), 70.0)).body.endswith("not sent)")


def test_muted_means_critical_only() -> None:
    heard = rules()
    heard.mute(60.0, 0.0)
    assert heard.handle(mode("safe", 1), 1.0) is None
    assert heard.handle(mode("emergency", 2), 1.0) is not None
    assert heard.handle(mode("safe", 3), 60.0) is not None
    heard.mute(60.0, 60.0)
    heard.mute(0.0, 61.0)
    assert heard.handle(fill(1), 61.0) is not None


def test_what_is_less_than_wanted_is_not_said() -> None:
    heard = rules(severity_min="warning")
    assert heard.handle(fill(1), 0.0) is None
    assert heard.handle(mode("safe"), 0.0) is not None
