"""System messages: who is here, what they say, how they are, which mode.

Schemas below 0x1000 are the mesh's; numbers are never reused, fields only appended.

Never here: trading words, decisions.
"""

from enum import IntEnum
from typing import Final

import msgspec


class DeliveryClass(IntEnum):
    """What a topic promises."""

    EPHEMERAL = 0  # at most once, loss known
    LASTVALUE = 1  # the newest per topic in the end
    DURABLE = 2  # at least once, in order, from the journal


EPHEMERAL = DeliveryClass.EPHEMERAL
LASTVALUE = DeliveryClass.LASTVALUE
DURABLE = DeliveryClass.DURABLE


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A system message: a MessagePack array in field order."""


class Record(Message, frozen=True):
    """How to reach a run of a node and what it offers."""

    node: str
    nid: int
    epoch: int
    pid: int
    services: tuple[str, ...]  # methods it answers
    says: dict[str, int]  # topic prefix to delivery class
    endpoints: dict[str, str]  # plane (e, d, r) to address
    log_id: str = ""  # of its journal
    wire: tuple[int, int] = (1, 1)


class Head(Message, frozen=True):
    """The answer to a probe: from here on everything arrives or shows as a gap."""

    epoch: int
    heads: dict[str, int]  # topic to last sequence
    log_id: str = ""
    last: int = 0  # newest offset of the journal


class Heartbeat(Message, frozen=True):
    """How a node is; sent from the loop that does the work."""

    n: int
    state: str  # ready, degraded, draining
    mode: str
    mode_epoch: int
    term: int
    lag_p99_us: int
    inflight: int
    drops: int
    rss_bytes: int
    events_in_s: float
    events_out_s: float
    latency_p50_us: int
    latency_p99_us: int
    figures: dict[str, float] = {}


class Register(Message, frozen=True):
    """A node asks to be known to the coordinator."""

    record: Record
    mode: str
    mode_epoch: int


class ModeChange(Message, frozen=True):
    """The mode in force; (term, mode_epoch) only grows. since: ns UTC."""

    mode: str
    mode_epoch: int
    term: int
    reason: str
    since: int
    by: str


class NodeState(Message, frozen=True):
    """What the coordinator thinks of a node."""

    node: str
    epoch: int
    state: str
    pid: int


class View(Message, frozen=True):
    """The whole roster at (term, rev)."""

    term: int
    rev: int
    nodes: tuple[NodeState, ...]


class Bye(Message, frozen=True):
    """A node leaves on purpose."""

    node: str
    epoch: int


class Welcome(Message, frozen=True):
    """The answer to a greeting on the request plane."""

    node: str
    epoch: int


class Hello(Message, frozen=True):
    """A greeting on the request plane: who asks."""

    cluster: str
    node: str
    epoch: int


class Failure(Message, frozen=True):
    """An error on the request plane."""

    code: str
    executed: str
    message: str
    retry_after_ms: int = 0


class SnapshotPage(Message, frozen=True):
    """Last values whose topics begin with the asked prefixes: frames as published."""

    frames: tuple[bytes, ...]


class Fetch(Message, frozen=True):
    """Ask a journal for what follows an offset on some prefixes."""

    log_id: str
    after: int
    prefixes: tuple[str, ...]


class FetchPage(Message, frozen=True):
    """Some journal frames in order; through: every offset up to it was looked at."""

    log_id: str
    frames: tuple[bytes, ...]
    through: int
    last: int


SCHEMAS: Final[dict[type, int]] = {
    Head: 0x01,
    Heartbeat: 0x02,
    ModeChange: 0x03,
    View: 0x04,
    Bye: 0x05,
    Record: 0x06,
    NodeState: 0x07,
}
