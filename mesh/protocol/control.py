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
    tcp: dict[str, str] = {}  # plane to the address that other hosts use
    host_id: str = ""
    schemas: dict[int, tuple[int, ...]] = {}  # schema to a fingerprint per field
    key: str = ""  # its CURVE key, Z85: says which of the authorized ones this run has


class StreamHead(Message, frozen=True):
    """A durable stream as its owner has it: offsets first..last can be fetched."""

    name: str
    log_id: str
    first: int
    last: int


class Head(Message, frozen=True):
    """The answer to a probe: from here on everything arrives or shows as a gap.

    Many topics come as several pages, one behind the other in the same pipe.
    """

    epoch: int
    wire_min: int
    wire_max: int
    heads: dict[str, int]  # topic to last sequence, of the topics probed for
    streams: tuple[StreamHead, ...] = ()
    denied: tuple[str, ...] = ()  # prefixes that this subscriber may not hear
    page: int = 0
    pages: int = 1


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
    heads: dict[str, int] = {}  # topic to last sequence, of the plane it is sent on
    streams: tuple[StreamHead, ...] = ()


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
    """The answer to a greeting: who answers, what a session may have under way.

    wire: the version both speak. credit, credit_bytes: requests under way and their bodies.
    methods: name to class (0 safe, 1 keyed, 2 once) of what the caller may call.
    """

    node: str
    epoch: int
    wire: int = 1
    credit: int = 64
    credit_bytes: int = 1024 * 1024
    methods: dict[str, int] = {}


class Hello(Message, frozen=True):
    """A greeting on the request plane: who asks; its epoch is in the frame's header."""

    cluster: str
    node: str
    wire_min: int
    wire_max: int


class Failure(Message, frozen=True):
    """An error on the request plane."""

    code: str
    executed: str
    message: str
    retry_after_ms: int = 0


class LogIndex(Message, frozen=True):
    """The topics of the offsets from first on, whose records follow in the same pipe."""

    log_id: str
    first: int
    topics: tuple[str, ...]


class Snapshot(Message, frozen=True):
    """Ask for the last values whose topics begin with one of prefixes, behind topic after."""

    prefixes: tuple[str, ...]
    after: str = ""


class SnapshotPage(Message, frozen=True):
    """Some last values in order of topic: frames as published.

    after: where to go on, "" at the end.
    """

    frames: tuple[bytes, ...]
    after: str = ""


class Fetch(Message, frozen=True):
    """Ask a journal for the records of some prefixes in the range after < offset <= to."""

    log_id: str
    after: int
    to: int
    prefixes: tuple[str, ...]


class FetchPage(Message, frozen=True):
    """Some journal frames in order; through: every offset up to it was looked at."""

    log_id: str
    frames: tuple[bytes, ...]
    through: int
    first: int  # the oldest offset still kept
    last: int  # the newest


class Ack(Message, frozen=True):
    """A consumer has stored the effects of a journal up to offset."""

    log_id: str
    offset: int


class BreakerTurn(Message, frozen=True):
    """How a circuit breaker of the publisher stands: CLOSED, OPEN or HALF_OPEN, and why.

    failures: in a row, when it turned. since: ns UTC. open_until: ns UTC, when a call may probe
    or the probe under way is given up; 0 if CLOSED, or for as long as a force holds.
    retry_after_ms: what a refused caller is told at that moment.
    """

    state: str
    reason: str
    failures: int
    since: int
    open_until: int = 0
    retry_after_ms: int = 0


SCHEMAS: Final[dict[type, int]] = {
    Head: 0x01,
    Heartbeat: 0x02,
    ModeChange: 0x03,
    View: 0x04,
    Bye: 0x05,
    Record: 0x06,
    NodeState: 0x07,
    LogIndex: 0x08,
    BreakerTurn: 0x09,
}
