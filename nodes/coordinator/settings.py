"""Settings of the coordinator; defaults and reasons are in config/genesis.toml.

Never here: defaults.
"""

import msgspec


class CoordinatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is expected, who is critical, and how long silence may last."""

    expected: tuple[str, ...]
    critical: tuple[str, ...]
    suspect_s: float
    down_s: float
    dwell_s: float
    start_mode: str
