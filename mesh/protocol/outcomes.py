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
from mesh.protocol.rpcs import ONCE, SAFE, End, Welcome, failure

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
    """The call has none. again: another attempt, with the same key, may be made in its budget."""

    corr: int
    failure: Failure
    again: bool


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


def failed(call: Call, why: Failure) -> Failed:
    """Return the end of a call by an error that its peer, or nobody, saw."""
    again = why.executed == "no" and why.code in LATER and call.kind is not ONCE
    return Failed(call.corr, why, again)


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
        return Failed(call.corr, failure(errors.Expired, f"{name}: no credit in time"), False)
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
