"""BreakerNews: every turn of a node's breakers, told to the mesh, the log and the heartbeat.

Turns happen in any thread; they are told in the loop, in their order. A breaker that is dropped,
or has been closed for a while, ends its topic.

Never here: deciding turns, what an open breaker means for the mode.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import ceil, isinf
from typing import Final

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import LocalProtocolError
from mesh.protocol import topics
from mesh.protocol.breaker import CLOSED, COOLDOWN_MAX_S, OPEN, Turn
from mesh.protocol.control import BreakerTurn
from mesh.protocol.envelope import TOMBSTONE
from mesh.runtime.circuit import BREAKERS_MAX, Breakers, CircuitBreaker
from mesh.runtime.logs import Logs

CLOSED_S: Final = 60.0  # how long a closed breaker is told of
TOPICS_MAX: Final = 2 * BREAKERS_MAX  # of one run: a publisher forgets none of its topics
REASON_MAX: Final = 200

Publish = Callable[[str, BreakerTurn, int], None]  # topic, value, flags


class BreakerNews:
    """Tell of *breakers*. publish: says a last value, or ends it where the flag says so."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, breakers: Breakers, publish: Publish, log: Logs
    ) -> None:
        self.openings = 0
        self._loop, self._publish, self._log = loop, publish, log
        self._told: dict[str, tuple[BreakerTurn, float]] = {}  # by topic, and since when
        self._topics: set[str] = set()
        self._closed = False
        breakers.watch(partial(self._hand, self._turned), partial(self._hand, self._dropped))

    def counters(self) -> dict[str, float]:
        """Return how many breakers refuse calls now, and how often one opened."""
        refusing = sum(told.state != CLOSED.name for told, _ in self._told.values())
        return {"breakers_open": refusing, "breaker_openings": self.openings}

    def tick(self) -> None:
        """End the topics of those that have been closed for a while."""
        now = monotonic_s()
        for topic, (told, since) in list(self._told.items()):
            if told.state == CLOSED.name and now - since >= CLOSED_S:
                self._end(topic)

    def close(self) -> None:
        """Tell nothing any more. Closing twice is fine."""
        self._closed = True

    def _hand(self, told: Callable[..., None], *what: object) -> None:
        """Hand over to the loop, also from its own thread: so nothing overtakes."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(told, *what)

    def _turned(self, breaker: CircuitBreaker, turn: Turn) -> None:
        opened = turn.after is OPEN
        self.openings += opened and turn.before is not OPEN
        if self._closed:
            return
        log = self._log.warning if opened else self._log.info
        log("breaker", name=breaker.name, state=turn.after.name, why=turn.reason[:REASON_MAX])
        topic = topics.BREAKER + breaker.name
        told = _told(turn, monotonic_s(), wall_ns())
        self._told[topic] = told, turn.when
        if self._may_say(topic):
            self._publish(topic, told, 0)

    def _dropped(self, breaker: CircuitBreaker) -> None:
        topic = topics.BREAKER + breaker.name
        if topic in self._told and not self._closed:
            self._end(topic)

    def _end(self, topic: str) -> None:
        told, _ = self._told.pop(topic)
        if topic in self._topics:
            self._publish(topic, told, TOMBSTONE)

    def _may_say(self, topic: str) -> bool:
        """Say whether *topic* is one, and not one too many: else the log alone is told."""
        if topic not in self._topics and len(self._topics) < TOPICS_MAX:
            with suppress(LocalProtocolError):  # a key may be any text
                self._topics.add(topics.check(topic))
        return topic in self._topics


def _told(turn: Turn, now: float, now_ns: int) -> BreakerTurn:
    """Return *turn* as it is published."""
    since = now_ns - int((now - turn.when) * 1e9)
    reason = turn.reason[:REASON_MAX]
    if turn.after is CLOSED:
        return BreakerTurn(turn.after.name, reason, turn.failures, since)
    left_s = max(0.0, turn.until - now)
    if isinf(left_s):
        after_ms = int(COOLDOWN_MAX_S * 1_000)
        return BreakerTurn(turn.after.name, reason, turn.failures, since, 0, after_ms)
    until, after_ms = now_ns + int(left_s * 1e9), ceil(left_s * 1_000)
    return BreakerTurn(turn.after.name, reason, turn.failures, since, until, after_ms)
