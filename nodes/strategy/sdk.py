"""What a strategy author writes against: Strategy, Params, State and the context of a hook.

A hook reads its context and asks for actions; they leave when it has returned, none if it
raised. Quantities are base, prices quote per base, both Decimal.

Never here: sending, clocks, dice.
"""

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgspec

from mesh.errors import Invalid
from nodes.domain.market import BUY, SELL, Bar, Quote, Side
from nodes.domain.numbers import ZERO, add, bounded
from nodes.domain.orders import Fill, OrderEvent, OrderIntent, OrderKind, TimeInForce
from nodes.strategy.indicators import EMA, RSI, SMA, Indicator

MARKET = OrderKind.MARKET
LIMIT = OrderKind.LIMIT
GTC = TimeInForce.GTC

BARS_MAX = 1_000  # kept per series, for indicators that open again; fits one answer

Key: TypeAlias = tuple[str, str]  # instrument, interval
IndicatorT = TypeVar("IndicatorT", bound=Indicator)


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Numbers of a strategy, set in its section of the configuration."""


class State(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a strategy remembers over restarts; every field needs a default."""


class Submit(msgspec.Struct, frozen=True):
    """Ask risk for an order."""

    intent: OrderIntent


class Cancel(msgspec.Struct, frozen=True):
    """Take an order back."""

    client_order_id: str


Action: TypeAlias = Submit | Cancel


@dataclass(slots=True)
class Series:
    """Past bars of one instrument and interval, and what is computed from them."""

    bars: deque[Bar] = field(default_factory=lambda: deque(maxlen=BARS_MAX))
    indicators: list[Indicator] = field(default_factory=list)


@dataclass(slots=True)
class Working:
    """An order of ours that may still fill; remaining is signed, in base."""

    instrument: str
    remaining: Decimal


class Context:
    """What a hook sees and asks for. The host keeps it up to date."""

    def __init__(self, name: str, epoch: int, account: str) -> None:
        self.name, self.epoch, self.account = name, epoch, account
        self.now_ns = 0  # source time of what is being handled
        self.series: dict[Key, Series] = {}
        self.quotes: dict[str, Quote] = {}
        self.positions: dict[str, Decimal] = {}
        self.working: dict[str, Working] = {}
        self.actions: list[Action] = []
        self.prefix = f"{name}-{base36(epoch)}-"
        self._made = 0

    def indicator(self, instrument: str, interval: str, indicator: IndicatorT) -> IndicatorT:
        """Have *indicator* follow the closes of a series; call it in on_start."""
        self.follow(instrument, interval).indicators.append(indicator)
        return indicator

    def follow(self, instrument: str, interval: str) -> Series:
        """Have on_bar called for a series; call it in on_start."""
        return self.series.setdefault((instrument, interval), Series())

    def position(self, instrument: str) -> Decimal:
        """Return the signed quantity this strategy holds, by its fills."""
        return self.positions.get(instrument, ZERO)

    def exposure(self, instrument: str) -> Decimal:
        """Return the position as it will be if every working order fills."""
        exposed = self.position(instrument)
        for order in self.working.values():
            if order.instrument == instrument:
                exposed = add(exposed, order.remaining)
        return exposed

    def quote(self, instrument: str) -> Quote | None:
        """Return the last quote heard."""
        return self.quotes.get(instrument)

    def buy(self, instrument: str, quantity: Decimal, **order: Any) -> str:
        """Ask for a purchase; see :meth:`order`."""
        return self.order(instrument, BUY, quantity, **order)

    def sell(self, instrument: str, quantity: Decimal, **order: Any) -> str:
        """Ask for a sale; see :meth:`order`."""
        return self.order(instrument, SELL, quantity, **order)

    def order(
        self,
        instrument: str,
        side: Side,
        quantity: Decimal,
        *,
        price: Decimal | None = None,
        tif: TimeInForce = GTC,
        reason: str = "",
    ) -> str:
        """Ask for an order, MARKET unless there is a *price*; return its client_order_id.

        Raises Invalid unless the quantity is above 0.
        """
        if not bounded(quantity) > 0:
            raise Invalid(f"an order needs a quantity above 0, not {quantity}")
        self._made += 1
        client_order_id = self.prefix + base36(self._made)
        intent = OrderIntent(
            client_order_id=client_order_id,
            strategy=self.name,
            epoch=self.epoch,
            account=self.account,
            instrument=instrument,
            side=side,
            kind=MARKET if price is None else LIMIT,
            quantity=quantity,
            price=ZERO if price is None else price,
            tif=tif,
            reason=reason,
            ts_created=self.now_ns,
        )
        self.actions.append(Submit(intent))
        self.working[client_order_id] = Working(instrument, quantity if side is BUY else -quantity)
        return client_order_id

    def target(self, instrument: str, quantity: Decimal, *, reason: str = "") -> str | None:
        """Ask for what is missing to a signed *quantity*, working orders counted as filled."""
        missing = add(quantity, -self.exposure(instrument))
        if not missing:
            return None
        side = BUY if missing > 0 else SELL
        return self.order(instrument, side, abs(missing), reason=reason)

    def cancel(self, client_order_id: str) -> None:
        """Ask for an order to be taken back."""
        self.actions.append(Cancel(client_order_id))


class Strategy:
    """Rules: override the hooks you need. Nothing here may wait, draw lots or read a clock."""

    P: ClassVar[type[Params]] = Params
    S: ClassVar[type[State]] = State
    warmup: int = 0  # closed bars of a series before on_bar is called for it

    def __init__(self, params: Params, state: State) -> None:
        self.p: Any = params
        self.s: Any = state

    def on_start(self, ctx: Context) -> None:
        """Declare series and indicators."""

    def on_bar(self, ctx: Context, bar: Bar) -> None:
        """A followed bar closed, and the series is warm."""

    def on_quote(self, ctx: Context, quote: Quote) -> None:
        """Best bid or ask of a followed instrument changed."""

    def on_fill(self, ctx: Context, fill: Fill) -> None:
        """An order of ours traded; the position already counts it."""

    def on_order(self, ctx: Context, event: OrderEvent) -> None:
        """Something happened to an order of ours."""


def base36(number: int) -> str:
    """Return *number* (0 or more) with the digits 0-9a-z."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


__all__ = [
    "EMA",
    "RSI",
    "SMA",
    "Bar",
    "Cancel",
    "Context",
    "Params",
    "State",
    "Strategy",
    "Submit",
]
