"""Sessions: who asks over which connection, pinned when it greets and never read from a request.

Never here: requests, sockets, how a user was authenticated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from mesh.errors import Denied, Overloaded, StaleEpoch, VersionMismatch
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import WIRE, node_id
from mesh.protocol.rpcs import Caller, Method, failure

Work = TypeVar("Work")

SESSIONS_MAX: Final = 4_096
SILENT_S: Final = 5.0  # a caller that pings each second has gone


@dataclass(slots=True)
class Session(Generic[Work]):
    """One connection of one caller.

    may: whether it may call a method of this name. methods: those it may call, by number.
    """

    peer: bytes  # routing id: it names the connection, not the caller
    caller: Caller
    may: Callable[[str], bool]
    heard: float
    pings: bool = False  # so its silence means something
    methods: Mapping[int, Method] = field(default_factory=dict)
    open: dict[int, tuple[Work, int]] = field(default_factory=dict)  # corr to work, body bytes
    bytes: int = 0

    def take(self, corr: int) -> tuple[Work, int] | None:
        """Return and forget what *corr* asked for, None if it is not open."""
        found = self.open.pop(corr, None)
        self.bytes -= found[1] if found else 0
        return found


@dataclass(slots=True)
class Sessions(Generic[Work]):
    """The sessions of one server.

    is_node: whether a user is the node of this name; pin: what a user may call, kept for the
    session.
    """

    cluster: str
    is_node: Callable[[str, str], bool]
    pin: Callable[[str], Callable[[str], bool]]
    sessions_max: int = SESSIONS_MAX
    _sessions: dict[bytes, Session[Work]] = field(default_factory=dict)  # longest silent first
    _epochs: dict[str, int] = field(default_factory=dict)  # newest run of each node

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, peer: bytes) -> Session[Work] | None:
        """Return the session of a connection, None if it did not greet."""
        return self._sessions.get(peer)

    def heard(self, session: Session[Work], now: float) -> None:
        """Learn that its caller lives."""
        session.heard = now
        self._sessions[session.peer] = self._sessions.pop(session.peer)

    def is_stale(self, session: Session[Work]) -> bool:
        """Say whether a newer run of the caller is known."""
        return session.caller.epoch < self._epochs.get(session.caller.node, 0)

    def greet(
        self, peer: bytes, user: str, hello: Hello, epoch: int, now: float
    ) -> Session[Work] | Failure:
        """Return the session of a connection that greets, or why there is none."""
        refusal = self._refusal(user, hello, epoch)
        if refusal is not None:
            return refusal
        if len(self._sessions) >= self.sessions_max and not self._make_room():
            return failure(Overloaded, f"{self.sessions_max} sessions are busy", retry_ms=1_000)
        self._epochs.pop(hello.node, None)
        self._epochs[hello.node] = epoch
        while len(self._epochs) > self.sessions_max:
            self._epochs.pop(next(iter(self._epochs)))
        caller = Caller(user, hello.node, epoch, node_id(self.cluster, hello.node))
        session = self._sessions[peer] = Session(peer, caller, self.pin(user), now)
        return session

    def end(self, peer: bytes) -> Session[Work] | None:
        """Forget a connection and return its session."""
        return self._sessions.pop(peer, None)

    def silent(self, now: float) -> list[bytes]:
        """Return the connections whose callers must have gone."""
        found = []
        for session in self._sessions.values():
            if now < session.heard + SILENT_S:
                break
            if session.pings:
                found.append(session.peer)
        return found

    def all(self) -> list[Session[Work]]:
        """Return every session."""
        return list(self._sessions.values())

    def check(self) -> None:
        """Assert every invariant."""
        assert len(self._sessions) <= self.sessions_max
        assert len(self._epochs) <= self.sessions_max
        heard = [session.heard for session in self._sessions.values()]
        assert heard == sorted(heard)
        for peer, session in self._sessions.items():
            assert session.peer == peer
            assert session.bytes == sum(size for _, size in session.open.values())

    def _refusal(self, user: str, hello: Hello, epoch: int) -> Failure | None:
        if hello.cluster != self.cluster:
            return failure(Denied, f"this is another cluster than {hello.cluster[:60]!r}")
        if not self.is_node(user, hello.node):
            return failure(Denied, f"you are not {hello.node[:60]!r}")
        if not hello.wire_min <= WIRE <= hello.wire_max:
            spoken = f"wire {hello.wire_min}-{hello.wire_max} there, {WIRE} here"
            return failure(VersionMismatch, spoken)
        newest = self._epochs.get(hello.node, 0)
        if epoch < newest:
            return failure(StaleEpoch, f"epoch {epoch} of {hello.node}, {newest} is known")
        return None

    def _make_room(self) -> bool:
        """Forget the longest silent session without requests: its caller greets again."""
        idle = next((s.peer for s in self._sessions.values() if not s.open), None)
        return idle is not None and self.end(idle) is not None
