"""Outcomes: how a call ends for its caller, and what else the client of a peer must do.

What was sent and not answered may have been executed. What that means depends on the method:
a safe one is simply late or lost, for any other the outcome is unknown.

Never here: states, sockets, making another attempt.
"""

from typing import Final, TypeAlias

import msgspec

from mesh import errors
from mesh.protocol.calls import QUEUED, Call
from mesh.protocol.control import Failure
from mesh.protocol.envelope import Rpc
from mesh.protocol.rpcs import CANCELLED, ONCE, SAFE, End, Welcome, failure

_KINDS: Final = errors.by_code()
_ANSWERS: Final = frozenset(  # a peer that says no is well; but one too slow to begin is not
    code
    for code, kind in _KINDS.items()
    if issubclass(kind, (errors.Refused, errors.BreakerOpen)) and kind is not errors.Expired
)
_NEITHER: Final = frozenset((CANCELLED, errors.Draining.code))  # given up, or it goes on purpose

LATER: Final = frozenset(  # not started there; another attempt may be
    kind.code
    for kind in (
        errors.Unavailable,
        errors.Overloaded,
        errors.NoService,
        errors.Draining,
        errors.UnknownSession,
    )
)


class Send(msgspec.Struct, frozen=True):
    """Send a frame. If the socket does not take a REQ, call bounced(); other kinds may be lost."""

    rpc: Rpc


class Replied(msgspec.Struct, frozen=True):
    """The call has its reply; after parts it is what came with the last."""

    corr: int
    body: bytes


class Failed(msgspec.Struct, frozen=True):
    """The call has none. again: another attempt, with the same key, may be made in its budget.

    ours: it was ended here before it was sent, for a reason of our own.
    """

    corr: int
    failure: Failure
    again: bool
    ours: bool = False


class Part(msgspec.Struct, frozen=True):
    """A part of the reply has come; call consumed() when it has been taken."""

    corr: int
    body: bytes


class Ready(msgspec.Struct, frozen=True):
    """A session is open."""

    welcome: Welcome


class Close(msgspec.Struct, frozen=True):
    """Close the socket."""

    why: Failure


class Open(msgspec.Struct, frozen=True):
    """Make a new socket and connect it; call connected() when it is."""


Effect: TypeAlias = Send | Replied | Failed | Part | Ready | Close | Open


def verdict(outcome: Replied | Failed) -> bool | None:
    """Tell whether an outcome speaks for its peer or against it; None: for neither.

    Against it: no answer in time, a lost connection, overload, a bug. A refusal is an answer.
    Nothing about it: what was never sent for want of our own room or time, or was given up,
    and that it drains.
    """
    if isinstance(outcome, Replied):
        return True
    code, executed = outcome.failure.code, outcome.failure.executed
    if outcome.ours or code in _NEITHER:
        return None
    return executed == "no" and code in _ANSWERS


def failed(call: Call, why: Failure, *, ours: bool = False) -> Failed:
    """Return the end of a call by an error that its peer, or nobody, saw."""
    again = why.executed == "no" and why.code in LATER and call.kind is not ONCE
    return Failed(call.corr, why, again, ours)


def ended(call: Call, end: End) -> Replied | Failed:
    """Return the end of a call whose reply came in parts: whole, or else it counts as none."""
    if end.count == call.parts:
        return Replied(call.corr, end.extra)
    why = f"{call.ask.method}: {end.count} parts were sent, {call.parts} came"
    return failed(call, failure(errors.RemoteProtocolError, why))


def overdue(call: Call, peer: str, *, ready: bool) -> Failed:
    """Return the end of a call whose deadline passed. ready: a session was open."""
    name = f"{call.ask.method} at {peer}"
    if call.stage is not QUEUED:
        kind = errors.Expired if call.kind is SAFE else errors.OutcomeUnknown
        return Failed(call.corr, failure(kind, f"{name}: no answer in time", "unknown"), False)
    if ready:
        why = failure(errors.Expired, f"{name}: no credit in time")
        return Failed(call.corr, why, again=False, ours=True)
    return Failed(call.corr, failure(errors.Unavailable, f"{name}: no session in time"), False)


def lost(call: Call, why: Failure) -> Failed:
    """Return the end of a call whose connection, or whose answer, was lost."""
    if call.stage is QUEUED:
        return failed(call, why)
    kind = errors.Unavailable if call.kind is SAFE else errors.OutcomeUnknown
    text = f"{call.ask.method}: {why.message} without an answer"
    return Failed(call.corr, failure(kind, text, "unknown"), call.kind is not ONCE)


def after(earlier: Failure | None, latest: Failure) -> Failure:
    """Return what is known after several attempts: no is only no if none before was unknown."""
    if earlier is None or earlier.executed == "no" or latest.executed != "no":
        return latest
    return failure(errors.OutcomeUnknown, f"{earlier.message}; then {latest.message}")
