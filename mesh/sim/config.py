"""Config: the shape of one simulated event plane, drawn from the seed; and its faults.

Every seed enables some kinds of faults only, at some intensity, on a topology of its own, with
limits of the machines so small that they are reached.

Never here: running it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType
from typing import Final

import msgspec

from mesh.protocol import catchup, commits, outbound
from mesh.sim.faults import Fault

HEAL_S: Final = 18.0
HORIZON_S: Final = 30.0
LOAD_UNTIL_S: Final = 22.0  # then the quiet time in which tails must show

PIPE_KINDS: Final = ("lose", "double", "reorder", "echo", "mute")
PAIR_KINDS: Final = ("cut", "flap", "clog", "rpc_lose", "rpc_double", "rpc_slow")
NODE_KINDS: Final = ("kill", "kill_twice", "pause", "partition", "step")
DISK_KINDS: Final = ("fsync", "full", "write_error", "retention", "delete")
HEARER_KINDS: Final = ("slow", "raise")
KINDS: Final = (*PIPE_KINDS, *PAIR_KINDS, *NODE_KINDS, *DISK_KINDS, *HEARER_KINDS)
BACKUP: Final = "backup"  # an old copy of a journal: a scenario of its own

_LIMITS: Final[dict[str, tuple[ModuleType, tuple[int, ...]]]] = {
    "HEADS_PER_PAGE": (outbound, (5, 8, 2_000)),
    "BEACON_HEADS": (outbound, (3, 10, 100)),
    "SNAPSHOT_BYTES": (outbound, (150, 400, 128 * 1024)),
    "GROUP_RECORDS": (commits, (4, 10, 1_024)),
    "INDEX_BYTES": (commits, (60, 200, 3 * 1024)),
    "QUEUE_MAX": (commits, (12, 8_192)),
    "BUFFER_MAX": (catchup, (2, 8, 50_000)),
    "READY_MAX": (catchup, (2, 8, 4_096)),
    "WINDOW": (catchup, (1, 2, 4)),
    "RANGE": (catchup, (3, 16, 512)),
}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event plane. kinds: of faults; limits: of the machines; rates: per second."""

    publishers: int
    subscribers: int
    topics: int  # of each delivery class and publisher
    hwm: int
    delay_s: float
    events_rate: float
    durable_rate: float
    events_until_s: float  # a load that ends among faults leaves tails for heartbeats to tell
    durable_until_s: float
    burst: int
    page_rows: int
    timeout_s: float  # of requests
    memory: tuple[bool, ...]  # subscribers that keep no offset, and begin at the newest
    slow_s: float  # that a handler takes
    run_max: int  # records that it gets at once
    kinds: tuple[str, ...]
    faults: int
    limits: dict[str, int]
    events: bool = True  # False: publishers say nothing, subscribers hear nothing


def draw(dice: Random) -> Config:
    """Return a configuration."""
    subscribers = dice.randint(1, 4)
    kinds = tuple(k for k in KINDS if dice.random() < 0.6) or ("lose", "kill")
    if dice.random() < 0.2:  # few kinds, so that nothing else repairs what they break
        kinds = tuple(dice.choice(KINDS) for _ in range(3))
    if dice.random() < 0.06:
        kinds = (BACKUP, *(k for k in kinds if k not in ("delete", "kill_twice")))
    return Config(
        publishers=dice.choice((1, 1, 2, 2, 3)),
        subscribers=subscribers,
        topics=dice.choice((2, 4, 12)),
        hwm=dice.choice((12, 24, 64)),
        delay_s=dice.choice((0.0005, 0.005, 0.03)),
        events_rate=dice.choice((3.0, 8.0, 16.0)),
        durable_rate=dice.choice((1.0, 3.0, 6.0)),
        events_until_s=dice.choice((LOAD_UNTIL_S, LOAD_UNTIL_S, 15.0)),
        durable_until_s=dice.choice((LOAD_UNTIL_S, LOAD_UNTIL_S, 14.0)),
        burst=dice.choice((1, 5, 20)),
        page_rows=dice.choice((2, 5, 512)),
        timeout_s=dice.choice((2.0, 2.0, 8.0)),
        memory=tuple(dice.random() < 0.25 for _ in range(subscribers)),
        slow_s=dice.choice((0.0, 0.001, 0.006)),
        run_max=dice.choice((1, 2, 4)),
        kinds=kinds,
        faults=dice.randint(20, 45),
        limits={name: dice.choice(choices) for name, (_, choices) in _LIMITS.items()},
    )


def schedule(config: Config, dice: Random) -> tuple[Fault, ...]:
    """Return all that will go wrong, in order."""
    faults = [
        _fault(config, dice, dice.choice([k for k in config.kinds if k != BACKUP] or ["lose"]))
        for _ in range(config.faults)
    ]
    if BACKUP in config.kinds:
        faults.append(_fault(config, dice, BACKUP))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def _fault(config: Config, dice: Random, kind: str) -> Fault:
    at_s = round(dice.uniform(0.3, HEAL_S - 0.5), 3)
    speaker = f"p{dice.randrange(config.publishers)}"
    hearer = f"s{dice.randrange(config.subscribers)}"
    plane = dice.choice("ed")
    for_s = round(dice.choice((0.05, 0.4, 2.0, 5.0)) * (0.5 + dice.random()), 3)
    few = dice.choice((1, 1, 2, 5))
    if kind in PIPE_KINDS:
        return Fault(at_s, kind, speaker, f"{hearer}.{plane}", for_s, few)
    if kind in PAIR_KINDS:
        return Fault(at_s, kind, speaker, hearer, for_s, few)
    if kind in HEARER_KINDS:
        return Fault(at_s, kind, hearer, "", for_s, few)
    if kind == BACKUP:
        return Fault(at_s, kind, speaker, "", 0.3, dice.randint(10, 60))
    if kind in DISK_KINDS:
        who = hearer if kind in ("fsync", "full", "write_error") and few == 2 else speaker
        return Fault(at_s, kind, who, "", for_s, dice.randint(20, 100))
    who = dice.choice((speaker, hearer))
    if kind == "partition":
        return Fault(at_s, kind, "", "", for_s, dice.randrange(1, 2**7))
    if kind == "step":
        return Fault(at_s, kind, who, "", 0.0, dice.choice((-3_600, -1, 1, 3_600)))
    return Fault(at_s, kind, who, "", min(for_s, 3.0), few)


@contextmanager
def limits(config: Config) -> Iterator[None]:
    """Let the machines have the limits of *config* for a while."""
    before = {name: getattr(module, name) for name, (module, _) in _LIMITS.items()}
    try:
        for name, value in config.limits.items():
            setattr(_LIMITS[name][0], name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(_LIMITS[name][0], name, value)
