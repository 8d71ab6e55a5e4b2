"""Admission: who may open a session, and which requests are taken on.

    OPEN --LEAVE--> DRAINING --END--> CLOSED

Checks by rule come first, checks by load last: what is refused for ever is told so also under
load.

Never here: executing, queueing, keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Final

from mesh.errors import (
    Denied,
    Draining,
    Expired,
    Invalid,
    LocalProtocolError,
    NotFound,
    Overloaded,
    StaleEpoch,
)
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import NO_IDEM, WIRE, Rpc
from mesh.protocol.rpcs import (
    KEYED,
    SAFE,
    URGENT,
    WINDOW,
    WINDOW_BYTES,
    Method,
    Welcome,
    failure,
)
from mesh.protocol.sessions import Session, Sessions
from mesh.protocol.work import Work
from mesh.protocol.workload import Workload

RUNNING_MAX: Final = 256
QUEUE_MAX: Final = 256  # as many as run: what waits, waits about as long as a request takes
BYTES_MAX: Final = 32 * 1024 * 1024  # bodies of all that is open
SHED_RETRY_MS: Final = 100


class ServerState(IntEnum):
    """Where a server stands."""

    OPEN = auto()
    DRAINING = auto()  # what is there is finished; new requests go elsewhere
    CLOSED = auto()


class ServerTurn(IntEnum):
    """What happens to it."""

    LEAVE = auto()
    END = auto()


OPEN, DRAINING, CLOSED = ServerState.OPEN, ServerState.DRAINING, ServerState.CLOSED
LEAVE, END = ServerTurn.LEAVE, ServerTurn.END

TRANSITIONS: Final = {
    OPEN: {LEAVE: DRAINING, END: CLOSED},
    DRAINING: {LEAVE: DRAINING, END: CLOSED},
    CLOSED: {LEAVE: CLOSED, END: CLOSED},
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on."""

    window: int = WINDOW
    window_bytes: int = WINDOW_BYTES
    running_max: int = RUNNING_MAX
    queue_max: int = QUEUE_MAX
    bytes_max: int = BYTES_MAX


@dataclass(slots=True)
class Admission:
    """Judge greetings and requests to one node. methods: by method_id of the name."""

    node: str
    epoch: int
    methods: Mapping[int, Method]
    sessions: Sessions[Work]
    limits: Limits = field(default_factory=Limits)
    state: ServerState = OPEN
    shed: int = 0  # refused for want of room

    def __post_init__(self) -> None:
        for method in self.methods.values():
            if method.streams and method.kind is not SAFE:
                raise LocalProtocolError(f"{method.name}: a reply in parts is never stored")

    def turn(self, turn: ServerTurn) -> None:
        """Go to the next state."""
        self.state = TRANSITIONS[self.state][turn]

    def greet(
        self, peer: bytes, user: str, hello: Hello, epoch: int, now: float
    ) -> Session[Work] | Failure:
        """Return the new session of a connection, or why there is none."""
        if self.state is not OPEN:
            return failure(Draining, "the node is draining", retry_ms=1_000)
        found = self.sessions.greet(peer, user, hello, epoch, now)
        if isinstance(found, Session):
            found.methods = {n: m for n, m in self.methods.items() if found.may(m.name)}
        return found

    def welcome(self, session: Session[Work]) -> Welcome:
        """Return what a session is told at its begin; methods: those its caller may call."""
        methods = {method.name: int(method.kind) for method in session.methods.values()}
        window, window_bytes = self.limits.window, self.limits.window_bytes
        return Welcome(self.node, self.epoch, WIRE, window, window_bytes, methods)

    def refusal(self, session: Session[Work], rpc: Rpc, load: Workload) -> Failure | None:
        """Return why a request is refused, None if it is taken on. executed is no."""
        refused = self._against_rules(session, rpc) or self._without_window(session, rpc)
        if refused is not None:
            return refused
        urgent = self.methods[rpc.method].urgent and rpc.prio < URGENT
        return None if load.holds(len(rpc.body), urgent=urgent) else self.full("bytes")

    def at_once(self, peer: bytes, rpc: Rpc, load: Workload, now: float) -> Session[Work] | None:
        """Return whose request may be answered in this turn; see Answering.at_once.

        It meets nothing that refusal(), a key or the queue is for.
        """
        session, size = self.sessions.get(peer), len(rpc.body)
        if session is None or self.state is not OPEN:
            return None
        method, asked, limits = session.methods.get(rpc.method), session.open, self.limits
        if (
            method is None
            or not method.plain
            or (method.kind is not SAFE and rpc.idem != NO_IDEM)
            or not rpc.corr
            or rpc.corr in asked
            or not rpc.budget_ms
            or rpc.client_epoch != session.caller.epoch
            or len(asked) >= limits.window
            or (asked and session.bytes + size > limits.window_bytes)
            or self.sessions.is_stale(session)
            or not load.has_slot(size)
        ):
            return None
        self.sessions.heard(session, now)
        return session

    def full(self, what: str) -> Failure:
        """Return the refusal for want of room, and count it."""
        self.shed += 1
        return failure(Overloaded, f"too many {what} are under way", retry_ms=SHED_RETRY_MS)

    def _against_rules(self, session: Session[Work], rpc: Rpc) -> Failure | None:
        caller = session.caller
        if self.state is not OPEN:
            return failure(Draining, "the node is draining")
        if rpc.client_epoch != caller.epoch or self.sessions.is_stale(session):
            return failure(StaleEpoch, f"a newer run of {caller.node} is here")
        method = self.methods.get(rpc.method)
        if method is None:
            return failure(NotFound, "this node does not serve this method")
        if rpc.method not in session.methods:
            return failure(Denied, f"{caller.user} may not call {method.name}")
        if method.kind is KEYED and rpc.idem == NO_IDEM:
            return failure(Invalid, f"{method.name} needs a key")
        return None

    def _without_window(self, session: Session[Work], rpc: Rpc) -> Failure | None:
        limits = self.limits
        if rpc.budget_ms == 0:
            return failure(Expired, "the deadline passed on the way")
        if len(session.open) >= limits.window:
            return failure(Overloaded, f"{limits.window} requests of yours are under way")
        if session.open and session.bytes + len(rpc.body) > limits.window_bytes:
            return failure(Overloaded, f"{limits.window_bytes} bytes of yours are under way")
        return None
