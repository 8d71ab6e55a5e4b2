"""Settings of the notification node. Never here: defaults; they live in config/genesis.toml."""

import msgspec

from mesh.errors import Invalid
from nodes.notification.rules import SEVERITIES


class NotificationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told what, and how often."""

    channels: tuple[str, ...]  # "log" or apprise URLs; they are secrets
    severity_min: str
    repeat_s: float
    per_minute_max: int

    def __post_init__(self) -> None:
        if self.severity_min not in SEVERITIES:
            raise Invalid(f"severity_min is one of {', '.join(SEVERITIES)}")
