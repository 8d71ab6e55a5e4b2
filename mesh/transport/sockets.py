"""The factory of every ZeroMQ socket, with every option and its reason.

Deny by default: whatever is bound asks the authenticator of its process (see auth) about each
peer; while there is none, nobody gets in. What connects does not ask: over TCP the server proves
its key, over ipc the run directory is ours alone.

Never here: the meaning of messages. Nothing else makes sockets.
"""

import ipaddress
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from os import getpid
from typing import Final, NamedTuple, TypeAlias

import zmq
from zmq.utils import z85

from mesh.errors import ConfigError, LocalProtocolError

SUBSCRIPTION_MAX_BYTES: Final = 4 * 1024
EVENT_IN_MAX_BYTES: Final = 256 * 1024
REQUEST_IN_MAX_BYTES: Final = 1024 * 1024
IPC_PATH_MAX_BYTES: Final = 107  # sun_path less its NUL
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"  # RFC 27 knows no other
ZAP_DOMAIN: Final = b"genesis"
REBIND_MAX_MS: Final = 500
KEY_CHARS: Final = 40  # 32 bytes in Z85

_COMMON: Final[dict[int, int | bytes]] = {
    zmq.LINGER: 0,  # exit never hangs
    zmq.HEARTBEAT_IVL: 500,  # ms; sees half-open TCP and frozen processes
    zmq.HEARTBEAT_TIMEOUT: 1500,
    zmq.HEARTBEAT_TTL: 2000,
    zmq.HANDSHAKE_IVL: 2000,  # the default of 30 s lets a silent peer hold a slot
    zmq.CONNECT_TIMEOUT: 2000,
    zmq.RECONNECT_IVL: 20,  # a restarted node is heard again within some 50 ms
    zmq.RECONNECT_IVL_MAX: 1000,
    zmq.BACKLOG: 256,  # every node connects at start-up at once
    zmq.TCP_KEEPALIVE: 1,  # a dead NAT entry shows
    zmq.TCP_MAXRT: 5000,  # ms unacknowledged data waits; the kernel's default is 15 minutes
}

# Only for what is bound. A session that connects keeps its pipe to the authenticator over its
# reconnections, and libzmq 4.3.5 aborts the process ("Transport endpoint is not connected",
# zap_client.cpp) if it greets again while its socket, or the authenticator, is being closed
# (libzmq#2476). An accepted session asks once in its life.
_ASKING: Final[dict[int, int | bytes]] = {
    zmq.ZAP_DOMAIN: ZAP_DOMAIN,  # without a domain NULL is not asked about
    zmq.ZAP_ENFORCE_DOMAIN: 1,  # without a handler libzmq would let everybody in
}


Socket: TypeAlias = zmq.SyncSocket


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """A CURVE key pair in Z85, 40 characters each; the secret never shows."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def make(cls) -> "CurveKeys":
        """Return a new pair from the system's dice."""
        return cls(*zmq.curve_keypair())

    @classmethod
    def of(cls, secret: bytes) -> "CurveKeys":
        """Return the pair of a Z85 *secret*. Raises ConfigError if it is none."""
        raw_key(secret)
        return cls(zmq.curve_public(secret), secret)


def raw_key(key: bytes) -> bytes:
    """Return the 32 bytes of a Z85 key. Raises ConfigError, without showing it, if it is none."""
    if len(key) == KEY_CHARS:
        with suppress(KeyError, struct.error):  # no letter of Z85, a group above 32 bits
            raw: bytes = z85.decode(key)
            return raw
    raise ConfigError(f"not a CURVE key: it takes {KEY_CHARS} characters of Z85")


def bound_address(sock: Socket) -> str:
    """Return the last address that *sock* was bound to, with the port it was given."""
    return str(sock.getsockopt_string(zmq.LAST_ENDPOINT))


class Line(NamedTuple):
    """A connected DEALER, and the socket that tells when it has a connection and loses it."""

    sock: "zmq.Socket[bytes]"
    events: "zmq.Socket[bytes]"

    def mute(self) -> None:
        """Let nothing more be told; to be called before either is closed.

        libzmq's I/O thread would wait for ever for room at a receiver that is gone, and with it
        all connections of the process.
        """
        if not self.sock.closed:
            self.sock.disable_monitor()


class Stranger(NamedTuple):
    """For the self-test: a guarded server, a client with a key nobody knows, what befell it."""

    server: "zmq.Socket[bytes]"
    client: "zmq.Socket[bytes]"
    events: "zmq.Socket[bytes]"

    def close(self) -> None:
        """Close all three."""
        self.server.disable_monitor()
        for sock in self:
            sock.close(linger=0)


class Sockets:
    """Make the sockets of one process; close them all with :meth:`close`.

    keys: this node's CURVE pair; without one TCP is refused but for loopback, where all are
    anonymous. Raises ConfigError for such an address, LocalProtocolError for one that another
    socket of ours has, zmq.ZMQError where one cannot be bound.
    """

    _strangers = count()

    def __init__(self, keys: CurveKeys | None = None) -> None:
        self._keys = keys
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, 4096)  # 1023 by default
        self._open: list[zmq.Socket[bytes]] = []
        self._tend: Callable[[], None] = lambda: None
        self._monitors = count()
        self._ends: dict[str, zmq.Socket[bytes]] = {}  # address to what tells its socket's end

    def zap(self, tend: Callable[[], None] = lambda: None) -> "zmq.Socket[bytes]":
        """Return the socket on which libzmq asks about peers; make it before all others.

        tend: answers what was asked; called while a bind waits for an old socket to go.
        """
        self._tend = tend
        sock = self._context.socket(zmq.ROUTER)  # REP would answer one at a time
        self._open.append(sock)  # before the bind: were it to fail, close() would wait for ever
        sock.setsockopt(zmq.LINGER, 0)
        sock.bind(ZAP_ENDPOINT)
        return sock

    def publisher(
        self, address: str, *, durable: bool, tcp: str | None = None
    ) -> "zmq.Socket[bytes]":
        """Return a bound XPUB. A full pipe drops the newest for that peer alone.

        No subscription counts before its frame was received and, ahead of the next recv,
        granted by setsockopt(SUBSCRIBE, topic). tcp: a second address, under CURVE.
        """
        sock = self._make(zmq.XPUB, SUBSCRIPTION_MAX_BYTES, asks=True)
        sock.setsockopt(zmq.XPUB_MANUAL, 1)  # each peer gets what was granted to it, no more
        sock.setsockopt(zmq.XPUB_VERBOSE, 1)  # every probe is seen, also a repeated one
        sock.setsockopt(zmq.SNDHWM, 16_384 if durable else 4_096)
        sock.setsockopt(zmq.RCVHWM, 0)  # subscriptions must never be lost
        self._bind(sock, address, tcp)
        return sock

    def subscriber(self, *, durable: bool, server_key: bytes | None = None) -> "zmq.Socket[bytes]":
        """Return a SUB for one publisher; connect it by :meth:`connect`. server_key: Z85."""
        sock = self._make(zmq.SUB, EVENT_IN_MAX_BYTES, asks=False)
        sock.setsockopt(zmq.SNDHWM, 0)  # at 1000 subscriptions beyond that vanish
        sock.setsockopt(zmq.RCVHWM, 8_192 if durable else 4_096)
        self._expect(sock, server_key)
        return sock

    def responder(self, address: str, *, tcp: str | None = None) -> "zmq.Socket[bytes]":
        """Return a bound ROUTER. tcp: a second address, under CURVE."""
        sock = self._make(zmq.ROUTER, REQUEST_IN_MAX_BYTES, asks=True)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a dead peer is an error, not silence
        sock.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes over another's replies
        sock.setsockopt(zmq.SNDHWM, 256)
        sock.setsockopt(zmq.RCVHWM, 256)
        self._bind(sock, address, tcp)
        return sock

    def requester(self, address: str, *, server_key: bytes | None = None) -> "zmq.Socket[bytes]":
        """Return a connected DEALER. It has no routing id: duplicates lose messages."""
        sock = self._make(zmq.DEALER, REQUEST_IN_MAX_BYTES, asks=False)
        self._dial(sock, address, server_key)
        return sock

    def line(self, address: str, *, server_key: bytes | None = None) -> Line:
        """Return a requester and what tells of its connection: made first, it misses nothing."""
        sock = self._make(zmq.DEALER, REQUEST_IN_MAX_BYTES, asks=False)
        events = self._monitor(sock, zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._dial(sock, address, server_key)
        return Line(sock, events)

    def connect(self, sock: "zmq.Socket[bytes]", address: str) -> None:
        """Connect *sock*. Raises ConfigError for TCP without a server key beyond loopback."""
        if sock.getsockopt(zmq.MECHANISM) != zmq.CURVE:
            refuse_open_tcp(address)
        sock.connect(address)

    def stranger(self) -> Stranger:
        """Return a client that must be refused, at the door of a server that asks as all do."""
        address = f"ipc://@genesis-{getpid()}-{next(self._strangers)}"  # abstract: leaves no file
        key = CurveKeys.make()
        server = self._make(zmq.DEALER, REQUEST_IN_MAX_BYTES, asks=True)
        events = self._monitor(
            server,
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        )
        _guard(server, key)
        server.bind(address)
        client = self._make(zmq.DEALER, REQUEST_IN_MAX_BYTES, asks=False)
        _present(client, CurveKeys.make(), key.public)
        client.connect(address)
        return Stranger(server, client, events)

    def close(self) -> None:
        """Close what is open and end the context. Closing twice is fine."""
        for sock in self._open:
            sock.close(linger=0)
        self._open.clear()
        self._ends.clear()
        self._context.term()

    def _make(self, kind: int, message_max_bytes: int, *, asks: bool) -> "zmq.Socket[bytes]":
        self._open = [sock for sock in self._open if not sock.closed]
        sock = self._context.socket(kind)
        asking = _ASKING if asks else {}
        for option, value in (_COMMON | asking).items():
            sock.setsockopt(option, value)
        sock.setsockopt(zmq.MAXMSGSIZE, message_max_bytes)  # unset, one frame may be 200 MiB
        self._open.append(sock)
        return sock

    def _bind(self, sock: "zmq.Socket[bytes]", address: str, tcp: str | None) -> None:
        """Bind *address* under NULL, then *tcp* under CURVE: options are copied at each bind."""
        end = self._monitor(sock, zmq.EVENT_MONITOR_STOPPED)
        for place in filter(None, (address, tcp)):
            if self._keys is None:
                refuse_open_tcp(place)
            elif place.startswith("tcp:"):
                _guard(sock, self._keys)
            self._await_end(place)
            sock.bind(place)
            self._ends[bound_address(sock)] = end

    def _monitor(self, sock: "zmq.Socket[bytes]", events: int) -> "zmq.Socket[bytes]":
        """Return what tells of *events*, at an address that no other socket ever had.

        By default it is made of the descriptor's number, which may be in use again before
        libzmq has let go of the old one's monitor.
        """
        monitor = sock.get_monitor_socket(events, f"inproc://monitor-{next(self._monitors)}")
        self._open.append(monitor)
        return monitor

    def _await_end(self, place: str) -> None:
        """Wait until a socket of ours that was bound here is gone: closing is another thread's.

        Without, 9 of 10 rebinds of TCP fail; with, it takes a few ms. Each session has a pipe
        to the ZAP socket and ends only when that is served.
        """
        end = self._ends.get(place)
        if end is None or end.closed:
            return
        for _ in range(REBIND_MAX_MS):
            if end.poll(1):
                end.close(linger=0)
                return
            self._tend()
        raise LocalProtocolError(f"{place} is still bound; close the old socket first")

    def _dial(self, sock: "zmq.Socket[bytes]", address: str, server_key: bytes | None) -> None:
        sock.setsockopt(zmq.IMMEDIATE, 1)  # nothing queues for the dead
        sock.setsockopt(zmq.SNDHWM, 256)
        sock.setsockopt(zmq.RCVHWM, 256)
        self._expect(sock, server_key)
        self.connect(sock, address)

    def _expect(self, sock: "zmq.Socket[bytes]", server_key: bytes | None) -> None:
        if server_key is None:
            return
        if self._keys is None:
            raise ConfigError("no CURVE key of our own; see `genesis keys --help`")
        _present(sock, self._keys, server_key)


def refuse_open_tcp(address: str) -> None:
    """Raise ConfigError if *address* is TCP beyond loopback, named by number."""
    if not address.startswith("tcp:"):
        return
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, an interface, a wildcard: who knows where that is
        loopback = False
    if not loopback:
        raise ConfigError(f"{address} needs CURVE keys; see `genesis keys --help`")


def _guard(sock: "zmq.Socket[bytes]", keys: CurveKeys) -> None:
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def _present(sock: "zmq.Socket[bytes]", keys: CurveKeys, server_key: bytes) -> None:
    sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    sock.setsockopt(zmq.CURVE_SERVERKEY, server_key)
