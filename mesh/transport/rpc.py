"""How an error travels on the request plane, and what a caller makes of one that came.

Never here: sockets, sessions.
"""

from typing import Final

from mesh import errors
from mesh.errors import MeshError, OutcomeUnknown, Refused
from mesh.protocol.control import Failure

_BY_CODE: Final = errors.by_code()


def failure_of(error: MeshError) -> Failure:
    """Return *error* as it travels."""
    return Failure(error.code, error.executed, str(error)[:500], int(error.retry_after_s * 1000))


def error_of(failure: Failure) -> MeshError:
    """Return the error that *failure* tells of; an unknown code is a plain MeshError.

    A refusal promises that nothing happened. One of which nobody knows that (a deadline that
    passed at work) is an unknown outcome to whoever decides by the kind of the error.
    """
    kind = _BY_CODE.get(failure.code, MeshError)
    if issubclass(kind, Refused) and failure.executed != "no":
        kind = OutcomeUnknown
    error = MeshError.__new__(kind)
    MeshError.__init__(error, failure.message, retry_after_s=failure.retry_after_ms / 1000)
    if failure.executed in ("no", "yes", "unknown"):
        error.executed = failure.executed  # type: ignore[assignment]  # checked above
    return error
