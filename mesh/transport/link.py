"""Link: one socket drained on the event loop, so that messages wait for nobody's task.

libzmq's descriptor is edge-triggered: it may stay silent although messages wait, and a
send may eat the edge. So every wake-up drains until EAGAIN or until the budget is spent,
and every send schedules another look.

Never here: decoding, sockets' options.
"""

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import zmq

BUDGET: Final = 64  # messages a turn, then timers and other links run

Sink: TypeAlias = Callable[[bytes], None]
RoutedSink: TypeAlias = Callable[[bytes, bytes], None]


class Link:
    """Hand every received frame to *sink*, which must not raise.

    With routed=True the socket is a ROUTER and the sink gets (routing id, frame).
    Messages of another number of parts are counted in rejects and dropped.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: "zmq.Socket[bytes]",
        *,
        sink: Sink | None = None,
        routed: RoutedSink | None = None,
    ) -> None:
        self._loop, self._sock = loop, sock
        self._sink, self._routed = sink, routed
        self._fd = int(sock.getsockopt(zmq.FD))
        self._scheduled = False
        self.rejects = 0
        loop.add_reader(self._fd, self._on_ready)
        self._schedule()  # what came before the reader was there has no edge

    def send(self, *parts: bytes) -> bool:
        """Send at once; return False if the peer is away or its queue is full."""
        try:
            if len(parts) == 1:
                self._sock.send(parts[0], zmq.NOBLOCK)
            else:
                self._sock.send_multipart(parts, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        finally:
            self._schedule()
        return True

    def close(self) -> None:
        """Stop listening and close the socket. Closing twice is fine."""
        if not self._sock.closed:
            self._loop.remove_reader(self._fd)  # before the number can be used again
            self._sock.close(linger=0)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_ready)

    def _on_ready(self) -> None:
        self._scheduled = False
        for _ in range(BUDGET):
            if self._sock.closed:  # a sink may have closed us
                return
            try:
                first = self._sock.recv(zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno != zmq.EAGAIN:
                    raise
                return
            self._take(first)
        self._schedule()

    def _take(self, first: bytes) -> None:
        more = bool(self._sock.getsockopt(zmq.RCVMORE)) if self._routed else False
        second = self._sock.recv(zmq.NOBLOCK) if more else b""
        extra = 0
        while self._sock.getsockopt(zmq.RCVMORE):
            self._sock.recv(zmq.NOBLOCK)
            extra += 1
        if extra or more is not (self._routed is not None):
            self.rejects += 1
        elif self._routed is not None:
            self._routed(first, second)
        elif self._sink is not None:
            self._sink(first)
