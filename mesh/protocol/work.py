"""Work: one execution of a request, who waits for it, and what its server must do about it.

Never here: deciding, sockets, handlers.
"""

from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import TypeAlias

import msgspec

from mesh.protocol.cause import Cause
from mesh.protocol.envelope import Rpc
from mesh.protocol.once import Key, Row
from mesh.protocol.rpcs import PARTS, URGENT, Caller, Method


class Stage(IntEnum):
    """Where a work stands."""

    QUEUED = auto()
    RUNNING = auto()  # a handler has it, or the service finds out what became of it
    STORING = auto()  # its reply is on the way to the disk


class Step(IntEnum):
    """What happens to a work; its end is not written here, for it leaves no stage."""

    START = auto()
    STORE = auto()


QUEUED, RUNNING, STORING = Stage.QUEUED, Stage.RUNNING, Stage.STORING
START, STORE = Step.START, Step.STORE

TRANSITIONS = {QUEUED: {START: RUNNING}, RUNNING: {STORE: STORING}, STORING: dict[Step, Stage]()}


@dataclass(slots=True)
class Work:
    """One execution; the edge reads it and hands its number back."""

    number: int
    caller: Caller
    method: Method
    method_id: int
    body: bytes
    deadline: float  # the latest of those who wait
    prio: int
    attempt: int = 1
    key: Key | None = None
    stage: Stage = QUEUED
    resolves: bool = False  # nobody knows whether it was executed before
    committed: bool = False  # past the point of no return
    aborted: bool = False  # told to stop; it ends all the same by done() or failed()
    reply: bytes = b""  # while STORING
    waiters: list[tuple[bytes, int]] = field(default_factory=list)  # (connection, corr)
    parts: int = 0  # sent
    parts_max: int = PARTS  # may be sent so far
    corr: int = 0  # of who asked first
    cause: Cause | None = None  # and what made that one ask

    @property
    def urgent(self) -> bool:
        """Say whether it may use what is kept for cancels, mode and leases."""
        return self.prio < URGENT

    def turn(self, step: Step) -> None:
        """Go to the next stage. Raises KeyError for a bug."""
        self.stage = TRANSITIONS[self.stage][step]

    def grant(self, parts: int) -> bool:
        """Learn how many parts, in all, the caller takes; return whether that ends a pause."""
        waited, most = self.parts >= self.parts_max, self.parts + PARTS
        self.parts_max = max(self.parts_max, min(parts, most))
        return self.method.streams and waited and self.parts < self.parts_max


class Send(msgspec.Struct, frozen=True):
    """Send a frame. If the connection does not take it, call gone(peer).

    Not before the effects that came with it are carried out: an Abort could overtake its
    Execute.
    """

    peer: bytes
    rpc: Rpc


class Execute(msgspec.Struct, frozen=True):
    """Run the handler; end it by done() or failed(), whatever happens, also after an Abort.

    mark: store this row first; if that fails the handler must not begin.
    """

    work: Work
    mark: Row | None = None


class Resolve(msgspec.Struct, frozen=True):
    """Ask the service what became of the key of an earlier run.

    done() with the reply; absent() if it surely had no effect; else failed(), executed unknown.
    """

    work: Work


class Abort(msgspec.Struct, frozen=True):
    """Cancel the handler; nobody waits, or time is up. Call failed() when it has ended."""

    work: Work
    why: str


class Resume(msgspec.Struct, frozen=True):
    """The caller takes more parts again."""

    work: Work


class Store(msgspec.Struct, frozen=True):
    """Store this row, then call stored(): no answer runs ahead of the disk."""

    work: Work
    row: Row


class Forget(msgspec.Struct, frozen=True):
    """Delete the rows of these keys, if there are any, at leisure."""

    keys: tuple[Key, ...]


Effect: TypeAlias = Send | Execute | Resolve | Abort | Resume | Store | Forget
