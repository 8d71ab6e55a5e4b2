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
from typing import Final

import zmq

from mesh.clock import monotonic_s, wall_ns
from mesh.errors import MeshError
from mesh.protocol import envelope
from mesh.protocol.asking import Asking
from mesh.protocol.balancing import Latency
from mesh.protocol.control import Hello
from mesh.protocol.envelope import REQ
from mesh.protocol.outcomes import Close, Effect, Failed, Open, Part, Ready, Replied, Send
from mesh.protocol.peerlink import DEAD, DRAINING, READY
from mesh.protocol.rpcs import Ask
from mesh.transport.alarm import Alarm
from mesh.transport.link import Ended, Link, Recv
from mesh.transport.mux import BUDGET, RPC
from mesh.transport.rpc import error_of
from mesh.transport.sockets import Line

_NOBLOCK = int(zmq.NOBLOCK)
_LEFT_MAX: Final = 512  # frames of a dead connection: twice what its socket keeps
_HANDSHAKE = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)


@dataclass(slots=True)
class _Waiting:
    """Who waits for a call; at most as many parts as the credit allows wait to be taken."""

    future: "asyncio.Future[Replied | Failed]"
    parts: deque[bytes] | None = None
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
        self._waiting: dict[int, _Waiting] = {}
        self._todo: deque[Effect] = deque()
        self._acting = self._closed = False
        self._alarm = Alarm(loop, self.asking.next_deadline, self._on_time)
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
        corr, waiting = self._begin(ask, None)
        try:
            return await waiting.future
        finally:
            self._end(corr, waiting)

    async def stream(self, ask: Ask) -> AsyncIterator[bytes]:
        """Yield the parts of a reply. Raises MeshError; then the parts so far are not all.

        Whoever takes no more parts stops the peer: it sends a few ahead. Closing the iterator
        cancels the call.
        """
        parts: deque[bytes] = deque()
        corr, waiting = self._begin(ask, parts)
        try:
            while True:
                while parts:
                    yield parts.popleft()
                    self._act(self.asking.consumed(corr))
                if waiting.future.done():
                    outcome = waiting.future.result()
                    if isinstance(outcome, Failed):
                        raise error_of(outcome.failure)
                    return
                waiting.news.clear()
                await waiting.news.wait()
        finally:
            self._end(corr, waiting)

    def close(self) -> None:
        """Fail what is under way, say goodbye, close the socket. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._act(self.asking.close(monotonic_s()))
            self._alarm.stop()
            self._hang_up()

    def _begin(self, ask: Ask, parts: deque[bytes] | None) -> tuple[int, _Waiting]:
        corr, effects = self.asking.call(ask, monotonic_s())
        waiting = self._waiting[corr] = _Waiting(self._loop.create_future(), parts)
        self._act(effects)
        return corr, waiting

    def _end(self, corr: int, waiting: _Waiting) -> None:
        del self._waiting[corr]
        if not waiting.future.done() or waiting.future.cancelled():
            self._act(self.asking.cancel(corr, monotonic_s()))

    # The socket.

    def _open(self) -> None:
        line = self._dial()
        self._events = line.events
        self._link = Link(self._loop, line.sock, sink=self._on_frame, on_writable=self._on_room)
        self._monitor = Link(self._loop, line.events, bulk=self._on_events, rank=RPC)

    def _hang_up(self) -> None:
        for link in (self._link, self._monitor):
            if link is not None:
                link.close()
        self._link = self._monitor = None

    def _on_frame(self, frame: bytes) -> None:
        try:
            rpc = envelope.decode_rpc(frame)
            effects = self.asking.frame(rpc, monotonic_s())
        except MeshError:  # theirs: drop, count, go on
            self.asking.rejects += 1
            return
        self._act(effects)

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
        self._todo += effects
        if self._acting:
            return
        self._acting = True
        try:
            while self._todo:
                self._do(self._todo.popleft())
        finally:
            self._acting = False
        self._alarm.set()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send(rpc):
                sent = self._link is not None and self._link.send(envelope.encode_rpc(rpc))
                if not sent and rpc.kind is REQ:
                    self._todo += self.asking.bounced(rpc.corr)
            case Replied() | Failed():
                self._settle(effect)
            case Part(corr, body):
                self._take_part(corr, body)
            case Ready():
                self._on_ready()
            case Close():
                self._hang_up()
            case Open():
                self._open()

    def _settle(self, outcome: Replied | Failed) -> None:
        waiting = self._waiting.get(outcome.corr)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(outcome)
            waiting.news.set()

    def _take_part(self, corr: int, body: bytes) -> None:
        waiting = self._waiting.get(corr)
        if waiting is not None and waiting.parts is not None:
            waiting.parts.append(body)
            waiting.news.set()
        else:
            self._todo += self.asking.consumed(corr)  # it did not ask for parts: let them pass
