"""Every error of the mesh, grouped by what the caller should do about it.

Unavailable: later, or elsewhere. Refused: never again. OutcomeUnknown: find out first.
ProtocolError: theirs is counted, ours crashes. ConfigError: one line, exit 78.

Never here: imports, trading words, handling.
"""

from typing import Final, Literal, TypeAlias

Executed: TypeAlias = Literal["no", "yes", "unknown"]  # did the effect happen at the callee?


class MeshError(Exception):
    """Something the mesh reports. code: constant for programs; executed: what is known."""

    code = "INTERNAL"
    executed: Executed = "unknown"

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message or self.code)
        self.message = message or self.code
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class Unavailable(MeshError):
    """Not started; try later or elsewhere."""

    code, executed = "UNAVAILABLE", "no"


class Overloaded(Unavailable):
    """A bounded queue is full."""

    code = "OVERLOADED"


class NoService(Unavailable):
    """Nobody serves the method."""

    code = "NO_SERVICE"


class Draining(Unavailable):
    """The callee is finishing; it takes no new request."""

    code = "DRAINING"


class UnknownSession(Unavailable):
    """The callee does not know this connection: greet again."""

    code = "UNKNOWN_SESSION"


class BreakerOpen(Unavailable):
    """A circuit breaker refuses the call."""

    code = "BREAKER_OPEN"

    def __init__(self, name: str, retry_after_s: float) -> None:
        super().__init__(
            f"breaker {name} is open, retry in {retry_after_s:.1f} s", retry_after_s=retry_after_s
        )
        self.name = name


class Refused(MeshError):
    """Refused by a check; the same request will be refused again."""

    code, executed = "REFUSED", "no"


class Invalid(Refused):
    """Malformed or out of bounds."""

    code = "INVALID"


class Denied(Refused):
    """Not allowed to this caller."""

    code = "DENIED"


class NotFound(Refused):
    """No such method, node or thing."""

    code = "NOT_FOUND"


class Conflict(Refused):
    """The same key with other content."""

    code = "CONFLICT"


class Expired(Refused):
    """The deadline passed before the work began."""

    code = "DEADLINE"


class VersionMismatch(Refused):
    """No version of the wire is spoken on both sides."""

    code = "VERSION"


class StaleEpoch(Refused):
    """A newer run of the caller is known."""

    code = "STALE_EPOCH"


class Fenced(Refused):
    """A newer run or term has taken over."""

    code = "FENCED"


class ModeBlocked(Refused):
    """The system mode does not allow it."""

    code = "MODE_BLOCKED"


class OutcomeUnknown(MeshError):
    """It may or may not have happened: find out first, repeat only with the same key."""

    code = "OUTCOME_UNKNOWN"


class ProtocolError(MeshError):
    """Bytes or calls that break the protocol."""

    code = "PROTOCOL"


class RemoteProtocolError(ProtocolError):
    """Theirs: drop, count, go on."""


class LocalProtocolError(ProtocolError):
    """Ours: a bug; crash."""


class InvalidTransition(MeshError):
    """A state machine was asked for what its table does not hold."""

    code = "INVALID_TRANSITION"


class StorageError(MeshError):
    """The disk failed; exit 70 and recover from what is on it."""

    code = "STORAGE"


class TooSlow(MeshError):
    """This process cannot follow what it hears; a new one must. Exit 71."""

    code = "TOO_SLOW"


class ConfigError(MeshError):
    """A setting is wrong; one line says where and what is near it. Exit 78."""

    code, executed = "CONFIG", "no"


class AlreadyRunning(MeshError):
    """Another process holds the run lock of this node. Exit 75."""

    code, executed = "ALREADY_RUNNING", "no"


def by_code() -> dict[str, type[MeshError]]:
    """Return the error classes by code, for errors that arrive over the wire.

    Without those that end a process: what a peer says of itself must not end us.
    """
    found: dict[str, type[MeshError]] = {}
    todo: list[type[MeshError]] = [MeshError]
    while todo:
        kind = todo.pop()
        found.setdefault(kind.code, kind)
        todo.extend(sub for sub in kind.__subclasses__() if sub not in _ENDING)
    return found


_ENDING: Final = (StorageError, TooSlow, ConfigError, AlreadyRunning)
