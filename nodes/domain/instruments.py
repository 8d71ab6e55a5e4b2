"""Instrument: what can be traded, on which grid, in which state.

Never here: venue spelling beyond venue_symbol, lookups by network.
"""

from decimal import Decimal
from enum import StrEnum

from nodes.domain.market import Wire
from nodes.domain.numbers import ZERO


class InstrumentStatus(StrEnum):
    """What may be done with an instrument; unknown words of a venue mean HALTED."""

    TRADING = "TRADING"
    POST_ONLY = "POST_ONLY"
    REDUCE_ONLY = "REDUCE_ONLY"
    HALTED = "HALTED"
    CLOSED = "CLOSED"


class Instrument(Wire, frozen=True):
    """Grid, bounds and fees of one instrument; a bound of 0 is no bound."""

    symbol: str  # BTC-USDT.BINANCE
    venue_symbol: str  # BTCUSDT
    base: str
    quote: str
    tick: Decimal  # price grid, quote per base
    lot: Decimal  # quantity grid, base
    quantity_min: Decimal = ZERO
    quantity_max: Decimal = ZERO
    notional_min: Decimal = ZERO
    maker_fee: Decimal = ZERO  # fraction of notional, not bps
    taker_fee: Decimal = ZERO
    kind: str = "SPOT"  # SPOT LINEAR
    status: InstrumentStatus = InstrumentStatus.TRADING
    version: int = 1
