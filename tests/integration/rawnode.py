"""A node made of bare sockets, which says what no node of ours would say.

Never here: tests, the mesh's own edges.
"""

import contextlib
import os
from typing import Any, Self

import msgspec
import zmq

from mesh.protocol import envelope
from mesh.protocol.control import SCHEMAS, DeliveryClass, Failure, Head, Hello, Record
from mesh.protocol.envelope import ERR, HELLO, REQ, WELCOME, WIRE, Event, Rpc
from mesh.runtime.directory import Directory

CLUSTER = "test"


class RawNode:
    """Publish any bytes as node *name*; answer probes with a HEAD of our choice."""

    def __init__(
        self, directory: Directory, name: str, says: dict[str, DeliveryClass], epoch: int = 1
    ) -> None:
        self.name, self.epoch, self._directory = name, epoch, directory
        self.nid = envelope.node_id(CLUSTER, name)
        self.head = Head(epoch, WIRE, WIRE, {})
        self.subscriptions: set[bytes] = set()
        self.heads = 0  # sent
        self._context = zmq.Context()
        self._sock = self._context.socket(zmq.XPUB)
        self._sock.setsockopt(zmq.LINGER, 0)
        self._sock.setsockopt(zmq.XPUB_VERBOSE, 1)
        address = directory.endpoint(name, "e")
        self._sock.bind(address)
        self.record = Record(
            name, self.nid, epoch, os.getpid(), (), {t: int(k) for t, k in says.items()},
            {"e": address},
        )  # fmt: skip
        directory.publish(self.record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close(linger=0)
        self._context.term()
        self._directory.withdraw(self.name)

    def serve(self) -> int:
        """Take what came in, answer probes; return how many HEADs were sent so far."""
        with contextlib.suppress(zmq.Again):
            while True:
                data = self._sock.recv(zmq.NOBLOCK)
                if data[:1] == b"\1":
                    self.subscriptions.add(data[1:])
                    if data[1:2] == b"\xff":
                        self._answer(data[1:])
                else:
                    self.subscriptions.discard(data[1:])
        return self.heads

    def _answer(self, probe: bytes) -> None:
        payload = envelope.encode_value(self.head)
        self.say(probe.decode("latin-1"), 0, payload, schema=SCHEMAS[Head], epoch=self.head.epoch)
        self.heads += 1

    def say(self, topic: str, seq: int, payload: bytes | None = None, **fields: Any) -> None:
        """Publish a well-formed event whose payload is its sequence, unless told otherwise."""
        self.send(self.frame(topic, seq, payload, **fields))

    def frame(self, topic: str, seq: int, payload: bytes | None = None, **fields: Any) -> bytes:
        """Return the frame that :meth:`say` sends."""
        body = envelope.encode_value(seq) if payload is None else payload
        given = {"schema": 0, "nid": self.nid, "epoch": self.epoch, **fields}
        return envelope.encode_event(Event(topic, seq=seq, payload=body, **given))

    def send(self, *parts: bytes) -> None:
        """Publish any bytes."""
        self._sock.send_multipart(parts)


class RawCaller:
    """A client on the request plane that sends any bytes to *address*.

    routing_id: what it claims to be; empty leaves that to the server, as it must.
    """

    def __init__(self, address: str, routing_id: bytes = b"") -> None:
        self._context = zmq.Context()
        self._sock = self._context.socket(zmq.DEALER)
        self._sock.setsockopt(zmq.LINGER, 0)
        if routing_id:
            self._sock.setsockopt(zmq.ROUTING_ID, routing_id)
        self._sock.connect(address)
        self.answers: list[Rpc] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close(linger=0)
        self._context.term()

    def send(self, *parts: bytes) -> None:
        """Send any bytes."""
        self._sock.send_multipart(parts)

    def greet(self, hello: Hello, epoch: int) -> None:
        """Send a HELLO."""
        self.send(envelope.encode_rpc(Rpc(HELLO, 0, 0, epoch, envelope.encode_value(hello))))

    def ask(self, method: str, arg: object, epoch: int, corr: int = 1) -> None:
        """Send a request that has two seconds."""
        body = envelope.encode_value(arg)
        self.send(
            envelope.encode_rpc(Rpc(REQ, envelope.method_id(method), corr, epoch, body, 2000))
        )

    def heard(self) -> list[Rpc]:
        """Return every answer so far."""
        with contextlib.suppress(zmq.Again):
            while True:
                self.answers.append(envelope.decode_rpc(self._sock.recv(zmq.NOBLOCK)))
        return self.answers

    @property
    def welcomed(self) -> bool:
        """Say whether a HELLO was accepted."""
        return any(answer.kind is WELCOME for answer in self.heard())

    @property
    def codes(self) -> list[str]:
        """Return the codes of the errors so far."""
        return [
            msgspec.msgpack.decode(answer.body, type=Failure).code
            for answer in self.heard()
            if answer.kind is ERR
        ]
