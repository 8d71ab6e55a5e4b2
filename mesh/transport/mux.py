"""Mux: the turns of one event loop, in which ready links hand out their frames by rank.

A readable descriptor marks its link. The turn comes by call_soon, after all descriptors of that
poll have marked theirs, so rank decides and not the order of epoll. Between two turns timers and
other callbacks run. But a link's first frame is handed out at once, for the way over call_soon
takes 15 us when caches are cold: rank decides as soon as there is more to do than that.

Never here: sockets, frames.
"""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from enum import IntEnum
from functools import partial
from operator import attrgetter
from typing import Final, Protocol
from weakref import WeakValueDictionary

BUDGET: Final = 64  # frames a link hands out in a turn


class Rank(IntEnum):
    """Who goes first in a turn."""

    RPC = 0  # requests, replies, authentication: somebody waits for them
    DURABLE = 1  # what must not be lost, and the mesh's own topics
    EVENTS = 2  # market data: plenty, and soon stale


RPC: Final = Rank.RPC
DURABLE: Final = Rank.DURABLE
EVENTS: Final = Rank.EVENTS

_BY_RANK: Final = attrgetter("rank")


class Drained(Protocol):
    """What takes its turn: a Link, or whatever else owns a descriptor of libzmq."""

    @property
    def rank(self) -> Rank:
        """Return the rank; it never changes."""

    @property
    def fd(self) -> int:
        """Return the number of the descriptor, also after the socket was closed."""

    def drain(self, budget: int) -> bool:
        """Hand out at most *budget* frames; return whether more may wait. Harmless if closed."""


class Mux:
    """Give every ready link of a loop its budget in one turn, the lowest rank number first.

    No link starves: a flooded one costs the others one budget a turn. Nothing ready, no turn.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # In a context of its own: a turn that a handler asks for is not part of what it handles.
        self._call_soon = partial(loop.call_soon, context=copy_context())
        self._links: dict[int, Drained] = {}
        self._ready: dict[Drained, None] = {}  # a set that keeps its order
        self._scheduled = False
        self.turns = 0

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "Mux":
        """Return the one Mux of *loop*."""
        mux = _SHARED.get(loop)
        if mux is None:
            mux = _SHARED[loop] = Mux(loop)
        return mux

    def __repr__(self) -> str:
        return f"<Mux links={len(self._links)} ready={len(self._ready)} turns={self.turns}>"

    def add(self, link: Drained, on_readable: Callable[[], None]) -> None:
        """Call *on_readable* whenever the link's descriptor is, until it is removed."""
        if link.fd in self._links:
            # Its socket was closed behind the owner's back and the number is in use again. The
            # loop still has the old one on its list and would never tell epoll of the new one.
            self._loop.remove_reader(link.fd)
        self._links[link.fd] = link
        self._loop.add_reader(link.fd, on_readable)

    def remove(self, link: Drained) -> None:
        """Forget *link*. Must come before its socket is closed; removing twice is fine."""
        self._ready.pop(link, None)
        if self._links.get(link.fd) is link:
            del self._links[link.fd]
            if not self._loop.is_closed():
                self._loop.remove_reader(link.fd)

    def mark(self, link: Drained) -> None:
        """Give *link* a part in the next turn. Marking twice is fine."""
        self._ready[link] = None
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._turn)

    def news(self, link: Drained) -> None:
        """Let the readable *link* hand out a frame now; if there are more, in a turn."""
        if self._scheduled:  # somebody has more to do: wait for the turn
            self.mark(link)
            return
        self.turns += 1
        more = True  # also if a sink raises; see _turn
        try:
            more = link.drain(1)
        finally:
            if more:
                self.mark(link)

    def _turn(self) -> None:
        self._scheduled = False
        self.turns += 1
        ready, self._ready = self._ready, {}
        links = list(ready) if len(ready) == 1 else sorted(ready, key=_BY_RANK)
        done = 0
        try:
            for link in links:
                if link.drain(BUDGET):
                    self.mark(link)
                done += 1
        finally:
            # Left over only if a sink raised. That goes to the loop's exception handler, which
            # ends the node; until then the raiser and all behind it get the next turn, and only
            # the frame that the sink had in its hands is gone.
            for link in links[done:]:
                self.mark(link)


# A Mux lives as long as a link or a scheduled turn holds it, and its entry as long as the Mux.
_SHARED: Final[WeakValueDictionary[asyncio.AbstractEventLoop, Mux]] = WeakValueDictionary()
