"""Settings of notification. Never here: files."""

import pytest

from mesh.errors import Invalid
from nodes.notification.settings import NotificationSettings


@pytest.mark.parametrize("severity", ["info", "warning", "critical"])
def test_known_severities_are_taken(severity: str) -> None:
    made = NotificationSettings(
        channels=("log",), severity_min=severity, repeat_s=1.0, per_minute_max=1
    )
    assert made.severity_min == severity


def test_an_unknown_severity_is_refused() -> None:
    with pytest.raises(Invalid, match="warning"):
        NotificationSettings(channels=(), severity_min="loud", repeat_s=1.0, per_minute_max=1)
