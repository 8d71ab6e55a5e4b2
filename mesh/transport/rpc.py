"""Requester and Responder: a request reaches one peer, and its reply comes back or is given up.

A caller learns one of three things: the reply, an error that says it was not executed, or
OutcomeUnknown. Every call has a deadline; what has not been sent by then never is.

Never here: handlers, choosing among peers, retries of executed requests.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias

import zmq

from mesh import errors
from mesh.errors import MeshError, OutcomeUnknown, Overloaded, Unavailable
from mesh.protocol import envelope
from mesh.protocol.control import Failure, Hello, Welcome
from mesh.protocol.envelope import ERR, HELLO, REP, REQ, WELCOME, WIRE, Rpc
from mesh.transport.link import Link

PENDING_MAX: Final = 256
SESSIONS_MAX: Final = 4096
GREET_AGAIN_S: Final = 0.05
_BY_CODE: Final = errors.by_code()

Reply: TypeAlias = Callable[[bytes], None]
Fail: TypeAlias = Callable[[MeshError], None]


@dataclass(slots=True)
class Caller:
    """Who asks, pinned when the session was opened."""

    node: str
    epoch: int


@dataclass(slots=True)
class Call:
    """One request as the server sees it: answer exactly once, by reply or fail."""

    caller: Caller
    method: int
    body: bytes
    budget_s: float
    reply: Reply
    fail: Fail


@dataclass(slots=True)
class _Pending:
    corr: int
    method: int
    name: str
    body: bytes
    deadline: float
    future: asyncio.Future[bytes]
    timer: asyncio.TimerHandle | None = None
    sent: bool = False


@dataclass(slots=True)
class Requester:
    """Call one peer over one DEALER. Cancelling a call is safe: a late reply is dropped."""

    loop: asyncio.AbstractEventLoop
    sock: "zmq.SyncSocket"  # a connected DEALER
    peer: str  # its name, for messages
    hello: Hello
    epoch: int
    ready: bool = False
    late_replies: int = 0
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _corr: "count[int]" = field(default_factory=lambda: count(1))
    _link: Link = field(init=False)
    _greeting: asyncio.TimerHandle | None = None
    _closed: bool = False

    def __post_init__(self) -> None:
        self._link = Link(self.loop, self.sock, sink=self._on_frame, on_writable=self._on_writable)

    async def call(self, method: str, body: bytes, timeout_s: float) -> bytes:
        """Return the reply's body. Raises MeshError as the peer or the deadline decides."""
        if len(self._pending) >= PENDING_MAX:
            raise Overloaded(f"{PENDING_MAX} requests to {self.peer} are under way")
        corr = next(self._corr)
        pending = _Pending(
            corr,
            envelope.method_id(method),
            method,
            body,
            self.loop.time() + timeout_s,
            self.loop.create_future(),
        )
        self._pending[corr] = pending
        pending.timer = self.loop.call_later(timeout_s, self._expire, pending)
        try:
            if self.ready:
                self._send(pending)
            else:
                self._greet()
            return await pending.future
        finally:
            pending.timer.cancel()
            self._pending.pop(corr, None)

    def close(self) -> None:
        """Fail what is under way and close the socket."""
        self._closed = True
        if self._greeting is not None:
            self._greeting.cancel()
        for pending in list(self._pending.values()):
            self._give_up(pending, "the requester was closed")
        self._link.close()

    def _send(self, pending: _Pending) -> None:
        budget_ms = int((pending.deadline - self.loop.time()) * 1000)
        if budget_ms <= 0:
            return  # its timer is about to tell the caller
        frame = envelope.encode_rpc(
            Rpc(REQ, pending.method, pending.corr, self.epoch, pending.body, budget_ms)
        )
        if self._link.send(frame):
            pending.sent = True

    def _on_writable(self) -> None:
        """Send what did not fit, or greet a peer that has come: this table is the queue."""
        if self.ready:
            self._send_all()
        elif self._pending:
            self._greet_now()

    def _greet(self) -> None:
        """Send HELLO now and again until WELCOME comes or nobody waits any more."""
        if self._greeting is None and not self._closed:
            self._greet_now()

    def _greet_now(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
        body = envelope.encode_value(self.hello)
        self._link.send(envelope.encode_rpc(Rpc(HELLO, 0, 0, self.epoch, body)))
        self._greeting = self.loop.call_later(GREET_AGAIN_S, self._greet_again)

    def _greet_again(self) -> None:
        self._greeting = None
        if not self.ready and self._pending:
            self._greet()

    def _on_frame(self, frame: bytes) -> None:
        try:
            rpc = envelope.decode_rpc(frame)
            if rpc.kind is WELCOME:
                envelope.decode_value(rpc.body, Welcome)
                self._welcomed()
            elif rpc.kind is ERR and rpc.corr == 0:
                self._turned_away(envelope.decode_value(rpc.body, Failure))
            elif rpc.kind in (REP, ERR):
                self._answered(rpc)
        except MeshError:
            self.late_replies += 1

    def _welcomed(self) -> None:
        self.ready = True
        self._send_all()

    def _turned_away(self, failure: Failure) -> None:
        """Tell every caller that the peer wants no session with us."""
        for pending in list(self._pending.values()):
            if not pending.future.done():
                pending.future.set_exception(error_of(failure))

    def _send_all(self) -> None:
        for pending in list(self._pending.values()):
            if not pending.sent:
                self._send(pending)

    def _answered(self, rpc: Rpc) -> None:
        pending = self._pending.get(rpc.corr)
        if pending is None or pending.future.done():
            self.late_replies += 1
        elif rpc.kind is REP:
            pending.future.set_result(rpc.body)
        else:
            failure = envelope.decode_value(rpc.body, Failure)
            if failure.code == errors.UnknownSession.code:
                pending.sent = self.ready = False
                self._greet()
            else:
                pending.future.set_exception(error_of(failure))

    def _expire(self, pending: _Pending) -> None:
        self._give_up(pending, "no answer in time")

    def _give_up(self, pending: _Pending, why: str) -> None:
        if pending.future.done():
            return
        kind = OutcomeUnknown if pending.sent else Unavailable
        pending.future.set_exception(kind(f"{pending.name} at {self.peer}: {why}"))
        if pending.sent:
            self.ready = False  # a session that lost an answer is greeted anew


class Responder:
    """Serve requests on one ROUTER; *serve* must not raise and answers each call once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: "zmq.SyncSocket",
        welcome: Welcome,
        cluster: str,
        serve: Callable[[Call], None],
    ) -> None:
        self._loop = loop
        self._welcome = envelope.encode_value(welcome)
        self._epoch, self._cluster, self._serve = welcome.epoch, cluster, serve
        self._sessions: dict[bytes, Caller] = {}
        self.rejects = self.unsent = 0
        self._epochs: dict[str, int] = {}
        self._link = Link(loop, sock, routed=self._on_frame)

    def rebind(self, sock: "zmq.SyncSocket") -> None:
        """Go on with a fresh socket in place of the old one, already closed: no session stays."""
        self._sessions.clear()
        self._link = Link(self._loop, sock, routed=self._on_frame)

    def close(self) -> None:
        """Close the socket."""
        self._link.close()

    def _on_frame(self, peer: bytes, frame: bytes) -> None:
        try:
            rpc = envelope.decode_rpc(frame)
            if rpc.kind is HELLO:
                self._greeted(peer, rpc, envelope.decode_value(rpc.body, Hello))
            elif rpc.kind is REQ:
                self._requested(peer, rpc)
        except MeshError:
            self.rejects += 1

    def _greeted(self, peer: bytes, rpc: Rpc, hello: Hello) -> None:
        refusal = self._refusal(rpc.client_epoch, hello)
        if refusal is not None:
            self.rejects += 1
            body = envelope.encode_value(failure_of(refusal))
            self._answer(peer, Rpc(ERR, 0, 0, rpc.client_epoch, body))
            return
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))  # the oldest greets again
        self._epochs[hello.node] = rpc.client_epoch
        self._sessions[peer] = Caller(hello.node, rpc.client_epoch)
        self._answer(peer, Rpc(WELCOME, 0, 0, self._epoch, self._welcome))

    def _refusal(self, epoch: int, hello: Hello) -> MeshError | None:
        if hello.cluster != self._cluster:
            return errors.Denied(f"this is another cluster than {hello.cluster[:60]!r}")
        if not hello.wire_min <= WIRE <= hello.wire_max:
            return errors.VersionMismatch(
                f"wire {hello.wire_min}-{hello.wire_max} there, {WIRE} here"
            )
        if epoch < (newest := self._epochs.get(hello.node, 0)):
            return errors.StaleEpoch(f"epoch {epoch} of {hello.node}, {newest} is known")
        if len(self._epochs) >= SESSIONS_MAX and hello.node not in self._epochs:
            self._epochs.pop(next(iter(self._epochs)))
        return None

    def _requested(self, peer: bytes, rpc: Rpc) -> None:
        def answer(kind: envelope.Kind, body: bytes) -> None:
            self._answer(peer, Rpc(kind, rpc.method, rpc.corr, rpc.client_epoch, body))

        def fail(error: MeshError) -> None:
            answer(ERR, envelope.encode_value(failure_of(error)))

        caller = self._sessions.get(peer)
        if caller is None:
            fail(errors.UnknownSession("greet first"))
            return
        if caller.epoch < self._epochs.get(caller.node, 0):
            fail(errors.StaleEpoch(f"a newer run of {caller.node} is here"))
            return
        budget_s = min(rpc.budget_ms / 1000, 60.0)
        self._serve(Call(caller, rpc.method, rpc.body, budget_s, lambda b: answer(REP, b), fail))

    def _answer(self, peer: bytes, rpc: Rpc) -> None:
        try:
            frame = envelope.encode_rpc(rpc)
        except errors.LocalProtocolError as error:  # too large: the caller must learn it
            body = envelope.encode_value(failure_of(error))
            frame = envelope.encode_rpc(Rpc(ERR, rpc.method, rpc.corr, rpc.client_epoch, body))
        if not self._link.send(peer, frame):
            self.unsent += 1  # the caller is gone; its own deadline tells it


def failure_of(error: MeshError) -> Failure:
    """Return *error* as it travels."""
    return Failure(error.code, error.executed, str(error)[:500], int(error.retry_after_s * 1000))


def error_of(failure: Failure) -> MeshError:
    """Return the error that *failure* tells of; an unknown code is a plain MeshError."""
    kind = _BY_CODE.get(failure.code, MeshError)
    error = MeshError.__new__(kind)
    MeshError.__init__(error, failure.message, retry_after_s=failure.retry_after_ms / 1000)
    if failure.executed in ("no", "yes", "unknown"):
        error.executed = failure.executed  # type: ignore[assignment]  # checked above
    return error
