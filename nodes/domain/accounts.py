"""Positions, balances and the lines that make them.

Never here: rounding, marks, reserves of open orders.
"""

from decimal import Decimal

from nodes.domain.market import Wire
from nodes.domain.numbers import ZERO


class Position(Wire, frozen=True):
    """Holding of one (account, strategy, instrument). cost, realized and fees in quote."""

    account: str
    strategy: str
    instrument: str
    signed_quantity: Decimal = ZERO  # base; below 0 is short
    cost: Decimal = ZERO  # signed: what the open quantity cost
    realized: Decimal = ZERO
    fees_quote: Decimal = ZERO


class Balance(Wire, frozen=True):
    """Money of one currency; free = total - locked."""

    account: str
    ccy: str
    total: Decimal = ZERO
    locked: Decimal = ZERO


class LedgerLine(Wire, frozen=True):
    """One change of money or holding; ref makes it unique."""

    account: str
    strategy: str
    kind: str  # FILL FEE FUNDING TRANSFER ADJUST
    instrument: str
    ccy: str
    amount: Decimal
    price: Decimal
    ref: str
