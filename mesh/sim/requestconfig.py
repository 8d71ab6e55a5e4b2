"""RequestConfig: the shape of one simulated request plane, drawn from the seed; and its faults.

Never here: running it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Final

import msgspec

from mesh.protocol import envelope, once
from mesh.protocol.admission import Limits
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Method
from mesh.sim.config import HEAL_S
from mesh.sim.faults import Fault

LINK_KINDS: Final = ("call_lose", "half_open", "hang_up", "force")
SERVER_KINDS: Final = ("drain", "stall", "fail", "stuck", "wipe")
CALLER_KINDS: Final = ("cancel", "storm")
REQUEST_KINDS: Final = (*LINK_KINDS, *SERVER_KINDS, *CALLER_KINDS)

PARTS: Final = 9  # of a reply in parts
RUN_S: Final = 2.0  # that a keyed or once handler may run

READ: Final = Method("a.read", SAFE)
LIST: Final = Method("a.list", SAFE, streams=True)
PLACE: Final = Method("a.place", KEYED, limit_s=RUN_S)
STOP: Final = Method("a.stop", KEYED, urgent=True, limit_s=RUN_S)
NOTE: Final = Method("a.note", KEYED, limit_s=RUN_S)  # its reply is all the effect it has
WIRE: Final = Method("a.wire", KEYED, marks=True, limit_s=RUN_S)  # it acts elsewhere
SINGLE: Final = Method("a.once", ONCE, limit_s=RUN_S)
METHODS: Final = (READ, LIST, PLACE, STOP, NOTE, WIRE, SINGLE)
BY_ID: Final = {envelope.method_id(method.name): method for method in METHODS}

_LIMITS: Final[dict[str, tuple[ModuleType, tuple[float, ...]]]] = {
    "KEEP_S": (once, (14.0, 600.0)),  # longer than any caller asks again
}


class RequestConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request plane. rate: calls per second of each caller; kinds: of faults."""

    rate: float
    handler_s: float  # that a handler works, on average
    budget_s: float
    window: int
    window_bytes: int
    running_max: int
    queue_max: int  # of the server
    client_queue_max: int
    hwm: int
    retries_max: int
    failures_max: int  # of a breaker
    cooldown_s: float
    trickle_s: float  # while a breaker refuses, one call passes so often
    repeats: float  # share of keyed calls that are asked twice at once
    kinds: tuple[str, ...]
    faults: int
    limits: dict[str, float]

    @property
    def serves(self) -> Limits:
        """Return the limits of a server."""
        return Limits(self.window, self.window_bytes, self.running_max, self.queue_max)


def draw(dice: Random, callers: int) -> RequestConfig:
    """Return a configuration for so many callers."""
    kinds = tuple(kind for kind in REQUEST_KINDS if dice.random() < 0.6)
    if dice.random() < 0.2:  # few kinds, so that nothing else repairs what they break
        kinds = tuple(dice.choice(REQUEST_KINDS) for _ in range(2))
    if dice.random() < 0.8:
        kinds = tuple(kind for kind in kinds if kind != "wipe")
    return RequestConfig(
        rate=dice.choice((6.0, 12.0, 24.0)) / callers,
        handler_s=dice.choice((0.002, 0.02, 0.1)),
        budget_s=dice.choice((0.5, 2.0, 2.0, 5.0)),
        window=dice.choice((5, 10, 64)),
        window_bytes=dice.choice((100, 1_000_000)),
        running_max=dice.choice((5, 10, 256)),
        queue_max=dice.choice((3, 8, 1_024)),
        client_queue_max=dice.choice((3, 8, 256)),
        hwm=dice.choice((3, 8, 1_000)),
        retries_max=dice.choice((1, 3, 5)),
        failures_max=dice.choice((2, 3, 5)),
        cooldown_s=dice.choice((0.2, 0.5, 2.0)),
        trickle_s=dice.choice((1.0, 1e9)),
        repeats=dice.choice((0.05, 0.3)),
        kinds=kinds or ("hang_up",),
        faults=dice.randint(10, 30),
        limits={name: dice.choice(choices) for name, (_, choices) in _LIMITS.items()},
    )


def schedule(config: RequestConfig, servers: int, callers: int, dice: Random) -> tuple[Fault, ...]:
    """Return all that will go wrong with requests, in order."""
    faults = [_fault(config, servers, callers, dice) for _ in range(config.faults)]
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _fault(config: RequestConfig, servers: int, callers: int, dice: Random) -> Fault:
    kind = dice.choice(config.kinds)
    at_s = round(dice.uniform(0.8, HEAL_S - 0.5), 3)
    server, caller = f"p{dice.randrange(servers)}", f"s{dice.randrange(callers)}"
    for_s = round(dice.choice((0.05, 0.4, 2.0)) * (0.5 + dice.random()), 3)
    few = dice.choice((1, 1, 2, 5))
    if kind in LINK_KINDS:
        return Fault(at_s, kind, server, caller, for_s, few)
    if kind in SERVER_KINDS:
        return Fault(at_s, kind, server, "", for_s, few)
    return Fault(at_s, kind, caller, "", for_s, few)


@contextmanager
def limits(config: RequestConfig) -> Iterator[None]:
    """Let the machines have the limits of *config* for a while."""
    before = {name: getattr(module, name) for name, (module, _) in _LIMITS.items()}
    try:
        for name, value in config.limits.items():
            setattr(_LIMITS[name][0], name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(_LIMITS[name][0], name, value)
