"""Settings of the risk node.

Never here: defaults; they are in config/genesis.toml.
"""

from decimal import Decimal

import msgspec

from mesh.errors import Invalid
from nodes.domain.decisions import Limits
from nodes.domain.numbers import bounded


class RiskSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits in quote currency, and waits. Raises Invalid unless every one is positive."""

    order_notional_max: Decimal
    position_notional_max: Decimal
    open_orders_max: int
    collar_bps: int
    quote_max_age_ms: int
    submit_timeout_s: float
    checkpoint_s: float

    def __post_init__(self) -> None:
        bounded(self.order_notional_max)
        bounded(self.position_notional_max)
        for name in self.__struct_fields__:
            if not (getattr(self, name) > 0):
                raise Invalid(f"{name} must be above 0")

    def limits(self) -> Limits:
        """Return the hard limits."""
        return Limits(
            order_notional_max=self.order_notional_max,
            position_notional_max=self.position_notional_max,
            open_orders_max=self.open_orders_max,
            collar_bps=self.collar_bps,
            quote_max_age_ms=self.quote_max_age_ms,
        )
