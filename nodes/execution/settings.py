"""Settings of the execution node.

Never here: defaults; they are in config/genesis.toml.
"""

import msgspec

from mesh.errors import Invalid


class ExecutionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One account at one venue. Raises Invalid unless every time is positive."""

    account: str
    place_timeout_s: float
    query_timeout_s: float
    reply_budget_s: float
    approval_age_max_ms: int
    absence_window_ms: int

    def __post_init__(self) -> None:
        for name in self.__struct_fields__[1:]:
            if not (getattr(self, name) > 0):
                raise Invalid(f"{name} must be above 0")
