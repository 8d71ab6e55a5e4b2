"""Settings of the paper venue: money is not negative."""

from decimal import Decimal

import pytest

from mesh.errors import Invalid
from nodes.paper_venue.settings import PaperVenueSettings


def test_money_is_not_negative() -> None:
    assert PaperVenueSettings(account="paper", balances={"BTC": Decimal(0)}).account == "paper"
    with pytest.raises(Invalid, match="USDT"):
        PaperVenueSettings(account="paper", balances={"USDT": Decimal(-1)})
