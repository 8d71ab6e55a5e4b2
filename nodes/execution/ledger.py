"""The ledger: positions and balances, as nothing but the sum of fills and transfers.

Average cost: same direction adds cost; the opposite removes its share and realizes the rest,
so that at flat realized equals the cash flow exactly. A fill through zero is split.

Never here: marks, unrealized profit, rounding except of removed cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

import msgspec

from nodes.domain.accounts import Balance, LedgerLine, Position
from nodes.domain.market import BUY
from nodes.domain.numbers import EXACT, ZERO, add, mul, ratio
from nodes.domain.orders import Fill, Order

Holder: TypeAlias = tuple[str, str, str]  # account, strategy, instrument

sub = EXACT.subtract


def currencies(instrument: str) -> tuple[str, str]:
    """Return base and quote of an instrument id: BTC-USDT.BINANCE has BTC and USDT."""
    base, quote, *_ = instrument.partition(".")[0].split("-")
    return base, quote


def after_fill(position: Position, fill: Fill) -> Position:
    """Return *position* after *fill*; its fee is not booked here."""
    signed = fill.quantity if fill.side is BUY else fill.quantity.copy_negate()
    held = position.signed_quantity
    if not held or (held > 0) == (signed > 0):
        return msgspec.structs.replace(
            position,
            signed_quantity=add(held, signed),
            cost=add(position.cost, mul(signed, fill.price)),
        )
    if fill.quantity > held.copy_abs():  # through zero: close all, then open the rest
        closing = msgspec.structs.replace(fill, quantity=held.copy_abs())
        opening = msgspec.structs.replace(fill, quantity=sub(fill.quantity, held.copy_abs()))
        return after_fill(after_fill(position, closing), opening)
    whole = fill.quantity == held.copy_abs()
    share = mul(position.cost, fill.quantity)
    removed = position.cost if whole else ratio(share, held.copy_abs())
    cash = mul(signed, fill.price).copy_negate()
    return msgspec.structs.replace(
        position,
        signed_quantity=add(held, signed),
        cost=sub(position.cost, removed),
        realized=add(position.realized, sub(cash, removed)),
    )


@dataclass(slots=True)
class Ledger:
    """Positions by holder and totals by (account, currency)."""

    positions: dict[Holder, Position] = field(default_factory=dict)
    totals: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    refs: set[str] = field(default_factory=set)  # of applied lines

    def apply_fill(self, fill: Fill) -> Position:
        """Book a fill that was not booked before; return the position after it."""
        base, quote = currencies(fill.instrument)
        holder = (fill.account, fill.strategy, fill.instrument)
        position = after_fill(self.positions.get(holder, Position(*holder)), fill)
        if fill.fee_ccy == quote:
            fees = add(position.fees_quote, fill.fee)
            position = msgspec.structs.replace(position, fees_quote=fees)
        self.positions[holder] = position
        signed = fill.quantity if fill.side is BUY else fill.quantity.copy_negate()
        self._move(fill.account, base, signed)
        self._move(fill.account, quote, mul(signed, fill.price).copy_negate())
        self._move(fill.account, fill.fee_ccy, fill.fee.copy_negate())
        return position

    def apply_line(self, line: LedgerLine) -> None:
        """Book a transfer or adjustment once per ref."""
        if line.ref not in self.refs:
            self.refs.add(line.ref)
            self._move(line.account, line.ccy, line.amount)

    def balances(self, account: str, working: Iterable[Order]) -> list[Balance]:
        """Return the account's balances, locked by what its working orders reserve."""
        locked: dict[str, Decimal] = {}
        for order in working:
            ccy, amount = reserve(order)
            locked[ccy] = add(locked.get(ccy, ZERO), amount)
        return [
            Balance(account, ccy, total, locked.get(ccy, ZERO))
            for (owner, ccy), total in sorted(self.totals.items())
            if owner == account
        ]

    def held(self, account: str, strategy: str, instrument: str) -> Decimal:
        """Return the signed quantity of a position, in base."""
        position = self.positions.get((account, strategy, instrument))
        return position.signed_quantity if position else ZERO

    def _move(self, account: str, ccy: str, amount: Decimal) -> None:
        key = (account, ccy)
        self.totals[key] = add(self.totals.get(key, ZERO), amount)


def reserve(order: Order) -> tuple[str, Decimal]:
    """Return currency and amount that *order* holds back, fees aside.

    A market buy reserves nothing here: its price is not known before the venue's.
    """
    base, quote = currencies(order.intent.instrument)
    left = order.remaining
    return (quote, mul(left, order.intent.price)) if order.intent.side is BUY else (base, left)
