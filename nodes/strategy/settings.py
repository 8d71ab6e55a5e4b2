"""Settings of a strategy node. Never here: defaults; they live in config/genesis.toml."""

import msgspec


class StrategySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which strategy runs, for which account, with which parameters."""

    strategy: str  # module:Class or FILE.py:Class
    account: str
    params: dict[str, str | int | float | bool]
    submit_timeout_s: float
    resend_s: float
    settle_s: float
    checkpoint_s: float
