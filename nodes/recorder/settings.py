"""Settings of the recorder node. Never here: defaults; they live in config/genesis.toml."""

import msgspec


class RecorderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where history goes and how it is gathered up."""

    database_url: str  # a secret: it carries a password
    batch_rows_max: int
    batch_age_ms: int
    retry_max_s: float
