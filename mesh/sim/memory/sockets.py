"""MemorySockets: what mesh.transport asks of ZeroMQ, done in memory.

A socket here has what Link, Publisher, Subscriber, Requester and Responder use of a real one,
with the options that mesh.transport.sockets sets: manual grants, no queue for the dead, a full
queue that drops the newest. A test of contract holds it to the real ones.

Never here: the meaning of messages, wires.
"""

import errno
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, cast

import zmq

from mesh.sim.memory.loop import ProcessLoop
from mesh.sim.memory.network import Network, Wire
from mesh.transport.sockets import Line, Socket, Sockets

HWM_EVENTS: Final = 8_192  # SNDHWM and RCVHWM of mesh.transport.sockets together
HWM_DURABLE: Final = 24_576
HWM_REQUESTS: Final = 512
_MORE: Final = int(zmq.SNDMORE)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)


class MemoryFrame:
    """A received frame, with the user it came from."""

    more = False

    def __init__(self, data: bytes, user: str) -> None:
        self.bytes, self._user = data, user

    def get(self, name: str) -> str:
        """Return the user. Raises ZMQError for a frame that the library made itself."""
        if name != "User-Id" or not self._user:
            raise zmq.ZMQError(errno.EINVAL)
        return self._user


class MemorySocket:
    """A socket of one simulated process; what each kind does is in the classes below."""

    kind: int

    def __init__(self, network: Network, loop: ProcessLoop, user: str, fd: int, hwm: int) -> None:
        self.user, self.fd, self.closed = user, fd, False
        self._network, self._loop, self._hwm = network, loop, hwm
        self._inbox: deque[tuple[Wire | None, bytes]] = deque()
        self._wires: dict[bytes, Wire] = {}

    # What the transport uses.

    def getsockopt(self, option: int) -> int:
        """Return TYPE, FD or EVENTS."""
        if option == zmq.TYPE:
            return self.kind
        if option == zmq.FD:
            return self.fd
        return (_POLLIN if self._inbox else 0) | (_POLLOUT if self.has_room() else 0)

    def setsockopt(self, option: int, value: Any) -> None:
        """Take a subscription."""
        raise zmq.ZMQError(errno.EINVAL)

    def recv(self, flags: int = 0, *, copy: bool = True) -> Any:
        """Return the next frame. Raises Again without one."""
        wire, data = self._next()
        return data if copy else MemoryFrame(data, self._user_of(wire))

    def send(self, data: bytes, flags: int = 0) -> None:
        """Send a frame."""
        raise zmq.ZMQError(errno.ENOTSUP)

    def close(self, linger: int = 0) -> None:
        """Close, and let the other ends learn of it. Closing twice is fine."""
        if not self.closed:
            self.closed = True
            self._network.unbind(self)
            for wire in self._wires.values():
                wire.hang_up(self)
            self._wires.clear()

    # What the wires tell.

    def opened(self, wire: Wire) -> None:
        """Learn of a new wire."""
        if self.closed:
            wire.hang_up(self)
        else:
            self._wires[wire.ident] = wire
            self.wake()

    def take(self, wire: Wire, frame: bytes) -> None:
        """Take a frame."""
        self._inbox.append((wire, frame))
        self.wake()

    def lost(self, wire: Wire) -> None:
        """Learn that the other end is gone."""
        self._wires.pop(wire.ident, None)

    def wake(self) -> None:
        """Let the process look."""
        self._loop.wake(self.fd)

    def has_room(self) -> bool:
        """Say whether a frame could be sent."""
        return any(wire.unread[wire.other(self)] < self._hwm for wire in self._wires.values())

    def _push(self, wire: Wire, frame: bytes) -> bool:
        if wire.unread[wire.other(self)] >= self._hwm:
            return False
        wire.send(self, frame)
        return True

    def _next(self) -> tuple[Wire | None, bytes]:
        if self.closed:
            raise zmq.ZMQError(errno.ENOTSOCK)
        if not self._inbox:
            raise zmq.Again
        wire, data = self._inbox.popleft()
        if wire is not None:
            wire.unread[self] -= 1
            if wire.unread[self] == self._hwm - 1:
                cast(MemorySocket, wire.other(self)).wake()
        return wire, data

    def _user_of(self, wire: Wire | None) -> str:
        return "" if wire is None else wire.other(self).user


class MemoryXPub(MemorySocket):
    """A publisher: a subscription counts once it was granted. said: told every frame."""

    kind = int(zmq.XPUB)
    said: Callable[[bytes], None] = staticmethod(lambda frame: None)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._granted: dict[bytes, Counter[bytes]] = {}
        self._read: Wire | None = None

    def setsockopt(self, option: int, value: Any) -> None:
        """Grant or end a subscription of the peer that was read last."""
        if self._read is None:
            return
        granted = self._granted.get(self._read.ident)
        if granted is None:
            return
        if option == zmq.SUBSCRIBE:
            granted[value] += 1
        else:
            granted.pop(value, None)

    def recv(self, flags: int = 0, *, copy: bool = True) -> Any:
        """Return the next subscription."""
        wire, data = self._next()
        self._read = wire
        return data if copy else MemoryFrame(data, self._user_of(wire))

    def send(self, data: bytes, flags: int = 0) -> None:
        """Send to all that were granted a prefix; who has no room does not get it."""
        if self.closed:
            raise zmq.ZMQError(errno.ENOTSOCK)
        self.said(data)
        for ident, wire in self._wires.items():
            if any(data.startswith(prefix) for prefix in self._granted[ident]):
                self._push(wire, data)

    def opened(self, wire: Wire) -> None:
        """Begin without a grant."""
        self._granted[wire.ident] = Counter()
        super().opened(wire)

    def lost(self, wire: Wire) -> None:
        """End the subscriptions of who is gone, as the library does: without a user."""
        super().lost(wire)
        for prefix in sorted(self._granted.pop(wire.ident, ())):
            self._inbox.append((None, b"\0" + prefix))
        self.wake()


class MemoryRouter(MemorySocket):
    """A responder."""

    kind = int(zmq.ROUTER)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._body: tuple[Wire | None, bytes] | None = None  # of the message being read
        self._to: Wire | None = None

    def recv(self, flags: int = 0, *, copy: bool = True) -> Any:
        """Return the routing id, then the frame."""
        if self._body is None:
            wire, _ = self._body = self._next()
            return wire.ident if wire is not None else b""
        (wire, data), self._body = self._body, None
        return data if copy else MemoryFrame(data, self._user_of(wire))

    def send(self, data: bytes, flags: int = 0) -> None:
        """Take the routing id, then send the frame. Raises ZMQError for a peer that is gone."""
        if flags & _MORE:
            self._to = self._wires.get(data)
            if self._to is None:
                raise zmq.ZMQError(errno.EHOSTUNREACH)
            if self._to.unread[self._to.other(self)] >= self._hwm:
                raise zmq.Again
        elif self._to is not None:
            self._push(self._to, data)


class _Dialler(MemorySocket):
    """A socket that connects, and does so again when its peer comes back."""

    address = ""

    def connect(self, address: str) -> None:
        """Connect as soon as there is somebody."""
        self.address = address
        self._network.dial(self, address)

    def lost(self, wire: Wire) -> None:
        """Dial again."""
        super().lost(wire)
        self._network.dial(self, self.address)


class MemorySub(_Dialler):
    """A subscriber of one publisher."""

    kind = int(zmq.SUB)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._prefixes: Counter[bytes] = Counter()

    def setsockopt(self, option: int, value: Any) -> None:
        """Subscribe or unsubscribe; the publisher learns only what is new to it."""
        change = 1 if option == zmq.SUBSCRIBE else -1
        self._prefixes[value] += change
        if self._prefixes[value] == (1 if change > 0 else 0):
            self._tell(b"\1" if change > 0 else b"\0", value)
        if self._prefixes[value] <= 0:
            del self._prefixes[value]

    def opened(self, wire: Wire) -> None:
        """Ask for all that is wanted."""
        super().opened(wire)
        for prefix in sorted(self._prefixes):
            self._tell(b"\1", prefix)

    def take(self, wire: Wire, frame: bytes) -> None:
        """Take what is still wanted."""
        if any(frame.startswith(prefix) for prefix in self._prefixes):
            super().take(wire, frame)
        else:
            wire.unread[self] -= 1

    def _tell(self, verb: bytes, prefix: bytes) -> None:
        for wire in self._wires.values():
            wire.send(self, verb + prefix)


class MemoryDealer(_Dialler):
    """A requester. told: gets the events of its connection."""

    kind = int(zmq.DEALER)
    told: Callable[[int], None] = staticmethod(lambda event: None)

    def disable_monitor(self) -> None:
        """Tell nothing more."""
        self.told = lambda event: None

    def send(self, data: bytes, flags: int = 0) -> None:
        """Send a frame. Raises Again without a connection or room."""
        if not any(self._push(wire, data) for wire in self._wires.values()):
            raise zmq.Again

    def opened(self, wire: Wire) -> None:
        """Tell that there is a connection."""
        super().opened(wire)
        if not self.closed:
            self.told(int(zmq.EVENT_HANDSHAKE_SUCCEEDED))

    def lost(self, wire: Wire) -> None:
        """Tell that it is gone."""
        super().lost(wire)
        self.told(int(zmq.EVENT_DISCONNECTED))


class MemoryMonitor(MemorySocket):
    """What tells of a dealer's connection."""

    kind = int(zmq.PAIR)

    def tell(self, event: int) -> None:
        """Queue an event."""
        self._inbox.append((None, event.to_bytes(2, "little") + bytes(4)))
        self.wake()

    def recv_multipart(self, flags: int = 0) -> list[bytes]:
        """Return the next event, and an address that nobody reads."""
        return [self._next()[1], b""]


class MemorySockets(Sockets):
    """The sockets of one simulated process of node *user*. said: gets its frames of events."""

    def __init__(
        self, network: Network, loop: ProcessLoop, user: str, said: Callable[[bytes], None]
    ) -> None:
        self._network, self._loop, self._user, self._said = network, loop, user, said
        self._made: list[MemorySocket] = []

    def publisher(self, address: str, *, durable: bool, tcp: str | None = None) -> Socket:
        """Return a bound publisher."""
        sock = MemoryXPub(*self._parts(HWM_DURABLE if durable else HWM_EVENTS))
        sock.said = self._said
        return self._bound(sock, address)

    def subscriber(self, *, durable: bool, server_key: bytes | None = None) -> Socket:
        """Return a subscriber."""
        return self._kept(MemorySub(*self._parts(HWM_DURABLE if durable else HWM_EVENTS)))

    def responder(self, address: str, *, tcp: str | None = None) -> Socket:
        """Return a bound responder."""
        return self._bound(MemoryRouter(*self._parts(HWM_REQUESTS)), address)

    def line(self, address: str, *, server_key: bytes | None = None) -> Line:
        """Return a requester and what tells of its connection."""
        sock = MemoryDealer(*self._parts(HWM_REQUESTS))
        kept = self._kept(sock)
        monitor = MemoryMonitor(*self._parts(HWM_REQUESTS))
        sock.told = monitor.tell
        sock.connect(address)
        return Line(kept, self._kept(monitor))

    def connect(self, sock: Socket, address: str) -> None:
        """Connect *sock*."""
        sock.connect(address)

    def close(self) -> None:
        """Close all. Closing twice is fine."""
        for sock in self._made:
            sock.close()

    def _parts(self, hwm: int) -> tuple[Network, ProcessLoop, str, int, int]:
        return self._network, self._loop, self._user, len(self._made), hwm

    def _kept(self, sock: MemorySocket) -> Socket:
        self._made.append(sock)
        return cast(Socket, sock)

    def _bound(self, sock: MemorySocket, address: str) -> Socket:
        if not self._network.bind(sock, address):
            raise zmq.ZMQError(errno.EADDRINUSE)
        return self._kept(sock)
