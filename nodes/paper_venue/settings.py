"""Settings of the paper venue.

Never here: defaults; they are in config/genesis.toml.
"""

from decimal import Decimal

import msgspec

from mesh.errors import Invalid
from nodes.domain.numbers import bounded


class PaperVenueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The account and its first money by currency. Raises Invalid for negative money."""

    account: str
    balances: dict[str, Decimal]

    def __post_init__(self) -> None:
        for ccy, total in self.balances.items():
            if not (bounded(total) >= 0):
                raise Invalid(f"the balance of {ccy} must not be negative")
