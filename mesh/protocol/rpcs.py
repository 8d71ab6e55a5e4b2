"""What the request plane says beside requests: welcome, credit, goaway, ping; and failures.

A method belongs to a class: it says what may be done when nobody knows whether a request
was executed.

Never here: deciding, sockets.
"""

from enum import IntEnum
from typing import Final

from mesh.errors import Executed, MeshError
from mesh.protocol import envelope
from mesh.protocol.cause import Cause
from mesh.protocol.control import Failure, Message
from mesh.protocol.control import Welcome as Welcome  # told here, spelled with the system messages
from mesh.protocol.envelope import NO_IDEM, Kind

INPROG, PART, END, CANCEL = Kind.INPROG, Kind.PART, Kind.END, Kind.CANCEL
PING, PONG, CREDIT, GOAWAY, BYE = Kind.PING, Kind.PONG, Kind.CREDIT, Kind.GOAWAY, Kind.BYE

WINDOW: Final = 64  # requests of one session under way
WINDOW_BYTES: Final = 1024 * 1024  # their bodies
PARTS: Final = 4  # of one reply, on their way or not consumed
BUDGET_S: Final = 2.0  # of a call that names none
BUDGET_S_MAX: Final = 60.0
URGENT: Final = 100  # a priority below it is for cancels, mode and leases
PRIO: Final = 500
CANCELLED: Final = "CANCELLED"
BODY_MAX_BYTES: Final = envelope.RPC_MAX_BYTES - envelope.RPC_HEADER_BYTES


class MethodClass(IntEnum):
    """What a repeated request does."""

    SAFE = 0  # reads, or sets: repeat at will
    KEYED = 1  # has one effect per key: repeat with the same key
    ONCE = 2  # never repeat: find out first


SAFE, KEYED, ONCE = MethodClass.SAFE, MethodClass.KEYED, MethodClass.ONCE
_KINDS: Final[dict[int | None, MethodClass]] = {int(kind): kind for kind in MethodClass}


class Credit(Message, frozen=True):
    """With corr 0 the window of the session from now on; else how many parts, in all, may come.

    Both are totals, not differences: hearing it twice is hearing it once.
    """

    messages: int
    bytes: int = 0


class Ping(Message, frozen=True):
    """Is somebody there? t1: ns UTC at sending; asked: requests sent before it in this session."""

    t1: int
    asked: int = 0


class Pong(Message, frozen=True):
    """The answer to a ping: times in ns UTC at arrival and answer.

    open: corr of the session's requests not yet answered. Pipes are first in, first out: of
    the requests up to asked the others were answered before, or lost.
    """

    t1: int
    t2: int
    t3: int
    asked: int = 0
    open: tuple[int, ...] = ()

    def measured(self, t4: int) -> tuple[int, int]:
        """Return ns of the round trip, and of the peer's clock against ours. t4: arrival."""
        rtt = (t4 - self.t1) - (self.t3 - self.t2)
        return rtt, ((self.t2 - self.t1) + (self.t3 - t4)) // 2


class Goaway(Message, frozen=True):
    """The server takes no new request and closes in ms. epoch: of its run."""

    reason: str
    ms: int
    epoch: int = 0


class End(Message, frozen=True):
    """The last frame of a reply in parts. extra: MessagePack of what the handler returned."""

    count: int
    extra: bytes = b""


class Ask(Message, frozen=True):
    """One attempt of a call, as the caller wants it; another attempt is another Ask.

    budget_s: None for the default; kind: None for what the peer says of the method; cause:
    what makes the caller ask.
    """

    method: str
    body: bytes
    budget_s: float | None = None
    kind: MethodClass | None = None
    prio: int = PRIO
    idem: bytes = NO_IDEM
    attempt: int = 1
    cause: Cause | None = None


class Method(Message, frozen=True):
    """A method as its server serves it.

    urgent: its requests may have a priority below URGENT and use the reserve. marks: it acts
    outside the transaction of its reply, so its key is stored before it begins. streams: its
    reply comes in parts. limit_s: how long a keyed or once handler may run. plain: it is
    answered within the turn in which it is asked.
    """

    name: str
    kind: MethodClass = SAFE
    urgent: bool = False
    marks: bool = False
    streams: bool = False
    limit_s: float = BUDGET_S_MAX
    plain: bool = False


class Caller(Message, frozen=True):
    """Who asks, pinned when the session was opened; user: as authenticated; nid: of the node."""

    user: str
    node: str
    epoch: int
    nid: int = 0


def failure(
    kind: type[MeshError], message: str, executed: Executed | None = None, retry_ms: int = 0
) -> Failure:
    """Return an error of *kind* as it travels; executed: what is known, if not the usual."""
    return Failure(kind.code, executed or kind.executed, message[:500], retry_ms)


def cancelled(executed: Executed) -> Failure:
    """Return what tells that a call was given up by its caller."""
    return Failure(CANCELLED, executed, "cancelled by the caller")


def fitting(kind: Kind, body: bytes) -> tuple[Kind, bytes]:
    """Return the answer as it travels: one that no frame can hold is an error."""
    if len(body) <= BODY_MAX_BYTES:
        return kind, body
    return Kind.ERR, encoded(failure(MeshError, f"a reply of {len(body)} bytes", "yes"))


def kind_of(ask: Ask, welcome: Welcome | None) -> MethodClass:
    """Return what the caller says of a method, else what the peer says, else the strictest."""
    if ask.kind is not None:
        return ask.kind
    said = welcome.methods.get(ask.method) if welcome is not None else None
    return _KINDS.get(said, ONCE)


def less_reserve(limit: int) -> int:
    """Return what of *limit* is for others than urgent requests: a fifth is kept for those."""
    return limit - limit // 5


def clamped_s(budget_s: float | None) -> float:
    """Return the budget that counts: the default for None, 60 s at most, 0 for nonsense."""
    if budget_s is None:
        return BUDGET_S
    return min(budget_s, BUDGET_S_MAX) if budget_s > 0 else 0.0


def encoded(value: Message) -> bytes:
    """Return *value* as the body of a frame."""
    return envelope.encode_value(value)
