"""The account: money by currency, and what open orders reserve of it.

Fees are in quote currency for both sides. Conservation: money changes only by settle().

Never here: matching, orders.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, TypeAlias

from nodes.domain.accounts import Balance
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, Side
from nodes.domain.numbers import EXACT, ZERO, add, bounded, floor_to, mul
from nodes.domain.orders import Fill

Reserve: TypeAlias = tuple[str, Decimal]  # currency and amount

_FINEST: Final = Decimal("1e-18")  # of every number on the wire

sub = EXACT.subtract


def fee_of(notional: Decimal, rate: Decimal) -> Decimal:
    """Return the fee in quote; never above the exact one, so that reserves suffice."""
    fee = mul(notional, rate)
    return bounded(floor_to(fee, _FINEST)) if fee > 0 else fee


def reserve_of(instrument: Instrument, side: Side, quantity: Decimal, price: Decimal) -> Reserve:
    """Return what an order of *quantity* at *price* must hold back, its fee included."""
    if side is not BUY:
        return instrument.base, quantity
    rate = max(ZERO, instrument.maker_fee, instrument.taker_fee)
    notional = mul(price, quantity)
    return instrument.quote, add(notional, mul(notional, rate))


@dataclass(slots=True)
class Account:
    """Totals by currency and reserves by client_order_id."""

    name: str
    totals: dict[str, Decimal] = field(default_factory=dict)
    reserves: dict[str, Reserve] = field(default_factory=dict)

    def free(self, ccy: str) -> Decimal:
        """Return what may still be reserved."""
        return sub(self.totals.get(ccy, ZERO), self._locked(ccy))

    def hold(self, coid: str, reserve: Reserve) -> None:
        """Set an order's reserve; nothing left releases it."""
        if reserve[1]:
            self.reserves[coid] = reserve
        else:
            self.reserves.pop(coid, None)

    def settle(self, fill: Fill, base: str, quote: str) -> None:
        """Move money for a fill: base, quote and the fee."""
        signed = fill.quantity if fill.side is BUY else fill.quantity.copy_negate()
        self._move(base, signed)
        self._move(quote, mul(signed, fill.price).copy_negate())
        self._move(fill.fee_ccy, fill.fee.copy_negate())

    def balances(self) -> list[Balance]:
        """Return every balance, by currency."""
        return [
            Balance(self.name, ccy, total, bounded(floor_to(self._locked(ccy), _FINEST)))
            for ccy, total in sorted(self.totals.items())
        ]

    def check(self) -> None:
        """Assert that nothing is promised twice and nothing is below zero."""
        for ccy, total in self.totals.items():
            assert 0 <= self._locked(ccy) <= total, (ccy, total, self._locked(ccy))

    def _locked(self, ccy: str) -> Decimal:
        locked = ZERO
        for of, amount in self.reserves.values():
            if of == ccy:
                locked = add(locked, amount)
        return locked

    def _move(self, ccy: str, amount: Decimal) -> None:
        self.totals[ccy] = add(self.totals.get(ccy, ZERO), amount)
