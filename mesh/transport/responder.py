"""Responder: the requests to one node on one ROUTER. It carries out what Answering decides.

Never here: handlers, rows on disk, what methods mean.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import zmq

from mesh.clock import monotonic_s
from mesh.errors import Denied, LocalProtocolError, MeshError
from mesh.protocol import envelope
from mesh.protocol.admission import DRAINING
from mesh.protocol.answering import Answering
from mesh.protocol.control import Failure
from mesh.protocol.envelope import ERR, HELLO, REQ, Kind, Rpc
from mesh.protocol.rpcs import Caller
from mesh.protocol.work import Abort, Effect, Execute, Forget, Resolve, Resume, Send, Store
from mesh.transport.alarm import Alarm
from mesh.transport.auth import user_of
from mesh.transport.link import Link
from mesh.transport.mux import BUDGET
from mesh.transport.rpc import failure_of
from mesh.transport.sockets import Socket

Job: TypeAlias = Execute | Resolve | Abort | Resume | Store | Forget

LINGER_MS: Final = 500  # for the last answers: an effect is no use to a caller who is not told
_LEFT_MAX: Final = 1_024  # frames that a drained node still refuses
_MADE_HERE: Final = b"\0"  # begins a routing id that libzmq made, and tells nobody


class Responder:
    """Serve requests. *serve* carries out what is not about frames, and does not raise.

    answer: gives a plain request's answer, None where that has to wait; then serve gets it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: Socket,
        answering: Answering,
        serve: Callable[[Job], None],
        answer: Callable[[Rpc, Caller], tuple[Kind, bytes] | None],
    ) -> None:
        self.answering, self.unsent = answering, 0
        self._loop, self._serve, self._answer = loop, serve, answer
        self._todo: deque[Effect] = deque()
        self._acting = self._closed = False
        self._alarm = Alarm(loop, answering.next_deadline, self._on_time)
        self._link = Link(loop, sock, routed=self._on_frame)
        self._alarm.set()

    def __repr__(self) -> str:
        state, (running, queued) = self.answering.admission.state.name, self.answering.load
        return f"<Responder {state} running={running} queued={queued}>"

    def rebind(self, sock: Socket) -> None:
        """Go on with a fresh socket in place of the old one, already closed: no session stays."""
        self._link = Link(self._loop, sock, routed=self._on_frame)
        now = monotonic_s()
        for session in self.answering.sessions.all():
            self._act(self.answering.gone(session.peer, now))

    def drain(self, reason: str, ms: int) -> None:
        """Refuse new requests and tell every caller so. ms: until the node ends."""
        self._act(self.answering.drain(reason, ms))

    def hang_up(self) -> None:
        """Close the socket; rebind or close is to follow."""
        self._link.close()

    def close(self) -> None:
        """Say goodbye and close the socket. Closing twice is fine.

        After a drain what has come by now is refused: else nobody knows that it never began.
        """
        if not self._closed:
            if self.answering.admission.state is DRAINING:
                for _ in range(_LEFT_MAX // BUDGET):
                    if not self._link.drain(BUDGET):
                        break
            self._closed = True
            self._act(self.answering.close(monotonic_s()))
            self._alarm.stop()
            self._link.close(LINGER_MS)

    # How works end; each may be called once the responder is closed.

    def done(self, number: int, reply: bytes, *, stored: bool = False) -> None:
        """Answer with the reply of a handler; stored: its row is on disk, or none is needed."""
        self._act(self.answering.done(number, reply, monotonic_s(), stored=stored))

    def stored(self, number: int) -> None:
        """Answer: the row of a Store is on disk."""
        self._act(self.answering.stored(number, monotonic_s()))

    def failed(self, number: int, why: Failure) -> None:
        """Answer with an error."""
        self._act(self.answering.failed(number, why, monotonic_s()))

    def absent(self, number: int) -> None:
        """Learn that a Resolve found no effect."""
        self._act(self.answering.absent(number, monotonic_s()))

    def part(self, number: int, body: bytes) -> None:
        """Send a part of a reply; see Answering.part."""
        self._act(self.answering.part(number, body))

    def _on_frame(self, peer: bytes, frame: zmq.Frame) -> None:
        try:
            rpc = envelope.decode_rpc(frame.bytes)
            if rpc.kind is REQ and self._at_once(peer, rpc):
                return
            if rpc.kind is HELLO and not peer.startswith(_MADE_HERE):
                self._deny(peer, rpc)
                return
            # Who it is counts when a session begins; then it is pinned to the connection.
            user = user_of(frame) if rpc.kind is HELLO else ""
            effects = self.answering.frame(peer, user, rpc, monotonic_s())
        except MeshError:  # theirs: drop, count, go on
            self.answering.rejects += 1
            return
        self._act(effects)

    def _at_once(self, peer: bytes, rpc: Rpc) -> bool:
        """Answer a plain request before anything else is done, and without a trace."""
        session = None if self._closed else self.answering.at_once(peer, rpc, monotonic_s())
        answer = None if session is None else self._answer(rpc, session.caller)
        if answer is None:
            return False
        if not self._link.send(peer, envelope.encode_answer(rpc, *answer)):
            self._not_sent(peer)
        return True

    def _deny(self, peer: bytes, hello: Rpc) -> None:
        """Begin no session under a chosen id: whoever chose it next would go on with it."""
        self.answering.rejects += 1
        why = failure_of(Denied("a caller must not choose its routing id"))
        self._send(peer, Rpc(ERR, 0, 0, hello.client_epoch, envelope.encode_value(why)))

    def _on_time(self) -> None:
        self._act(self.answering.tick(monotonic_s()))

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
        if isinstance(effect, Send):
            self._send(effect.peer, effect.rpc)
        elif not self._closed:
            self._serve(effect)

    def _send(self, peer: bytes, rpc: Rpc) -> None:
        try:
            frame = envelope.encode_rpc(rpc)
        except LocalProtocolError as error:  # too large: the caller must learn it
            body = envelope.encode_value(failure_of(error))
            frame = envelope.encode_rpc(Rpc(ERR, rpc.method, rpc.corr, rpc.client_epoch, body))
        if not self._link.send(peer, frame):
            self._not_sent(peer)

    def _not_sent(self, peer: bytes) -> None:
        """End the session of who is gone, or does not read: its own deadline tells it."""
        self.unsent += 1
        self._act(self.answering.gone(peer, monotonic_s()))
