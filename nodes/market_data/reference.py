"""Reference: which instrument a venue symbol means, and its grid.

Never here: guesses about unknown spellings, network.
"""

from decimal import Decimal
from typing import Final

from mesh.errors import Invalid
from nodes.domain.instruments import Instrument

# Longest first: FDUSD before USD. A symbol that ends in none of these is refused.
QUOTES: Final = (
    *("FDUSD", "USDT", "USDC", "TUSD", "BUSD"),
    *("BTC", "ETH", "BNB", "EUR", "TRY", "BRL", "JPY", "USD"),
)

# tick, lot, least notional in quote: Binance's own filters of the main symbols.
GRIDS: Final[dict[str, tuple[str, str, str]]] = {
    "BTCUSDT": ("0.01", "0.00001", "5"),
    "ETHUSDT": ("0.01", "0.0001", "5"),
    "BTCUSDT-PERP": ("0.1", "0.001", "100"),
    "ETHUSDT-PERP": ("0.01", "0.001", "20"),
}
UNKNOWN_GRID: Final = ("0.00000001", "0.00000001", "0")  # finer than any: refuses nothing
SPOT_FEES: Final = ("0.001", "0.001")  # maker, taker: fractions of notional, no discounts
PERPETUAL_FEES: Final = ("0.0002", "0.0005")


def split_symbol(venue_symbol: str) -> tuple[str, str]:
    """Return base and quote of BTCUSDT. Raises Invalid where the quote is not in the table."""
    if venue_symbol.isascii() and venue_symbol.isalnum() and len(venue_symbol) <= 20:
        for quote in QUOTES:
            if venue_symbol.endswith(quote) and len(venue_symbol) > len(quote):
                return venue_symbol.removesuffix(quote), quote
    raise Invalid(f"unknown symbol: {venue_symbol[:40]!r}")


def make_instrument(venue_symbol: str, venue: str, *, perpetual: bool) -> Instrument:
    """Return the instrument that *venue_symbol* means at *venue*. Raises Invalid."""
    base, quote = split_symbol(venue_symbol)
    suffix = "-PERP" if perpetual else ""
    tick, lot, notional_min = GRIDS.get(venue_symbol + suffix, UNKNOWN_GRID)
    maker, taker = PERPETUAL_FEES if perpetual else SPOT_FEES
    return Instrument(
        symbol=f"{base}-{quote}{suffix}.{venue}",
        venue_symbol=venue_symbol,
        base=base,
        quote=quote,
        tick=Decimal(tick),
        lot=Decimal(lot),
        quantity_min=Decimal(lot),
        notional_min=Decimal(notional_min),
        maker_fee=Decimal(maker),
        taker_fee=Decimal(taker),
        kind="LINEAR" if perpetual else "SPOT",
    )


class Registry:
    """Instruments by venue symbol; a symbol of a capture is learned when first seen."""

    def __init__(self, venue: str, *, perpetual: bool = False) -> None:
        self.venue = venue
        self._perpetual = perpetual
        self._by_symbol: dict[str, Instrument] = {}

    def find(self, venue_symbol: str) -> Instrument:
        """Return the instrument of *venue_symbol*. Raises Invalid if it means nothing."""
        known = self._by_symbol.get(venue_symbol)
        if known is None:
            known = make_instrument(venue_symbol, self.venue, perpetual=self._perpetual)
            self._by_symbol[venue_symbol] = known
        return known

    @property
    def instruments(self) -> list[Instrument]:
        """Return the instruments seen so far, in the order of their first sight."""
        return list(self._by_symbol.values())
