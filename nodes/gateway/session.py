"""One client's conversation: authentication first, then wishes in, bounded bytes out.

    GREETING --auth--> OPEN --bye--> CLOSED        GREETING --bad token, time-out--> CLOSED

Never here: sockets, what other clients want.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec

from mesh.errors import Expired, Invalid, MeshError, Overloaded
from mesh.protocol.mode import NORMAL, SystemMode
from mesh.protocol.tokens import VIEW, Scope
from nodes.gateway.messages import (
    Auth,
    Bye,
    Codec,
    Error,
    Frame,
    Id,
    Message,
    Mode,
    Ping,
    Pong,
    Reply,
    Request,
    Subscribe,
    Unsubscribe,
    Welcome,
    decode,
)
from nodes.gateway.methods import permit
from nodes.gateway.settings import GatewaySettings

DEADLINE_MS_MAX: Final = 10_000
CONFLATE_MS_MAX: Final = 60_000

# WebSocket close codes; 4000 and above are ours.
GOING_AWAY: Final = 1001
TOO_BIG: Final = 1009
UNAUTHENTICATED: Final = 4001
TOO_SLOW: Final = 4008


class SessionState(Enum):
    """Where a conversation stands."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


GREETING = SessionState.GREETING
OPEN = SessionState.OPEN
CLOSED = SessionState.CLOSED


class Call(msgspec.Struct, frozen=True):
    """Call a method of the mesh and hand its outcome to reply or fail."""

    id: Id
    method: str
    argument: Any
    target: str | None
    timeout_s: float


class Close(msgspec.Struct, frozen=True):
    """Close the connection; abort it if that takes long."""

    code: int
    reason: str


Effect: TypeAlias = Call | Close | Subscribe | Unsubscribe
Key: TypeAlias = str | int  # topic of a value that may be replaced; else a number


@dataclass(slots=True)
class Bucket:
    """Tokens at *rate* a second, at most *burst*."""

    rate: float
    burst: float
    level: float
    at: float

    def take(self, now: float) -> bool:
        """Take one; False if there is none."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(slots=True, eq=False)
class Session:
    """The machine of one connection. now: monotonic seconds; wall_ns: for pong alone."""

    name: str
    codec: Codec
    settings: GatewaySettings
    epoch: int
    opened: float
    scope_of: Callable[[str], Scope | None]
    wake: Callable[[], None]  # there is something to take
    state: SessionState = GREETING
    scope: Scope = VIEW
    mode: SystemMode = NORMAL
    mode_epoch: int = 0
    topics: set[str] = field(default_factory=set)
    conflate_s: float = 0.0
    queued_bytes: int = 0
    dropped: int = 0
    waiting: int = 0  # requests without an answer
    _queue: dict[Key, bytes] = field(default_factory=dict)
    _held: dict[str, Frame] = field(default_factory=dict)  # until the next flush
    _flushed: float = 0.0
    _progress: float = 0.0
    _numbers: Iterator[int] = field(default_factory=count)
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        burst = float(self.settings.requests_burst)
        self._bucket = Bucket(self.settings.requests_per_s, burst, burst, self.opened)

    # Client to us.

    def receive(self, data: bytes, now: float, wall_ns: int) -> list[Effect]:
        """Take one message of the client; answers are queued, effects are for others."""
        if self.state is CLOSED:
            return []
        if len(data) > self.settings.message_bytes_max:
            return self.close(TOO_BIG, "message too big", now)
        try:
            message = decode(self.codec, data)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return self._malformed(str(error), now)
        if self.state is GREETING:
            if not isinstance(message, Auth):
                return self.close(UNAUTHENTICATED, "the first message is auth", now)
            return self.authenticate(message.token, now)
        if not self._bucket.take(now):
            return self.fail(getattr(message, "id", None), Overloaded("too many messages"), now)
        return self._handle(message, now, wall_ns)

    def authenticate(self, token: str, now: float) -> list[Effect]:
        """Open the session if *token* is known, else close it."""
        scope = self.scope_of(token)
        if scope is None:
            return self.close(UNAUTHENTICATED, "token not known", now)
        self.state, self.scope = OPEN, scope
        limits = {
            "message_bytes": self.settings.message_bytes_max,
            "topics": self.settings.topics_max,
            "requests_per_s": self.settings.requests_per_s,
            "queue_bytes": self.settings.queue_bytes_max,
        }
        self.send(Welcome(self.name, self.epoch, scope.value, limits), now)
        self.send(Mode(self.mode.value, self.mode_epoch), now)
        return []

    def set_mode(self, mode: SystemMode, mode_epoch: int, now: float) -> list[Effect]:
        """Tell the client of a new mode."""
        self.mode, self.mode_epoch = mode, mode_epoch
        if self.state is OPEN:
            return self.send(Mode(mode.value, mode_epoch), now)
        return []

    def reply(self, wish: Id, data: Any, now: float) -> list[Effect]:
        """Answer a request that a Call effect carried."""
        self.waiting -= 1
        return self.send(Reply(wish, data), now)

    def refuse(self, wish: Id, error: MeshError, now: float) -> list[Effect]:
        """Answer a request that a Call effect carried, with the error it met."""
        self.waiting -= 1
        return self.fail(wish, error, now)

    def fail(self, wish: Id, error: MeshError, now: float) -> list[Effect]:
        """Send an error message."""
        return self.send(Error(wish, error.code, str(error)[:500], error.executed), now)

    def close(self, code: int, reason: str, now: float, retry_after_ms: int = 0) -> list[Effect]:
        """Say bye and end; queued messages before it are still sent if the client reads."""
        if self.state is CLOSED:
            return []
        if code != TOO_SLOW:
            self.send(Bye(reason, retry_after_ms), now)
        self.state = CLOSED
        self.wake()
        return [Close(code, reason)]

    # Us to client.

    def send(self, message: Message, now: float) -> list[Effect]:
        """Queue a message that must not be replaced."""
        return self._push(next(self._numbers), Frame(message).encoded(self.codec), now)

    def publish(self, topic: str, frame: Frame, now: float, *, value: bool) -> list[Effect]:
        """Queue an event; of values only the newest of a topic waits."""
        if self.state is not OPEN:
            return []
        if not value:
            return self._push(next(self._numbers), frame.encoded(self.codec), now)
        if self.conflate_s:
            self._held[topic] = frame
            return []
        return self._push(topic, frame.encoded(self.codec), now)

    def take(self, now: float) -> bytes | None:
        """Return the next bytes for the client, None if there are none."""
        if not self._queue:
            return None
        key = next(iter(self._queue))
        data = self._queue.pop(key)
        self.queued_bytes -= len(data)
        self._progress = now
        return data

    def tick(self, now: float) -> list[Effect]:
        """Flush what was held back; end a session that is late to greet or to read."""
        if self.state is GREETING and now >= self.opened + self.settings.auth_s:
            return self.close(UNAUTHENTICATED, "no auth in time", now)
        if self._queue and now >= self._progress + self.settings.stall_s:
            return self.close(TOO_SLOW, "no progress", now)
        if self._held and now >= self._flushed + self.conflate_s:
            return self._flush(now)
        return []

    def check(self) -> None:
        """Assert every invariant."""
        assert self.queued_bytes == sum(map(len, self._queue.values()))
        assert self.queued_bytes <= self.settings.queue_bytes_max or self.state is CLOSED
        assert len(self.topics) <= self.settings.topics_max
        assert 0 <= self.waiting <= self.settings.requests_open_max

    def _handle(self, message: Message, now: float, wall_ns: int) -> list[Effect]:
        match message:
            case Ping(t):
                return self.send(Pong(t, wall_ns), now)
            case Subscribe():
                self.conflate_s = min(max(message.conflate_ms, 0), CONFLATE_MS_MAX) / 1_000
                return [message]
            case Unsubscribe():
                return [message]
            case Request():
                return self._request(message, now)
            case _:
                return self.fail(None, Invalid("already authenticated"), now)

    def _request(self, wish: Request, now: float) -> list[Effect]:
        try:
            if self.waiting >= self.settings.requests_open_max:
                raise Overloaded("too many requests without an answer")
            if wish.deadline_ms <= 0:
                raise Expired("the deadline has passed")
            by = f"gateway.{self.name}.{self.scope}"
            argument = permit(wish.method, wish.params, self.scope, self.mode, by)
        except MeshError as error:
            return self.fail(wish.id, error, now)
        self.waiting += 1
        timeout_s = min(wish.deadline_ms, DEADLINE_MS_MAX) / 1_000
        return [Call(wish.id, wish.method, argument, wish.target, timeout_s)]

    def _malformed(self, why: str, now: float) -> list[Effect]:
        if self.state is GREETING:
            return self.close(UNAUTHENTICATED, "the first message is auth", now)
        if not self._bucket.take(now):
            return self.close(TOO_BIG, "too many malformed messages", now)
        return self.fail(None, Invalid(why), now)

    def _flush(self, now: float) -> list[Effect]:
        held, self._held, self._flushed = self._held, {}, now
        for topic, frame in held.items():
            if effects := self._push(topic, frame.encoded(self.codec), now):
                return effects
        return []

    def _push(self, key: Key, data: bytes, now: float) -> list[Effect]:
        if self.state is CLOSED:
            return []
        grown = self.queued_bytes + len(data) - len(self._queue.get(key, b""))
        if grown > self.settings.queue_bytes_max:
            self.dropped += 1
            return self.close(TOO_SLOW, "byte budget spent", now)
        if not self._queue:
            self._progress = now
        self._queue[key] = data
        self.queued_bytes = grown
        self.wake()
        return []
