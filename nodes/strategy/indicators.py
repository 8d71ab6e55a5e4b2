"""TA-Lib indicators for strategies: declared once, opened again from past bars at any time.

Never here: sockets, money, the mesh.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from talib import InsufficientHistory, stream  # type: ignore[attr-defined]  # not in its stubs

Update = Callable[[float], float]


class Indicator:
    """One value per bar; None until enough bars have come."""

    def __init__(self, period: int, opened: Callable[[NDArray[np.float64]], tuple[float, Update]]):
        """*opened* gives the value at the last close and the way to go on; may raise."""
        if period < 2:
            raise ValueError(f"an indicator's period is 2 or more, not {period}")
        self._opened = opened
        self._bars_max = period + 2
        self._closes: list[float] = []
        self._update: Update | None = None
        self.current: float | None = None

    @property
    def ready(self) -> bool:
        """Say whether there is a value."""
        return self.current is not None

    @property
    def value(self) -> float:
        """Return the value at the last bar. Raises ValueError while warming up."""
        if self.current is None:
            raise ValueError("the indicator is still warming up")
        return self.current

    def update(self, close: float) -> None:
        """Carry the indicator forward by one closed bar."""
        if self._update is not None:
            self.current = self._update(close)
            return
        self._closes.append(close)
        del self._closes[: -self._bars_max]
        self._open()

    def reopen(self, closes: Iterable[float]) -> None:
        """Forget everything and begin again from *closes*, oldest first."""
        self._closes, self._update, self.current = list(closes), None, None
        self._open()

    def _open(self) -> None:
        if not self._closes:
            return
        try:
            self.current, self._update = self._opened(np.array(self._closes))
        except InsufficientHistory:
            return
        self._closes = []


class EMA(Indicator):
    """Exponential moving average of closes."""

    def __init__(self, period: int) -> None:
        super().__init__(period, lambda closes: _parts(stream.EMA(closes, timeperiod=period)))


class SMA(Indicator):
    """Simple moving average of closes."""

    def __init__(self, period: int) -> None:
        super().__init__(period, lambda closes: _parts(stream.SMA(closes, timeperiod=period)))


class RSI(Indicator):
    """Relative strength index of closes, 0 to 100."""

    def __init__(self, period: int) -> None:
        super().__init__(period, lambda closes: _parts(stream.RSI(closes, timeperiod=period)))


def _parts(handle: stream.EMA | stream.SMA | stream.RSI) -> tuple[float, Update]:
    return handle.value, handle.update
