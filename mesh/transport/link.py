"""Link: one socket drained on the event loop, so that messages wait for nobody's task.

libzmq's descriptor tells of news, not of messages: it may stay silent although some wait, and
a send may eat the news. So a drain ends only when libzmq itself says that nothing is left, or
when the budget is spent and another turn is due; and every send is followed by another look,
in the next turn or, for what is only posted, soon.

Figures in comments: CPython 3.11, pyzmq 27, a slow 2-core machine; recv of a frame is 0.5 us.

Never here: decoding, sockets' options, the order among links.
"""

import asyncio
import errno
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import zmq

from mesh.errors import LocalProtocolError
from mesh.transport.mux import BUDGET, EVENTS, RPC, Mux, Rank

Sink: TypeAlias = Callable[[bytes], None]
RoutedSink: TypeAlias = Callable[[bytes, zmq.Frame], None]
FramedSink: TypeAlias = Callable[[zmq.Frame], None]
Hook: TypeAlias = Callable[[], None]
Recv: TypeAlias = Callable[[int], bytes]
Ended: TypeAlias = Callable[[zmq.ZMQError], bool]
BulkSink: TypeAlias = Callable[[Recv, Ended, int], int]
_Take: TypeAlias = Callable[[int], int]  # at most so many messages; how many: fewer, none is left

# Plain integers: `events & zmq.POLLIN` builds an IntFlag, 2 us.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)

LOOK_S: Final = 0.005  # what a message may wait whose news post has eaten
_FEW: Final = 2  # asking EVENTS costs 2.9 us, a raised EAGAIN 7.6: ask after the first two
_ASKED: Final = frozenset({zmq.ROUTER, zmq.DEALER, zmq.REP, zmq.REQ})


class Link:
    """Hand every received frame to the one sink given, in the turns of the loop's Mux.

    sink gets frames of single-part messages. routed is for a ROUTER: routing id and zmq.Frame.
    framed is for an XPUB: the zmq.Frame. Its get("User-Id") tells the peer, before the next
    recv. A message of more parts is dropped and counted in rejects.

    bulk takes the frames itself, at most as many as it is told, by recv(zmq.NOBLOCK), and returns
    how many: a call of Python a frame is what a drain can save. A ZMQError of recv, and of
    nothing else, it hands to ended and returns. Each part of a message is a frame to it: it
    judges every one by its own bytes, which saves 1.5 us a frame.

    on_drained is called after each drain that handed out at least one frame. on_writable is
    called once after a send refused for a full queue (or for no peer yet), when the socket
    takes messages again. After close nothing more is called.

    Any of them may send on this or another link, and close this or another link. None may
    raise: what they raise reaches the loop's exception handler. The link goes on with the
    next frame.

    rank is RPC for sockets of requests, else EVENTS. Raises LocalProtocolError unless there
    is exactly one sink, and for on_writable at a ROUTER: its EVENTS do not tell which peer.
    """

    def __init__(  # noqa: PLR0913  # one sink of three kinds, two hooks: all named by the caller
        self,
        loop: asyncio.AbstractEventLoop,
        sock: "zmq.Socket[bytes]",
        *,
        sink: Sink | None = None,
        routed: RoutedSink | None = None,
        framed: FramedSink | None = None,
        bulk: BulkSink | None = None,
        on_drained: Hook | None = None,
        on_writable: Hook | None = None,
        rank: Rank | None = None,
    ) -> None:
        kind = zmq.SocketType(int(sock.getsockopt(zmq.TYPE)))
        if on_writable is not None and kind is zmq.ROUTER:
            raise LocalProtocolError("a ROUTER cannot tell which peer has room again")
        self.rank: Final = (RPC if kind in _ASKED else EVENTS) if rank is None else rank
        self.fd: Final = int(sock.getsockopt(zmq.FD))  # the number: uvloop keeps no socket
        self.frames = self.rejects = self.unsent = 0
        self._kind, self._sock = kind.name, sock
        self._recv, self._get = sock.recv, sock.getsockopt
        self._send = _plain_send(sock)
        self._take = self._taker(sink, routed, framed, bulk)
        self._span = 1 if bulk is None else BUDGET  # what one call of _take may take
        self._on_drained, self._on_writable = on_drained, on_writable
        self._closed = self._blocked = False
        self._looking = False  # a look for messages is due after this, or under way
        self._rest = False  # inside a message that is being dropped
        self._sure = False  # there is news: recv without asking first
        self._few = _FEW
        self._flushed = 0  # frames at the last on_drained
        # asyncio polls once more before the turn. A descriptor not yet quietened is still
        # readable then, and each wake-up would cost a second turn that finds nothing.
        self._quieten = isinstance(loop, asyncio.BaseEventLoop)
        self._later: asyncio.TimerHandle | None = None  # of a look after post
        self._call_later = loop.call_later
        self._mux = Mux.of(loop)
        self._mux.add(self, self._wake)
        self._mux.mark(self)  # what came before the reader was there makes no news

    def __repr__(self) -> str:
        state = "closed" if self._closed else "blocked" if self._blocked else "open"
        counts = f"frames={self.frames} rejects={self.rejects} unsent={self.unsent}"
        return f"<Link {self._kind} {self.rank.name} {state} {counts}>"

    @property
    def closed(self) -> bool:
        """Return whether the link is closed."""
        return self._closed

    def send(self, *parts: bytes) -> bool:
        """Send at once; return False if the peer is away, its queue full or the link closed."""
        if self._closed:
            return False
        send = self._send
        if not self._looking:
            self._look()
        try:
            if len(parts) > 1:
                for part in parts[:-1]:
                    send(part, _NOBLOCK_MORE)
            send(parts[-1], _NOBLOCK)
        except zmq.ZMQError as error:
            return self._not_sent(error)
        return True

    def post(self, frame: bytes) -> None:
        """Send one frame; who is away or full does not get it. As send, in half the time.

        The look for messages comes LOOK_S later: it would keep the loop from sleeping, and so
        its core from whoever is to get this frame.
        """
        try:
            self._send(frame, _NOBLOCK)
        except zmq.ZMQError as error:
            self._not_sent(error)
        if self._later is None and not self._looking:
            self._later = self._call_later(LOOK_S, self._look)

    def ask(self, frame: bytes) -> bool:
        """Send one frame and look for messages at once; as send, for who then waits.

        Asking libzmq is cheaper than a turn, and goes on while the frame travels.
        """
        if self._closed:
            return False
        try:
            self._send(frame, _NOBLOCK)
        except zmq.ZMQError as error:
            if not self._looking:
                self._look()
            return self._not_sent(error)
        if not self._looking and self._readable():
            self._look()
        return True

    def _look(self) -> None:
        """Look for messages in the next turn: a send may eat the news of one."""
        self._looking, self._later = True, None
        if not self._closed:
            self._mux.mark(self)

    def close(self, linger_ms: int = 0) -> None:
        """Stop listening and close the socket; what was sent has so long to leave. Twice is fine.

        Nobody else may close the socket. It would be noticed only at the next send or turn, and
        libuv aborts the process if a descriptor is gone before it was polled for the first time.
        """
        if not self._closed:
            self._closed = True
            if self._later is not None:
                self._later.cancel()
            self._mux.remove(self)  # before the number can be used again
            self._sock.close(linger=linger_ms)

    def drain(self, budget: int) -> bool:
        """Hand out at most *budget* frames; return whether more may wait. The Mux calls it."""
        if self._closed:
            return False
        self._looking = True  # that is what it does: sends of its sinks need no other turn
        try:
            more = (self._sure or self._readable()) and self._pump(budget)
        finally:
            self._looking = False
        self._sure = more
        if self.frames != self._flushed and not self._closed:
            self._flushed = self.frames
            if self._on_drained is not None:
                self._on_drained()
        if self._blocked and not self._closed:
            more = self._look_for_room() or more
        return more and not self._closed

    def _wake(self) -> None:
        self._sure = not self._quieten or self._readable()
        if self._sure or self._blocked:
            self._mux.news(self)

    def _pump(self, budget: int) -> bool:
        """Take messages; return True if the budget was spent, False once none is left."""
        take, few, taken, more = self._take, self._few, 0, True
        self._sure = False  # whatever is raised below: ask again
        try:
            while more and taken < budget:
                most = 1 if taken < few else min(self._span, budget - taken)
                taken += 1  # also if what takes it raises
                got = take(most)
                taken += got - 1
                if got < most:  # EAGAIN: libzmq has looked, and will make news of the next
                    more = False
                elif taken <= few:
                    more = self._readable()
        finally:
            self.frames += taken
        self._few = _FEW if taken <= _FEW else 0
        return more

    def _readable(self) -> bool:
        """Ask libzmq, which also arms the descriptor anew."""
        return not self._closed and bool(self._events() & _POLLIN)

    def _events(self) -> int:
        try:
            return int(self._get(_EVENTS))
        except zmq.ZMQError as error:
            return int(self._ended(error))

    def _look_for_room(self) -> bool:
        """Call on_writable if there is; return whether messages came in meanwhile."""
        events = self._events()
        if events & _POLLOUT and self._on_writable is not None:
            self._blocked = False
            self._on_writable()
        return bool(events & _POLLIN)

    def _not_sent(self, error: zmq.ZMQError) -> bool:
        if error.errno == errno.EAGAIN:
            self._blocked = self._on_writable is not None
        elif error.errno != errno.EHOSTUNREACH:
            return self._ended(error)
        self.unsent += 1
        return False

    def _ended(self, error: zmq.ZMQError) -> bool:
        """Return False at the end of the messages or of the socket; raise all else."""
        if error.errno == errno.ENOTSOCK:
            self.close()  # by a sink, or behind our back by whoever made the socket
        elif error.errno != errno.EAGAIN:
            raise error
        return False

    def _skip(self, frame: zmq.Frame) -> bool:
        """Drop one part of a message of too many; each counts against the budget."""
        if not self._rest:
            self.rejects += 1
        self._rest = frame.more
        self.frames -= 1  # the pump has counted it
        return True

    def _taker(
        self,
        sink: Sink | None,
        routed: RoutedSink | None,
        framed: FramedSink | None,
        bulk: BulkSink | None,
    ) -> _Take:
        match (sink, routed, framed, bulk):
            case (sink, None, None, None) if sink is not None:
                return self._take_single(sink)
            case (None, routed, None, None) if routed is not None:
                return self._take_routed(routed)
            case (None, None, framed, None) if framed is not None:
                return self._take_framed(framed)
            case (None, None, None, bulk) if bulk is not None:
                return partial(bulk, self._recv, self._ended)
        raise LocalProtocolError("a link has exactly one sink")

    def _take_single(self, sink: Sink) -> _Take:
        # A Frame knows whether more parts follow: 2.0 us. recv and RCVMORE: 2.8.
        return self._take_framed(lambda frame: sink(frame.bytes))

    def _take_framed(self, framed: FramedSink) -> _Take:
        recv, ended, skip = self._recv, self._ended, self._skip

        def take(most: int) -> bool:
            try:
                frame = recv(_NOBLOCK, copy=False)
            except zmq.ZMQError as error:
                return ended(error)
            if frame.more or self._rest:
                return skip(frame)
            framed(frame)
            return True

        return take

    def _take_routed(self, routed: RoutedSink) -> _Take:
        recv, ended, skip = self._recv, self._ended, self._skip

        def take(most: int) -> bool:
            try:
                if self._rest:
                    return skip(recv(_NOBLOCK, copy=False))
                peer = recv(_NOBLOCK)
                frame = recv(_NOBLOCK, copy=False)  # a ROUTER never gives an id alone
            except zmq.ZMQError as error:
                return ended(error)
            if frame.more:
                return skip(frame)
            routed(peer, frame)
            return True

        return take


def _plain_send(sock: "zmq.Socket[bytes]") -> Callable[..., object]:
    """Return what sends, past a wrapper that costs as much again; a simulated socket has none."""
    plain: Callable[..., object] = (
        super(zmq.Socket, sock).send if isinstance(sock, zmq.Socket) else sock.send
    )
    return plain
