"""A worked example: hold a quantity while the fast average is above the slow one.

Never here: code that other strategies share.
"""

from decimal import Decimal

from nodes.strategy.sdk import EMA, Bar, Context, Params, State, Strategy


class EmaParams(Params, frozen=True):
    """What to trade, how much, and on which averages."""

    instrument: str
    interval: str
    quantity: Decimal  # base
    fast: int  # bars
    slow: int


class EmaState(State):
    """How often the position was turned."""

    flips: int = 0


class EmaCross(Strategy):
    """Long while the fast average is above the slow one, flat otherwise."""

    P = EmaParams
    S = EmaState

    def on_start(self, ctx: Context) -> None:
        """Follow both averages."""
        series = self.p.instrument, self.p.interval
        self.fast = ctx.indicator(*series, EMA(self.p.fast))
        self.slow = ctx.indicator(*series, EMA(self.p.slow))
        self.warmup = max(self.p.fast, self.p.slow)

    def on_bar(self, ctx: Context, bar: Bar) -> None:
        """Hold or be flat."""
        want = self.p.quantity if self.fast.value > self.slow.value else Decimal(0)
        if ctx.target(bar.instrument, want, reason="ema cross"):
            self.s.flips += 1
