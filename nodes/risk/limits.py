"""The checks of risk, one small function each, in the order in which they answer.

A check is (intent, view, limits) -> Deny | None and reads `if not (x <= limit)`, so that what
cannot be compared is denied.

Never here: state, time, what to do with a denial.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from mesh.protocol.mode import SystemMode
from nodes.domain.decisions import Limits
from nodes.domain.instruments import Instrument, InstrumentStatus
from nodes.domain.market import BUY, Quote
from nodes.domain.numbers import EXACT, ZERO, add, canon, is_multiple, mul
from nodes.domain.orders import OrderIntent, OrderKind

ID_CONFLICT: Final = "ID_CONFLICT"

sub = EXACT.subtract


class Deny(NamedTuple):
    """A denial: a code for programs, a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class View:
    """What is known at one moment about one intent; quantities in base, the intent not included.

    Two positions, because the order stream and the position topic come separately: the worse
    one counts.
    """

    mode: SystemMode
    ready: bool
    known: OrderIntent | None = None  # the intent that used this client_order_id before
    instrument: Instrument | None = None
    quote: Quote | None = None
    quote_age_ms: float = float("inf")
    held: Decimal = ZERO  # signed, by the order stream
    reported: Decimal = ZERO  # signed, by execution's last position
    buying: Decimal = ZERO  # remaining of every order that may still trade
    selling: Decimal = ZERO
    price_worst: Decimal = ZERO  # highest limit price among them
    open_orders: int = 0


Check: TypeAlias = Callable[[OrderIntent, View, Limits], Deny | None]


def bad_number(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny quantities and prices that are no order."""
    priced = intent.kind in (OrderKind.LIMIT, OrderKind.STOP_LIMIT)
    if intent.quantity > 0 and (intent.price > 0 if priced else intent.price == 0):
        return None
    return Deny("BAD_NUMBER", f"quantity {canon(intent.quantity)}, price {canon(intent.price)}")


def id_conflict(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny a client_order_id that was used for another order."""
    if view.known is None or view.known == intent:
        return None
    return Deny(ID_CONFLICT, f"{intent.client_order_id} was used for another order")


def mode_blocked(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny everything in EMERGENCY, and in SAFE what does not reduce."""
    if view.mode is SystemMode.NORMAL or (view.mode is SystemMode.SAFE and reduces(intent, view)):
        return None
    return Deny("MODE_BLOCKED", f"mode {view.mode.value} forbids this order")


def not_ready(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny while execution has not told its open orders yet."""
    return None if view.ready else Deny("NOT_READY", "execution has not told its orders yet")


def unknown_instrument(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny what market data does not list."""
    if view.instrument is not None:
        return None
    return Deny("UNKNOWN_INSTRUMENT", f"no instrument {intent.instrument}")


def instrument_status(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny what the instrument's status forbids."""
    status = _listed(view).status
    allowed = (
        status is InstrumentStatus.TRADING
        or (status is InstrumentStatus.POST_ONLY and intent.post_only)
        or (status is InstrumentStatus.REDUCE_ONLY and reduces(intent, view))
    )
    return None if allowed else Deny("INSTRUMENT_STATUS", f"{intent.instrument} is {status.value}")


def kind_unsupported(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny kinds that no venue here takes."""
    if intent.kind in (OrderKind.MARKET, OrderKind.LIMIT):
        return None
    return Deny("KIND_UNSUPPORTED", f"{intent.kind.value} orders are not supported")


def px_tick(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny prices off the grid."""
    tick = _listed(view).tick
    if is_multiple(intent.price, tick):
        return None
    return Deny("PX_TICK", f"price {canon(intent.price)} is no multiple of {canon(tick)}")


def qty_lot(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny quantities off the grid."""
    lot = _listed(view).lot
    if is_multiple(intent.quantity, lot):
        return None
    return Deny("QTY_LOT", f"quantity {canon(intent.quantity)} is no multiple of {canon(lot)}")


def qty_min(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny quantities below the venue's least."""
    least = _listed(view).quantity_min
    if intent.quantity >= least:
        return None
    return Deny("QTY_MIN", f"quantity {canon(intent.quantity)} is below {canon(least)}")


def qty_max(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny quantities above the venue's most; 0 is no bound."""
    most = _listed(view).quantity_max
    if not most or intent.quantity <= most:
        return None
    return Deny("QTY_MAX", f"quantity {canon(intent.quantity)} is above {canon(most)}")


def notional_min(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny values below the venue's least."""
    least, notional = _listed(view).notional_min, _notional(intent, view)
    if notional is None or notional >= least:
        return None
    return Deny("NOTIONAL_MIN", f"notional {canon(notional)} is below {canon(least)}")


def notional_max(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny values above our limit."""
    notional = _notional(intent, view)
    if notional is None or notional <= limits.order_notional_max:
        return None
    most = canon(limits.order_notional_max)
    return Deny("NOTIONAL_MAX", f"notional {canon(notional)} is above {most}")


def no_mark(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny where no price is known at all."""
    return Deny("NO_MARK", f"no quote of {intent.instrument}") if view.quote is None else None


def stale_book(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny on quotes that are too old."""
    if view.quote_age_ms <= limits.quote_max_age_ms:
        return None
    return Deny(
        "STALE_BOOK", f"the quote of {intent.instrument} is {view.quote_age_ms:.0f} ms old"
    )


def collar(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny prices too far from the middle of the quote."""
    quote = _quoted(view)
    price = _price(intent, quote)
    twice_mid = add(quote.bid, quote.ask)
    away = mul(sub(mul(price, Decimal(2)), twice_mid).copy_abs(), Decimal(10_000))
    if away <= mul(twice_mid, Decimal(limits.collar_bps)):
        return None
    return Deny("COLLAR", f"price {canon(price)} is over {limits.collar_bps} bps from the mid")


def reduce_only(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny reduce-only orders that would grow or flip the position."""
    if not intent.reduce_only or reduces(intent, view):
        return None
    return Deny("REDUCE_ONLY", "the order would grow or flip the position")


def open_orders(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny one order too many."""
    if view.open_orders + 1 <= limits.open_orders_max:
        return None
    return Deny("OPEN_ORDERS", f"{view.open_orders} orders are open")


def exposure_instrument(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Deny if the worst case of all that may trade exceeds the position limit.

    A reducing order passes: a position that outgrew the limit must be reducible.
    """
    if reduces(intent, view):
        return None
    quote = _quoted(view)
    buy = intent.side is BUY
    buying = add(view.buying, intent.quantity) if buy else view.buying
    selling = view.selling if buy else add(view.selling, intent.quantity)
    worst = max(
        side.copy_abs()
        for held in (view.held, view.reported)
        for side in (add(held, buying), sub(held, selling))
    )
    notional = mul(worst, max(quote.ask, view.price_worst, intent.price))
    if notional <= limits.position_notional_max:
        return None
    most = canon(limits.position_notional_max)
    return Deny("EXPOSURE_INSTRUMENT", f"worst case {canon(notional)} is above {most}")


CHECKS: Final[tuple[Check, ...]] = (
    bad_number,
    id_conflict,
    mode_blocked,
    not_ready,
    unknown_instrument,
    instrument_status,
    kind_unsupported,
    px_tick,
    qty_lot,
    qty_min,
    qty_max,
    notional_min,
    notional_max,
    no_mark,
    stale_book,
    collar,
    reduce_only,
    open_orders,
    exposure_instrument,
)


def first_denial(intent: OrderIntent, view: View, limits: Limits) -> Deny | None:
    """Return the first denial in order, or None: approved."""
    return next((deny for check in CHECKS if (deny := check(intent, view, limits))), None)


def reduces(intent: OrderIntent, view: View) -> bool:
    """Say whether the intent, with all same-side orders, neither grows nor flips the position."""
    buy = intent.side is BUY
    after = add(view.buying if buy else view.selling, intent.quantity)
    return all(
        (held < 0 if buy else held > 0) and after <= held.copy_abs()
        for held in (view.held, view.reported)
    )


def _listed(view: View) -> Instrument:
    assert view.instrument is not None  # unknown_instrument answers before
    return view.instrument


def _quoted(view: View) -> Quote:
    assert view.quote is not None  # no_mark answers before
    return view.quote


def _price(intent: OrderIntent, quote: Quote) -> Decimal:
    if intent.price:
        return intent.price
    return quote.ask if intent.side is BUY else quote.bid


def _notional(intent: OrderIntent, view: View) -> Decimal | None:
    if not intent.price and view.quote is None:
        return None  # no_mark answers
    price = intent.price or _price(intent, _quoted(view))
    return mul(price, intent.quantity)
