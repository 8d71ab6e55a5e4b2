"""TA-Lib indicators carried forward a bar at a time, bit-identical to the batch functions.

An indicator is named `<function>_<period>`, like ema_12. Its handle cannot be saved: it is
opened again from the last closes, which are kept for that.

Never here: money, unbounded history, the mesh.
"""

import re
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from talib import InsufficientHistory, stream  # type: ignore[attr-defined]  # not in its stubs

from mesh.errors import Invalid


class Handle(Protocol):
    """What talib.stream gives for an indicator with one output."""

    @property
    def value(self) -> float:
        """Return the value at the last bar."""

    def update(self, real: float) -> float:
        """Take the next close in and return the value there."""


Opener = Callable[[NDArray[np.float64], int], Handle]

FUNCTIONS: Final[dict[str, Opener]] = {
    "ema": lambda closes, period: stream.EMA(closes, timeperiod=period),
    "sma": lambda closes, period: stream.SMA(closes, timeperiod=period),
    "rsi": lambda closes, period: stream.RSI(closes, timeperiod=period),
}
PERIOD_MAX: Final = 1_000
_NAME: Final = re.compile(r"([a-z]+)_([1-9][0-9]{0,3})", re.ASCII)


class Indicator:
    """One indicator of one series of closes."""

    def __init__(self, name: str) -> None:
        """Raise Invalid unless *name* is a known function with a period of 2 to 1 000."""
        found = _NAME.fullmatch(name)
        if found is None or found[1] not in FUNCTIONS or not 2 <= int(found[2]) <= PERIOD_MAX:
            known = ", ".join(f"{function}_N" for function in FUNCTIONS)
            raise Invalid(f"unknown indicator {name!r}: it is one of {known}, N from 2 to 1000")
        self.name = name
        self._open = FUNCTIONS[found[1]]
        self._period = int(found[2])
        self._history: deque[float] = deque(maxlen=self._period + 2)  # only until warm
        self._handle: Handle | None = None

    def update(self, close: float) -> float | None:
        """Take the next close in; return the value there, None while warming up."""
        if self._handle is not None:
            return self._handle.update(close)
        self._history.append(close)
        try:
            self._handle = self._open(np.array(self._history), self._period)
        except InsufficientHistory:
            return None
        self._history.clear()
        return self._handle.value
