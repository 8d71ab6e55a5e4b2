"""Authenticator: the ZAP handler of a process; it makes users of peers, or refuses them.

libzmq asks it at every handshake, on either side: over ipc the connecting end learns as well
whose process it has reached. Refused is 400, which a peer takes as final; a failure of our own
is 300, so that the peer tries again. Where no handler answers, ZAP_ENFORCE_DOMAIN refuses all.

Never here: what a user may do, key files, identity taken from a message.
"""

import asyncio
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import zmq

from mesh.protocol.access import ANONYMOUS, LOCAL
from mesh.transport.sockets import ZAP_DOMAIN, Sockets

BUDGET: Final = 64  # decisions a turn, then timers and links run
KEY_BYTES: Final = 32
USER_MAX_BYTES: Final = 255
HEAD_FRAMES: Final = 6  # before the credentials
REPORT_PAUSE_S: Final = 1.0
# What libzmq makes of SO_PEERCRED; over TCP an address is numeric, so it cannot look like this.
_IPC_PEER: Final = re.compile(r"localhost:(\d+):(\d+):(\d+)", re.ASCII)


class Answer(NamedTuple):
    """status: 200, 300 or 400; why is for our log alone."""

    status: bytes
    user: str = ""
    why: str = ""


def _nobody(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Door:
    """What is known of peers. whois: the node whose run lock a pid holds; keys: whose a key is.

    Both may raise; that refuses the peer for now.
    """

    whois: Callable[[int], str | None] = _nobody
    keys: Callable[[bytes], str | None] = _nobody
    uids: frozenset[int] = field(default_factory=lambda: frozenset({os.getuid()}))

    def decide(self, mechanism: bytes, address: str, credentials: Sequence[bytes]) -> Answer:
        """Return who the peer is, or refuse it."""
        if mechanism == b"NULL":
            return self._by_address(address)
        if mechanism == b"CURVE":
            return self._by_key(credentials)
        return _refused(f"mechanism {mechanism[:20]!r}")

    def _by_address(self, address: str) -> Answer:
        peer = _IPC_PEER.fullmatch(address)
        if peer is None:
            if _is_loopback(address):
                return Answer(b"200", ANONYMOUS)
            return _refused(f"no key, from {address[:60]!r}")
        uid, pid = int(peer[1]), int(peer[3])
        if uid not in self.uids:
            return _refused(f"uid {uid} over ipc")
        return _known(self.whois(pid) or f"{LOCAL}{uid}")

    def _by_key(self, credentials: Sequence[bytes]) -> Answer:
        if len(credentials) != 1 or len(credentials[0]) != KEY_BYTES:
            return _refused("a malformed key")
        node = self.keys(credentials[0])
        return _refused("a key that is not authorized") if node is None else _known(node)


def _known(user: str) -> Answer:
    if len(user.encode()) > USER_MAX_BYTES:
        return _refused("a name too long")
    return Answer(b"200", user)


def _refused(why: str) -> Answer:
    return Answer(b"400", why=why)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def user_of(frame: "zmq.Frame") -> str:
    """Return the user a received frame came from, empty if libzmq made it itself.

    It does so to end the subscriptions of a peer that went. Needs recv(copy=False).
    """
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


@dataclass(slots=True)
class Zap:
    """Answer ZAP requests, without a socket; it never raises. now: monotonic seconds.

    report: (kind, why) with kind `refused`, at most once a second, or `fault`, once per
    episode of our own failures. Counters count all.
    """

    door: Door
    report: Callable[[str, str], None]
    now: Callable[[], float]
    accepted: int = 0
    refused: int = 0
    faults: int = 0
    _failing: bool = False
    _reported_at: float = -REPORT_PAUSE_S

    def handle(self, parts: Sequence[bytes]) -> list[bytes]:
        """Return the reply to one request. Source of the frames: ZeroMQ RFC 27."""
        missing = [b""] * (HEAD_FRAMES - len(parts))
        version, request_id, domain, address, _, mechanism, *credentials = [*parts, *missing]
        if version != b"1.0" or domain != ZAP_DOMAIN:
            answer = _refused(f"ZAP {version[:10]!r}, domain {domain[:20]!r}")
        else:
            answer = self._decide(mechanism, address, credentials)
        self._count(answer)
        return [b"1.0", request_id, answer.status, b"", answer.user.encode(), b""]

    def _decide(self, mechanism: bytes, address: bytes, credentials: list[bytes]) -> Answer:
        try:
            return self.door.decide(mechanism, address.decode(), credentials)
        except Exception as error:  # noqa: BLE001  # whatever fails in us refuses one peer for now; the handler must live
            return Answer(b"300", why=f"{type(error).__name__}: {error}")

    def _count(self, answer: Answer) -> None:
        failed = answer.status == b"300"
        if failed:
            self.faults += 1
            if not self._failing:
                self.report("fault", answer.why)
        elif answer.status == b"200":
            self.accepted += 1
        else:
            self.refused += 1
            now = self.now()
            if now - self._reported_at >= REPORT_PAUSE_S:
                self._reported_at = now
                self.report("refused", answer.why)
        self._failing = failed


class Authenticator:
    """Serve ZAP on *loop*; make it before any other socket of *sockets*.

    Without a door every process of our uid is let in as `local:<uid>`, and nobody else.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        door: Door | None = None,
        report: Callable[[str, str], None] = lambda kind, why: None,
    ) -> None:
        self.zap = Zap(door or Door(), report, loop.time)
        self._loop, self._scheduled = loop, False
        self._sock = sockets.zap(self._on_ready)
        self._fd = int(self._sock.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._on_ready)
        self._schedule()

    def close(self) -> None:
        """Answer no more: from now on every handshake fails. Closing twice is fine."""
        if not self._sock.closed:
            self._loop.remove_reader(self._fd)  # before the number can be used again
            self._sock.close(linger=0)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_ready)

    def _on_ready(self) -> None:
        """Drain until EAGAIN, for the descriptor tells of edges and a send may eat one."""
        self._scheduled = False
        for _ in range(BUDGET):
            if self._sock.closed:
                return
            try:
                peer, delimiter, *parts = self._sock.recv_multipart(zmq.NOBLOCK)
                self._sock.send_multipart([peer, delimiter, *self.zap.handle(parts)], zmq.NOBLOCK)
            except zmq.Again:
                return
        self._schedule()
