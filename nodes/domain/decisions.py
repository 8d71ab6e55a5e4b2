"""Signals, risk decisions, alerts: opinions and verdicts, no behaviour.

Never here: limits, parameters.
"""

from decimal import Decimal

from mesh.errors import Refused
from nodes.domain.market import Wire
from nodes.domain.orders import OrderIntent


class Signal(Wire, frozen=True):
    """An opinion: direction 1, 0 or -1; never a quantity."""

    name: str
    instrument: str
    direction: int
    strength: float
    ts_event: int = 0


class RiskDecision(Wire, frozen=True):
    """Approved, or denied with a code and a sentence."""

    client_order_id: str
    strategy: str
    approved: bool
    code: str = ""
    detail: str = ""
    mode_epoch: int = 0
    ts_decided: int = 0


class ApprovedIntent(Wire, frozen=True):
    """What risk hands to execution: the wish with the approval that covers it."""

    intent: OrderIntent
    decision: RiskDecision


class Limits(Wire, frozen=True):
    """Hard limits of risk; money in quote currency."""

    order_notional_max: Decimal
    position_notional_max: Decimal
    open_orders_max: int
    collar_bps: int
    quote_max_age_ms: int


class Alert(Wire, frozen=True):
    """Something a person should see. severity: info, warning, critical."""

    severity: str
    title: str
    body: str
    ts_event: int = 0


class RiskDenied(Refused):
    """Risk refused an intent; the text begins with the deny code."""

    code = "RISK_DENIED"
