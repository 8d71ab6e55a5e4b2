"""Sockets: TCP needs keys, secrets do not show, what is made is closed."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from mesh.errors import ConfigError, LocalProtocolError
from mesh.runtime.settings import ROOT
from mesh.transport.sockets import CurveKeys, Sockets, bound_address, raw_key
from tests.unit.mesh.transport.wires import DEADLINE_S

HERE = f"ipc://@genesis-test-{os.getpid()}"  # others may run these tests beside us


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.mark.parametrize(
    "address",
    ["tcp://10.0.0.1:7001", "tcp://*:7001", "tcp://0.0.0.0:7001", "tcp://[::]:7001", "tcp://h:1"],
)
def test_tcp_beyond_loopback_is_refused_without_keys(sockets: Sockets, address: str) -> None:
    with pytest.raises(ConfigError, match="CURVE"):
        sockets.publisher(address, durable=False)
    with pytest.raises(ConfigError, match="CURVE"):
        sockets.responder(f"{HERE}-refused", tcp=address)
    with pytest.raises(ConfigError, match="CURVE"):
        sockets.requester(address)
    with pytest.raises(ConfigError, match="CURVE"):
        sockets.connect(sockets.subscriber(durable=False), address)


def test_tcp_on_loopback_by_number_needs_no_keys(sockets: Sockets) -> None:
    publisher = sockets.publisher("tcp://127.0.0.1:*", durable=False)
    sockets.connect(sockets.subscriber(durable=False), bound_address(publisher))


def test_keys_of_others_are_of_no_use_without_one_of_our_own(sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match="genesis keys"):
        sockets.subscriber(durable=False, server_key=CurveKeys.make().public)


def test_one_socket_takes_null_over_ipc_and_curve_over_tcp() -> None:
    sockets = Sockets(CurveKeys.make())
    for sock in (
        sockets.publisher(f"{HERE}-both-e", durable=True, tcp="tcp://127.0.0.1:*"),
        sockets.responder(f"{HERE}-both-r", tcp="tcp://127.0.0.1:*"),
    ):
        assert sock.getsockopt(zmq.MECHANISM) == zmq.CURVE
    sockets.close()


def test_every_bound_socket_asks_the_authenticator(sockets: Sockets) -> None:
    for sock in (
        sockets.publisher(f"{HERE}-asks-e", durable=False),
        sockets.responder(f"{HERE}-asks-r"),
        sockets.stranger().server,
    ):
        assert sock.get_string(zmq.ZAP_DOMAIN).rstrip("\0") == "genesis"
        assert sock.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1


def test_closing_a_socket_while_it_greets_again_does_not_abort_the_process(
    tmp_path: Path,
) -> None:
    program = "from tests.unit.mesh.transport.test_sockets import reconnect; reconnect()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def reconnect() -> None:
    """Close sockets at any moment of their reconnection; libzmq once aborted within a second."""
    own, other = Sockets(), zmq.Context()
    door = own.zap()
    ending = threading.Event()
    clerk = threading.Thread(target=admit, args=(door, ending))
    clerk.start()
    address = f"ipc://{Path.cwd()}/s"
    for turn in range(50):
        server = bound(other, address)
        for sock in (socks := [own.subscriber(durable=False) for _ in range(30)]):
            sock.setsockopt(zmq.RECONNECT_IVL, 1)
            sock.setsockopt(zmq.SUBSCRIBE, b"")
            own.connect(sock, address)
        server.poll(1_000)  # they are here
        server.close()
        server = bound(other, address)
        server.poll(turn % 5)
        for sock in socks:
            sock.close()
        server.close()
    ending.set()
    clerk.join()
    own.close()
    other.term()


def bound(context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> "zmq.Socket[bytes]":
    """Return a publisher that nobody authenticates, bound as soon as the old one is gone."""
    sock = context.socket(zmq.XPUB)
    sock.setsockopt(zmq.LINGER, 0)
    sock.bind(address)
    return sock


def admit(door: "zmq.Socket[bytes]", ending: threading.Event) -> None:
    """Let everybody in."""
    while not ending.is_set():
        if door.poll(20):
            peer, delimiter, *parts = door.recv_multipart()
            door.send_multipart([peer, delimiter, b"1.0", parts[1], b"200", b"", b"somebody", b""])


def test_what_could_not_be_bound_is_closed_with_the_rest(sockets: Sockets) -> None:
    sockets.zap()
    with pytest.raises(zmq.ZMQError):
        sockets.zap()  # closing would hang on a socket it does not know of


def test_a_closed_socket_leaves_its_addresses_to_the_next_at_once() -> None:
    sockets, ipc, tcp = Sockets(CurveKeys.make()), f"{HERE}-again", "tcp://127.0.0.1:*"
    for _ in range(50):
        sock = sockets.publisher(ipc, durable=False, tcp=tcp)
        tcp = bound_address(sock)
        sock.close()
    sockets.close()


def test_a_descriptor_number_used_again_does_not_hinder_the_next_socket(sockets: Sockets) -> None:
    """A node ended of it when it bound anew: pyzmq names a monitor after the descriptor."""
    for number in range(5_000):
        sockets.responder(f"{HERE}-number-{number % 3}").close()


def test_a_muted_line_tells_nothing_of_its_end(sockets: Sockets, tmp_path: Path) -> None:
    """libzmq's thread waited for ever to tell one that was closed, and no connection worked."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server:
        server.bind(f"ipc://{tmp_path}/s")
        line, witness = (sockets.line(f"ipc://{tmp_path}/s") for _ in range(2))
        for one in (line, witness):
            assert one.events.poll(DEADLINE_S * 1000)
            one.events.recv_multipart()
        line.mute()
    assert witness.events.poll(DEADLINE_S * 1000)
    assert not line.events.poll(100)  # the same thread tells both
    line.mute()  # twice is fine, also of a closed one
    line.sock.close(linger=0)
    line.mute()


def test_an_address_is_not_taken_from_a_socket_that_has_it(sockets: Sockets) -> None:
    first = sockets.responder(f"{HERE}-taken")
    with pytest.raises(LocalProtocolError, match="still bound"):
        sockets.responder(f"{HERE}-taken")
    assert not first.closed


def test_a_pair_is_known_by_its_secret_which_never_shows() -> None:
    pair = CurveKeys.make()
    assert CurveKeys.of(pair.secret) == pair
    assert len(raw_key(pair.public)) == 32
    assert pair.secret.decode() not in repr(pair) + str(pair) + f"{pair}"


@pytest.mark.parametrize("key", [b"", b"a" * 39, b"a" * 41, b"~" * 40, b"#" * 40, b"\xff" * 40])
def test_a_30_what_is_no_key_is_refused_without_being_shown(key: bytes) -> None:
    with pytest.raises(ConfigError, match="Z85") as caught:
        CurveKeys.of(key)
    assert not key or key.decode("latin-1") not in str(caught.value)
