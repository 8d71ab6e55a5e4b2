"""The messages of genesis.v1, both directions, and the two spellings of them.

Never here: what they lead to.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec


class Codec(StrEnum):
    """The WebSocket subprotocols: text for browsers, binary for programs."""

    JSON = "genesis.v1.json"
    MSGPACK = "genesis.v1.msgpack"


JSON = Codec.JSON
MSGPACK = Codec.MSGPACK

Id: TypeAlias = str | int | None  # the client's own number of a wish


class Message(
    msgspec.Struct, frozen=True, tag_field="op", tag=str.lower, forbid_unknown_fields=True
):
    """A map with its name in ``op``."""


class Auth(Message, frozen=True):
    """The first message."""

    token: str


class Subscribe(Message, frozen=True):
    """Listen to topics: a subtree if it ends in a dot, else exactly one."""

    id: Id
    topics: tuple[str, ...]
    snapshot: bool = True
    resume: dict[str, tuple[int, int]] = {}
    conflate_ms: int = 0


class Unsubscribe(Message, frozen=True):
    """Listen no more."""

    id: Id
    topics: tuple[str, ...]


class Request(Message, frozen=True):
    """Call a method of a node; params is its one argument."""

    id: Id
    method: str
    params: Any = None
    target: str | None = None
    deadline_ms: int = 2_000
    idempotency_key: str = ""


class Ping(Message, frozen=True):
    """Ask for a pong with the same t."""

    t: int | float | str | None = None


class Welcome(Message, frozen=True):
    """Authenticated."""

    session: str
    epoch: int
    scope: str
    limits: dict[str, float]


class Snapshot(Message, frozen=True):
    """The last value of a topic at the time of subscribing."""

    id: Id
    topic: str
    seq: int
    data: Any


class Subscribed(Message, frozen=True):
    """Live from here; recovered only if nothing was missed since the resume position."""

    id: Id
    recovered: bool
    denied: tuple[str, ...]


class Event(Message, frozen=True, omit_defaults=True):
    """A value on a topic; offset only if durable, ts in ns UTC; data null: deleted."""

    topic: str
    epoch: int
    seq: int
    ts: int
    data: Any
    offset: int = 0


class Reply(Message, frozen=True):
    """The answer to a request."""

    id: Id
    data: Any


class Error(Message, frozen=True):
    """A refusal or failure; executed tells whether the effect happened."""

    id: Id
    code: str
    message: str
    executed: str


class Pong(Message, frozen=True):
    """The answer to ping; now in ns UTC."""

    t: int | float | str | None
    now: int


class Gap(Message, frozen=True):
    """Events of a topic that nobody here will see again."""

    topic: str
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")


class Mode(Message, frozen=True):
    """The system mode in force."""

    mode: str
    mode_epoch: int


class Bye(Message, frozen=True):
    """The last message before the connection is closed."""

    reason: str
    retry_after_ms: int


Incoming: TypeAlias = Auth | Subscribe | Unsubscribe | Request | Ping

_DECODE: Final[dict[Codec, Callable[[bytes], Incoming]]] = {
    JSON: msgspec.json.Decoder(Incoming).decode,
    MSGPACK: msgspec.msgpack.Decoder(Incoming).decode,
}
_ENCODE: Final[dict[Codec, Callable[[Any], bytes]]] = {
    JSON: msgspec.json.Encoder().encode,
    MSGPACK: msgspec.msgpack.Encoder().encode,
}


class Frame:
    """A message with its encodings, made once however many clients get it."""

    __slots__ = ("_encoded", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self._encoded: dict[Codec, bytes] = {}

    def encoded(self, codec: Codec) -> bytes:
        """Return the bytes in the spelling of *codec*."""
        if codec not in self._encoded:
            self._encoded[codec] = _ENCODE[codec](self.message)
        return self._encoded[codec]


def decode(codec: Codec, data: bytes) -> Incoming:
    """Return a client's message. Raises msgspec.MsgspecError, UnicodeError, RecursionError."""
    return _DECODE[codec](data)
