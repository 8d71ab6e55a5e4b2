"""PeerLink: where the link to a peer stands, and when it is greeted, pinged, given up, opened.

    CONNECTING --CONNECT--> GREETING --GREET--> READY --LEAVE--> DRAINING
    GREETING, READY, DRAINING --LOSE--> CONNECTING       READY, DRAINING --FORGET--> GREETING
    any --BREAK--> DEAD --OPEN, after a pause--> CONNECTING

Never here: calls, frames, sockets, a clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Final

from mesh.protocol.backoff import BackoffPolicy
from mesh.protocol.rpcs import BUDGET_S_MAX

GREET_S: Final = 0.5  # between two HELLO
GREETS: Final = 4
PING_S: Final = 1.0
PINGS: Final = 3  # without any frame from the peer
PAUSE: Final = BackoffPolicy(1.0, 30.0)


class PeerState(IntEnum):
    """Where the link to a peer stands."""

    CONNECTING = auto()
    GREETING = auto()
    READY = auto()
    DRAINING = auto()  # it finishes what it has and takes nothing new
    DEAD = auto()  # the socket is of no use


class PeerTurn(IntEnum):
    """What happens to it."""

    CONNECT = auto()
    GREET = auto()  # greeted, and welcomed
    FORGET = auto()  # the peer does not know the session
    LEAVE = auto()
    LOSE = auto()
    BREAK = auto()
    OPEN = auto()


class Due(IntEnum):
    """What time asks for."""

    NOTHING = auto()
    HELLO = auto()
    PING = auto()
    SILENT = auto()  # give it up
    LEFT = auto()  # give it up: it said so
    OPEN = auto()  # a new socket


CONNECTING, GREETING, READY = PeerState.CONNECTING, PeerState.GREETING, PeerState.READY
DRAINING, DEAD = PeerState.DRAINING, PeerState.DEAD
CONNECT, GREET, FORGET, LEAVE = PeerTurn.CONNECT, PeerTurn.GREET, PeerTurn.FORGET, PeerTurn.LEAVE
LOSE, BREAK, OPEN = PeerTurn.LOSE, PeerTurn.BREAK, PeerTurn.OPEN

# Exact: a walk in the tests visits every pair written here, and no other.
TRANSITIONS: Final = {
    CONNECTING: {CONNECT: GREETING, BREAK: DEAD},
    GREETING: {CONNECT: GREETING, GREET: READY, LOSE: CONNECTING, BREAK: DEAD},
    READY: {FORGET: GREETING, LEAVE: DRAINING, LOSE: CONNECTING, BREAK: DEAD},
    DRAINING: {FORGET: GREETING, LEAVE: DRAINING, LOSE: CONNECTING, BREAK: DEAD},
    DEAD: {OPEN: CONNECTING},
}


@dataclass(slots=True)
class PeerLink:
    """Keep the state and the timers of one link. dice() is uniform in [0, 1)."""

    dice: Callable[[], float]
    state: PeerState = CONNECTING
    at: float | None = None  # of the next HELLO, PING or OPEN
    until: float | None = None  # end of the peer's drain
    tries: int = 0  # HELLOs or PINGs without an answer
    dead: int = 0  # times in a row

    @property
    def has_session(self) -> bool:
        """Say whether requests can be in flight."""
        return self.state in (READY, DRAINING)

    def greeted(self, now: float, turn: PeerTurn) -> None:
        """Learn that a HELLO is being sent: CONNECT to a new connection, FORGET to the old."""
        self._turn(turn)
        self.until, self.tries, self.at = None, 1, self._soon(GREET_S, now)

    def welcomed(self, now: float) -> None:
        """Learn that the peer opened a session."""
        self._turn(GREET)
        self.tries, self.dead, self.at = 0, 0, self._soon(PING_S, now)

    def heard(self) -> None:
        """Learn that the peer lives; while it is greeted only a WELCOME counts."""
        if self.has_session:
            self.tries = 0

    def leaves(self, in_ms: int, now: float) -> None:
        """Learn that the peer will close."""
        self._turn(LEAVE)
        self.until = now + min(max(in_ms, 0) / 1_000, BUDGET_S_MAX) + PING_S

    def lost(self) -> None:
        """Learn that the connection is no more."""
        self._turn(LOSE)
        self.at = self.until = None

    def give_up(self, now: float) -> None:
        """Learn that the socket is closed; OPEN is due after a pause."""
        self._turn(BREAK)
        self.until, self.tries = None, 0
        self.at = now + PAUSE.delay_s(self.dead, self.dice, PAUSE.base_s)
        self.dead += 1

    def due(self, now: float) -> Due:
        """Return what is to be done at *now*; HELLO, PING and OPEN count as done."""
        if self.until is not None and now >= self.until:
            return Due.LEFT
        if self.at is None or now < self.at:
            return Due.NOTHING
        if self.state is DEAD:
            self._turn(OPEN)
            self.at = None
            return Due.OPEN
        greeting = self.state is GREETING
        if self.tries >= (GREETS if greeting else PINGS):
            return Due.SILENT
        self.tries += 1
        self.at = self._soon(GREET_S if greeting else PING_S, now)
        return Due.HELLO if greeting else Due.PING

    def next_deadline(self) -> float | None:
        """Return when due() has something to say, None if never."""
        if self.at is None or self.until is None:
            return self.at if self.until is None else self.until
        return min(self.at, self.until)

    def check(self) -> None:
        """Assert every invariant."""
        assert (self.until is not None) is (self.state is DRAINING)
        assert self.at is not None or self.state in (CONNECTING, DEAD)
        assert 0 <= self.tries <= GREETS

    def _turn(self, turn: PeerTurn) -> None:
        self.state = TRANSITIONS[self.state][turn]

    def _soon(self, period_s: float, now: float) -> float:
        return now + period_s * (0.9 + 0.2 * self.dice())
