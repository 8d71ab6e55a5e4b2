"""Settings of risk: limits are positive."""

from decimal import Decimal
from typing import Any

import pytest

from mesh.errors import Invalid
from nodes.risk.settings import RiskSettings

FINE: dict[str, Any] = {
    "order_notional_max": Decimal(10),
    "position_notional_max": Decimal(20),
    "open_orders_max": 5,
    "collar_bps": 200,
    "quote_max_age_ms": 2000,
    "submit_timeout_s": 1.5,
    "checkpoint_s": 1.0,
}


def test_limits_are_what_was_set() -> None:
    assert RiskSettings(**FINE).limits().position_notional_max == 20


@pytest.mark.parametrize("name", FINE)
def test_every_limit_is_above_zero(name: str) -> None:
    with pytest.raises(Invalid):
        RiskSettings(**{**FINE, name: type(FINE[name])(0)})
