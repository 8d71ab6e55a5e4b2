"""Requester: one peer over one DEALER. It carries out what Asking decides.

Its monitor tells when the connection is there and when it is lost, so what is in flight fails
at once when the peer dies.

Never here: choosing among peers, another attempt.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import zmq

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.protocol.asking import Asking
from mesh.protocol.balancing import Latency
from mesh.protocol.control import Hello
from mesh.protocol.envelope import REP, REQ, Rpc
from mesh.protocol.outcomes import Close, Effect, Failed, Open, Part, Ready, Replied, Send
from mesh.protocol.peerlink import DEAD, DRAINING, READY
from mesh.protocol.rpcs import Ask
from mesh.transport.alarm import Alarm
from mesh.transport.link import Ended, Link, Recv
from mesh.transport.mux import BUDGET, RPC
from mesh.transport.rpc import error_of
from mesh.transport.sockets import Line

Outcome: TypeAlias = "asyncio.Future[Replied | Failed]"

_NOBLOCK: Final = int(zmq.NOBLOCK)
_LEFT_MAX: Final = 512  # frames of a dead connection: twice what its socket keeps
_HANDSHAKE: Final = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)


@dataclass(slots=True)
class _Parts:
    """Those that came of a reply; at most as many as the credit allows wait to be taken."""

    came: deque[bytes] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Requester:
    """Ask one peer.

    dial: returns a new line to it. on_ready: called whenever a session is open.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dial: Callable[[], Line],
        peer: str,
        hello: Hello,
        epoch: int,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.latency = Latency()
        self.asking = Asking(peer, hello, epoch, wall_ns, random.random)
        self._loop, self._dial, self._on_ready = loop, dial, on_ready
        self._waiting: dict[int, Outcome] = {}
        self._parts: dict[int, _Parts] = {}
        self._todo: deque[Effect] = deque()
        self._acting = self._closed = False
        self._alarm = Alarm(loop, self.asking.next_deadline, self._on_time)
        self._line: Line | None = None
        self._link: Link | None = None
        self._monitor: Link | None = None
        self._open()

    def __repr__(self) -> str:
        asking = self.asking
        counts = f"inflight={asking.inflight} queued={asking.queued} late={asking.late}"
        return f"<Requester {asking.peer} {asking.state.name} {counts}>"

    @property
    def ready(self) -> bool:
        """Say whether a session is open and takes requests."""
        return self.asking.state is READY

    @property
    def refusing(self) -> bool:
        """Say whether a request would be refused at once."""
        return self.asking.state in (DRAINING, DEAD)

    async def call(self, ask: Ask) -> Replied | Failed:
        """Return how an attempt ended, by its deadline. Cancelling gives it up at the peer too.

        Raises LocalProtocolError for a body that no frame can hold.
        """
        corr, outcome = self._begin(ask, None)
        try:
            return await outcome
        finally:
            self._end(corr, outcome)

    async def stream(self, ask: Ask) -> AsyncIterator[bytes]:
        """Yield the parts of a reply. Raises MeshError; then the parts so far are not all.

        Whoever takes no more parts stops the peer: it sends a few ahead. Closing the iterator
        cancels the call.
        """
        parts = _Parts()
        corr, outcome = self._begin(ask, parts)
        try:
            while True:
                while parts.came:
                    yield parts.came.popleft()
                    self._act(self.asking.consumed(corr))
                if outcome.done():
                    ended = outcome.result()
                    if isinstance(ended, Failed):
                        raise error_of(ended.failure)
                    return
                parts.news.clear()
                await parts.news.wait()
        finally:
            self._parts.pop(corr, None)
            self._end(corr, outcome)

    def close(self) -> None:
        """Fail what is under way, say goodbye, close the socket. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._act(self.asking.close(monotonic_s()))
            self._alarm.stop()
            self._hang_up()

    def _begin(self, ask: Ask, parts: _Parts | None) -> tuple[int, Outcome]:
        corr, effects = self.asking.call(ask, monotonic_s())
        outcome = self._waiting[corr] = self._loop.create_future()
        if parts is not None:
            self._parts[corr] = parts
        self._act(effects)
        self._alarm.set()
        return corr, outcome

    def _end(self, corr: int, outcome: Outcome) -> None:
        del self._waiting[corr]
        if not outcome.done() or outcome.cancelled():
            self._act(self.asking.cancel(corr, monotonic_s()))

    # The socket.

    def _open(self) -> None:
        line = self._line = self._dial()
        self._events = line.events
        self._link = Link(self._loop, line.sock, sink=self._on_frame, on_writable=self._on_room)
        self._monitor = Link(self._loop, line.events, bulk=self._on_events, rank=RPC)

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.mute()
        for link in (self._link, self._monitor):
            if link is not None:
                link.close()
        self._line = self._link = self._monitor = None

    def _on_frame(self, frame: bytes) -> None:
        try:
            rpc = envelope.decode_rpc(frame)
            effects = self.asking.frame(rpc, monotonic_s())
        except MeshError:  # theirs: drop, count, go on
            self.asking.rejects += 1
            return
        self._act(effects)
        if rpc.kind is not REP:  # which brings no deadline nearer; somebody waits for it
            self._alarm.set()

    def _on_room(self) -> None:
        self._act(self.asking.writable(monotonic_s()))

    def _on_events(self, recv: Recv, ended: Ended, most: int) -> int:
        """Take what the monitor tells, in order: two frames each."""
        for taken in range(most):
            try:
                told, _ = self._events.recv_multipart(_NOBLOCK)
            except zmq.ZMQError as error:
                ended(error)
                return taken
            if int.from_bytes(told[:2], "little") == _HANDSHAKE:
                self._act(self.asking.connected(monotonic_s()))
            else:
                self._on_lost()
            self._alarm.set()
            if self._monitor is None:
                return taken
        return most

    def _on_lost(self) -> None:
        """Take the answers that came before the end, then let the rest fail."""
        for _ in range(_LEFT_MAX // BUDGET + 1):
            if self._link is None or not self._link.drain(BUDGET):
                break
        self._act(self.asking.lost())

    def _on_time(self) -> None:
        self._act(self.asking.tick(monotonic_s()))

    # What the machine wants.

    def _act(self, effects: list[Effect]) -> None:
        """Carry out effects in their order, also those that come of it."""
        if self._acting:
            self._todo += effects
            return
        if len(effects) == 1:  # as with nearly every call and every reply
            self._do(effects[0])
            if not self._todo:
                return
        else:
            self._todo += effects
        self._acting = True
        try:
            while self._todo:
                self._do(self._todo.popleft())
        finally:
            self._acting = False

    def _do(self, effect: Effect) -> None:
        match effect:  # the fields are read below: a pattern that binds them costs as much again
            case Send():
                self._send(effect.rpc)
            case Replied() | Failed():
                self._settle(effect)
            case Part():
                self._take_part(effect.corr, effect.body)
            case Ready():
                self._on_ready()
            case Close():
                self._hang_up()
            case Open():
                self._open()

    def _send(self, rpc: Rpc) -> None:
        sent = self._link is not None and self._link.ask(envelope.encode_rpc(rpc))
        if not sent and rpc.kind is REQ:
            self._todo += self.asking.bounced(rpc.corr)

    def _settle(self, outcome: Replied | Failed) -> None:
        waiting = self._waiting.get(outcome.corr)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)
            if (parts := self._parts.get(outcome.corr)) is not None:
                parts.news.set()

    def _take_part(self, corr: int, body: bytes) -> None:
        parts = self._parts.get(corr)
        if parts is not None:
            parts.came.append(body)
            parts.news.set()
        else:
            self._todo += self.asking.consumed(corr)  # it did not ask for parts: let them pass
