"""Orders: intent, state, order, fill and the events that tell of them.

Never here: the transition table's application to books of orders (execution), venue calls.
"""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Final

from mesh.errors import Invalid
from nodes.domain.market import Side, Wire
from nodes.domain.numbers import EXACT, ZERO, bounded

REASON_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class OrderKind(StrEnum):
    """MARKET takes what is there; LIMIT never trades worse than its price."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP_MARKET = "STOP_MARKET"
    STOP_LIMIT = "STOP_LIMIT"


class TimeInForce(StrEnum):
    """How long the rest of an order lives."""

    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"


class OrderState(StrEnum):
    """Where an order stands; UNKNOWN counts at worst case until the venue proves it."""

    NEW = "NEW"
    DENIED = "DENIED"
    PENDING = "PENDING"
    OPEN = "OPEN"
    PARTIAL = "PARTIAL"
    FILLED = "FILLED"
    REJECTED = "REJECTED"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"
    REPLACING = "REPLACING"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"


NEW = OrderState.NEW
DENIED = OrderState.DENIED
PENDING = OrderState.PENDING
OPEN = OrderState.OPEN
PARTIAL = OrderState.PARTIAL
FILLED = OrderState.FILLED
REJECTED = OrderState.REJECTED
CANCELING = OrderState.CANCELING
CANCELED = OrderState.CANCELED
REPLACING = OrderState.REPLACING
EXPIRED = OrderState.EXPIRED
UNKNOWN = OrderState.UNKNOWN

TERMINAL: Final = frozenset({DENIED, FILLED, REJECTED, CANCELED, EXPIRED})
WORKING: Final = frozenset({PENDING, OPEN, PARTIAL, CANCELING, REPLACING, UNKNOWN})


class OrderIntent(Wire, frozen=True):
    """A strategy's wish. price: quote per base, 0 for MARKET; quantity: base."""

    client_order_id: str  # <strategy>-<epoch>-<n>
    strategy: str
    epoch: int
    account: str
    instrument: str
    side: Side
    kind: OrderKind
    quantity: Decimal
    price: Decimal = ZERO
    tif: TimeInForce = TimeInForce.GTC
    reduce_only: bool = False
    post_only: bool = False
    reason: str = ""
    ts_created: int = 0

    def __post_init__(self) -> None:
        bounded(self.quantity)
        bounded(self.price)
        if not (_NAME.fullmatch(self.client_order_id) and _NAME.fullmatch(self.strategy)):
            raise Invalid("client_order_id and strategy are names of at most 64 characters")
        if len(self.reason) > REASON_MAX or max(len(self.account), len(self.instrument)) > 64:
            raise Invalid(f"reason of an intent above {REASON_MAX} characters, or a name above 64")


class Order(Wire, frozen=True):
    """An order as execution knows it; filled in base, notional in quote."""

    intent: OrderIntent
    state: OrderState
    venue_order_id: str = ""
    filled: Decimal = ZERO
    notional: Decimal = ZERO
    reason: str = ""
    ts_state: int = 0
    doubt: str = ""  # SUBMIT CANCEL MISSING CONFLICT while UNKNOWN

    @property
    def remaining(self) -> Decimal:
        """Return the quantity still to be filled, in base; never below 0."""
        return max(ZERO, EXACT.subtract(self.intent.quantity, self.filled))


class Fill(Wire, frozen=True):
    """Our part of a trade. fee in fee_ccy; liquidity MAKER or TAKER."""

    account: str
    fill_id: str
    client_order_id: str
    venue_order_id: str
    strategy: str
    instrument: str
    side: Side
    price: Decimal
    quantity: Decimal
    fee: Decimal
    fee_ccy: str
    liquidity: str
    ts_event: int = 0


class OrderEvent(Wire, frozen=True):
    """A fact about an order: what happened, and the order after it."""

    event: str  # rec ack ref fill full exp cxl cok cno dbt live abs deny
    order: Order


class VenueReport(Wire, frozen=True):
    """A fact of a venue's private stream; fill only with event fill."""

    event: str  # ack ref fill exp cok cno
    client_order_id: str
    venue_order_id: str
    reason: str = ""
    fill: Fill | None = None
    ts_event: int = 0

    def __post_init__(self) -> None:
        if max(len(self.reason), len(self.venue_order_id), len(self.client_order_id)) > 500:
            raise Invalid("a text of a venue report above 500 characters")


class VenueOrder(Wire, frozen=True):
    """A venue's answer about one order, with the time of its own clock."""

    found: bool
    status: str  # OPEN FILLED CANCELED EXPIRED REJECTED, or empty
    venue_order_id: str
    filled: Decimal
    server_ts: int
    fills: tuple[Fill, ...] = ()
