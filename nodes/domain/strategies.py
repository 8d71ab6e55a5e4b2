"""What a strategy says about itself.

Never here: parameters' meaning, rules.
"""

import msgspec

from nodes.domain.market import Wire


class StrategyStatus(Wire, frozen=True):
    """A strategy's face: state is WARMING, RUNNING, PAUSED or OBSERVE, with its reason."""

    name: str
    kind: str  # class name
    state: str
    reason: str = ""
    params: dict[str, str] = msgspec.field(default_factory=dict)
    positions: dict[str, str] = msgspec.field(default_factory=dict)  # by instrument, in base
    working: int = 0  # orders that may still fill
    intents: int = 0  # sent in this run
    denied: int = 0
    failures: int = 0  # hooks that raised in this run
    ts_event: int = 0
