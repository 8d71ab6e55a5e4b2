"""The factory of every ZeroMQ socket, with every option and its reason.

Never here: the meaning of messages. Nothing else makes sockets.
"""

from typing import Final

import zmq

SUBSCRIPTION_MAX_BYTES: Final = 4 * 1024
EVENT_IN_MAX_BYTES: Final = 256 * 1024
REQUEST_IN_MAX_BYTES: Final = 1024 * 1024
IPC_PATH_MAX_BYTES: Final = 107  # sun_path less its NUL

_COMMON: Final[dict[int, int]] = {
    zmq.LINGER: 0,  # exit never hangs
    zmq.HEARTBEAT_IVL: 500,  # ms; sees half-open TCP and frozen processes
    zmq.HEARTBEAT_TIMEOUT: 1500,
    zmq.HEARTBEAT_TTL: 2000,
    zmq.HANDSHAKE_IVL: 2000,  # the default of 30 s lets a silent peer hold a slot
    zmq.CONNECT_TIMEOUT: 2000,
    zmq.RECONNECT_IVL: 20,  # a restarted node is heard again within some 50 ms
    zmq.RECONNECT_IVL_MAX: 1000,
    zmq.BACKLOG: 256,  # every node connects at start-up at once
}


class Sockets:
    """Make the sockets of one process; close them all with :meth:`close`.

    Raises zmq.ZMQError where an address cannot be bound.
    """

    def __init__(self) -> None:
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 4096)  # 1023 by default
        self._open: list[zmq.Socket[bytes]] = []

    def publisher(self, address: str, *, durable: bool) -> zmq.Socket[bytes]:
        """Return a bound XPUB. A full pipe drops the newest for that peer alone."""
        sock = self._make(zmq.XPUB, SUBSCRIPTION_MAX_BYTES)
        sock.setsockopt(zmq.XPUB_VERBOSE, 1)  # every probe is seen, also a repeated one
        sock.setsockopt(zmq.SNDHWM, 16_384 if durable else 4_096)
        sock.setsockopt(zmq.RCVHWM, 0)  # subscriptions must never be lost
        sock.bind(address)
        return sock

    def subscriber(self, *, durable: bool) -> zmq.Socket[bytes]:
        """Return an unconnected SUB for one publisher."""
        sock = self._make(zmq.SUB, EVENT_IN_MAX_BYTES)
        sock.setsockopt(zmq.SNDHWM, 0)  # at 1000 subscriptions beyond that vanish
        sock.setsockopt(zmq.RCVHWM, 8_192 if durable else 4_096)
        return sock

    def responder(self, address: str) -> zmq.Socket[bytes]:
        """Return a bound ROUTER."""
        sock = self._make(zmq.ROUTER, REQUEST_IN_MAX_BYTES)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a dead peer is an error, not silence
        sock.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes over another's replies
        sock.setsockopt(zmq.SNDHWM, 256)
        sock.setsockopt(zmq.RCVHWM, 256)
        sock.bind(address)
        return sock

    def requester(self, address: str) -> zmq.Socket[bytes]:
        """Return a DEALER for one peer. It has no routing id: duplicates lose messages."""
        sock = self._make(zmq.DEALER, REQUEST_IN_MAX_BYTES)
        sock.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues for the dead
        sock.setsockopt(zmq.SNDHWM, 256)
        sock.setsockopt(zmq.RCVHWM, 256)
        sock.connect(address)
        return sock

    def close(self) -> None:
        """Close what is open and end the context. Closing twice is fine."""
        for sock in self._open:
            sock.close(linger=0)
        self._open.clear()
        self._context.term()

    def _make(self, kind: int, message_max_bytes: int) -> zmq.Socket[bytes]:
        self._open = [sock for sock in self._open if not sock.closed]
        sock = self._context.socket(kind)
        for option, value in _COMMON.items():
            sock.setsockopt(option, value)
        sock.setsockopt(zmq.MAXMSGSIZE, message_max_bytes)  # unset, one frame may be 200 MiB
        self._open.append(sock)
        return sock
