"""ZMTP 3.1 by hand over a unix socket: greeting, NULL, SUBSCRIBE, PING and PONG, messages.

Source: https://rfc.zeromq.org/spec/37. Never here: anything of mesh, any ZeroMQ library.
"""

import socket
import struct
from typing import Final, Self

GREETING: Final = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
MORE, LONG, COMMAND = 1, 2, 4
TIMEOUT_S: Final = 8.0
PING_HEAD_BYTES: Final = 2  # time to live, in tenths of a second


class Refused(Exception):
    """The peer sent ERROR instead of READY."""


class Peer:
    """One connection. recv() answers pings on the way to the next message."""

    def __init__(self, path: str, kind: str) -> None:
        self.pings = self.pongs = 0
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(TIMEOUT_S)
        self._sock.connect(path)
        self._sock.sendall(GREETING)
        greeting = self._read(len(GREETING))
        assert greeting[:1] == b"\xff"
        assert (greeting[9], greeting[10], greeting[12:16]) == (0x7F, 3, b"NULL")
        value = kind.encode()
        ready = b"\x0bSocket-Type" + struct.pack(">I", len(value)) + value
        self.command(b"READY", ready + b"\x08Identity" + bytes(4))
        name, self.ready = self._command(*self._frame())
        if name != b"READY":
            raise Refused(name + self.ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    def send(self, body: bytes, flags: int = 0) -> None:
        """Send one frame, long or short as its length asks."""
        if len(body) > 255:
            head = bytes([flags | LONG]) + struct.pack(">Q", len(body))
        else:
            head = bytes([flags, len(body)])
        self._sock.sendall(head + body)

    def command(self, name: bytes, body: bytes) -> None:
        """Send a command."""
        self.send(bytes([len(name)]) + name + body, COMMAND)

    def ping(self, context: bytes) -> None:
        """Ask for a sign of life."""
        self.command(b"PING", struct.pack(">H", 20) + context)

    def recv(self) -> bytes:
        """Return the next message of one frame. Raises TimeoutError, ConnectionError."""
        while True:
            flags, body = self._frame()
            if not flags & COMMAND:
                assert not flags & MORE, "the mesh sends messages of one frame"
                return body
            name, rest = self._command(flags, body)
            if name == b"PING":
                self.pings += 1
                self.command(b"PONG", rest[PING_HEAD_BYTES:])
            elif name == b"PONG":
                self.pongs += 1
                self.last_pong = rest

    def _frame(self) -> tuple[int, bytes]:
        flags = self._read(1)[0]
        size = struct.unpack(">Q", self._read(8))[0] if flags & LONG else self._read(1)[0]
        return flags, self._read(size)

    @staticmethod
    def _command(flags: int, body: bytes) -> tuple[bytes, bytes]:
        assert flags & COMMAND
        end = 1 + body[0]
        return body[1:end], body[end:]

    def _read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            more = self._sock.recv(size - len(found))
            if not more:
                raise ConnectionError("closed by the peer")
            found += more
        return bytes(found)
