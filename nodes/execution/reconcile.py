"""Reconciliation: what a venue's answer about one order proves.

Found is evidence. Not found proves absence only when the venue's own clock has passed our
attempt by its window, in two answers some time apart; before that it proves nothing.

Never here: calls, retries by count, the local clock.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

from nodes.domain.orders import UNKNOWN, Order, VenueOrder
from nodes.execution.blotter import Evidence

DELAYS_S: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
APART_NS: Final = 2_000_000_000  # between two answers that prove absence

_EVENTS: Final = {"OPEN": "live", "CANCELED": "cok", "EXPIRED": "exp", "REJECTED": "ref"}


def delays() -> Iterator[float]:
    """Yield the seconds to wait before each question: soon at first, every 4 s for ever."""
    return chain(DELAYS_S, repeat(DELAYS_S[-1]))


@dataclass(slots=True)
class Inquiry:
    """The questions about one order since one attempt; attempt_ts and window in ns."""

    coid: str
    attempt_ts: int
    window_ns: int
    absent_since: int = 0  # venue's time of the first answer that counts as absence

    def judge(self, order: Order, answer: VenueOrder) -> list[Evidence]:
        """Return what *answer* proves about *order*, asked after its last change."""
        if not answer.found:
            return self._absence(order, answer.server_ts)
        self.absent_since = 0
        oid = answer.venue_order_id
        proved = [
            Evidence("fill", self.coid, fill.venue_order_id, fill=fill) for fill in answer.fills
        ]
        if event := _EVENTS.get(answer.status):
            proved.append(Evidence(event, self.coid, oid))
        return proved

    def _absence(self, order: Order, server_ts: int) -> list[Evidence]:
        if order.state is not UNKNOWN:
            return [Evidence("dbt", self.coid, reason="MISSING")]
        if not (server_ts > self.attempt_ts + self.window_ns):
            return []
        if not self.absent_since:
            self.absent_since = server_ts
        proved = server_ts - self.absent_since >= APART_NS
        return [Evidence("abs", self.coid)] if proved else []
