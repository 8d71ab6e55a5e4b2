"""Balancing: which of several instances gets a request.

With an affinity key always the same one while it lives (rendezvous hashing: the loss of an
instance moves only its own keys); else the better of two random ones (Mitzenmacher) by
(in flight + 1) x latency.

Never here: links, a clock, dice of its own, breakers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from math import exp
from typing import Final, NamedTuple

DECAY_S: Final = 10.0  # after it a latency counts a third
PENALTY_S: Final = 1.0  # what a failure, or a second request before the first answer, counts as


class Candidate(NamedTuple):
    """An instance that could be asked. usable: up, its link ready, breaker not open, not draining.

    cost: of Latency.
    """

    instance: str
    cost: float
    usable: bool = True


@dataclass(slots=True)
class Latency:
    """How long an instance takes to answer, and how much it has to do.

    A slow answer counts at once, a fast one slowly (peak EWMA, as in twitter/finagle): one
    that became slow is left alone now and tried again later, for what is remembered decays.
    """

    inflight: int = 0
    ewma_s: float = 0.0
    at: float | None = None  # of the last answer

    def asked(self) -> None:
        """Learn that a request was given to the instance."""
        self.inflight += 1

    def answered(self, took_s: float, now: float) -> None:
        """Learn that it answered, refusals by its rules included."""
        self.inflight -= 1
        self._learn(took_s, now)

    def failed(self, now: float) -> None:
        """Learn that it did not answer, or was overloaded: quick failures must not attract."""
        self.inflight -= 1
        self._learn(max(PENALTY_S, self.ewma_s), now)

    def left(self) -> None:
        """Learn that the caller gave up, which says nothing about the instance."""
        self.inflight -= 1

    def cost(self, now: float) -> float:
        """Return what one more request to it costs. One just joined gets one at a time."""
        if self.at is None:
            return PENALTY_S * self.inflight
        return (self.inflight + 1) * self.ewma_s * _weight(now - self.at)

    def check(self) -> None:
        """Assert every invariant."""
        assert self.inflight >= 0
        assert self.ewma_s >= 0.0

    def _learn(self, took_s: float, now: float) -> None:
        weight = 0.0 if self.at is None else _weight(now - self.at)
        self.at = now
        if took_s >= self.ewma_s:
            self.ewma_s = took_s
        else:
            self.ewma_s = self.ewma_s * weight + took_s * (1.0 - weight)


def choose(
    candidates: Iterable[Candidate], dice: Callable[[], float], affinity: bytes | None = None
) -> str | None:
    """Return the instance to ask, None if none is usable. dice() is uniform in [0, 1)."""
    usable = [candidate for candidate in candidates if candidate.usable]
    if not usable:
        return None
    if affinity is not None:
        return max(usable, key=lambda c: (_score(affinity, c.instance), c.instance)).instance
    if len(usable) == 1:
        return usable[0].instance
    first = int(dice() * len(usable))
    second = int(dice() * (len(usable) - 1))
    second += second >= first
    return min(usable[first], usable[second], key=lambda c: c.cost).instance


def _weight(age_s: float) -> float:
    return exp(-max(age_s, 0.0) / DECAY_S)


def _score(affinity: bytes, instance: str) -> bytes:
    return blake2b(instance.encode(), digest_size=8, key=blake2b(affinity).digest()).digest()
