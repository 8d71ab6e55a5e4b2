"""Dice: pseudo-random integers from a seed, the same on every platform.

Never here: floats, seeds of its own.
"""

from typing import Final

_MASK: Final = 2**64 - 1


class Dice:
    """xorshift64*; good enough for a market of toys, not for secrets."""

    def __init__(self, seed: int) -> None:
        state = (seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & _MASK
        self._state = state or 1  # zero would stay zero

    def below(self, n: int) -> int:
        """Return an integer of [0, n), n < 2^32."""
        x = self._state
        x ^= x >> 12
        x = (x ^ (x << 25)) & _MASK
        x ^= x >> 27
        self._state = x
        return (((x * 0x2545F4914F6CDD1D) & _MASK) >> 32) * n >> 32

    def between(self, least: int, most: int) -> int:
        """Return an integer of [least, most]."""
        return least + self.below(most - least + 1)

    def normal(self, sigma: int) -> int:
        """Return a normal draw around 0: the sum of twelve uniform ones."""
        total = sum(self.below(2_001) for _ in range(12)) - 12_000
        return total * sigma // 2_000
