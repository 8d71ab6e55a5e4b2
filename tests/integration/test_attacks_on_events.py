"""Attacks on the plane of events, by real sockets: what is refused, and who does not suffer.

The attackers are plain ZeroMQ or plain sockets; the publisher is the mesh's own. In every test
somebody who may hear does, so that silence proves something.
"""

import asyncio
import contextlib
import os
import resource
import stat
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from mesh.errors import ConfigError
from mesh.protocol import envelope, topics
from mesh.protocol.access import SUBSCRIPTIONS_MAX, Access, SubscriptionGuard
from mesh.protocol.control import Head
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.runtime.directory import Directory
from mesh.transport.auth import Authenticator, Door, user_of
from mesh.transport.pubsub import EVENT_CAP_BYTES, Publisher
from mesh.transport.selftest import refuse_strangers
from mesh.transport.sockets import CurveKeys, Sockets, bound_address, raw_key

ACCESS = Access.parse(
    '[roles.analysis]\nsub = ["md."]\n[roles.recorder]\nsub = ["md.", "order."]\n'
    '[roles.guest]\n[roles.cli]\nsub = ["md."]\n'
)
NID, EPOCH = 1, 1
TOPICS = ("md.trade.X", "mdx.trade.X", "order.X", "!hb")


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return once *condition* holds. Raises TimeoutError after *timeout_s*."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # sockets of other contexts; the deadline bounds it
            await asyncio.sleep(0.005)


class Stage:
    """A publisher behind its door, and attackers around it."""

    def __init__(self, place: Path) -> None:
        self.place, self.pair = place, CurveKeys.make()
        self.address = f"ipc://{place}/analysis.e"
        self.tcp = "tcp://127.0.0.1:*"
        self.names: dict[bytes, str] = {}  # raw key to node
        self.whois: Callable[[int], str | None] = lambda pid: "analysis"
        self.guard = SubscriptionGuard(ACCESS)
        self.told: list[tuple[str, str]] = []
        self._attackers = zmq.Context()
        self._open: list[zmq.Socket[bytes]] = []
        self.start()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.sockets = Sockets(self.pair)
        door = Door(self.ask, self.names.get)
        self.auth = Authenticator(
            loop, self.sockets, door, lambda kind, why: self.told.append((kind, why))
        )
        sock = self.sockets.publisher(self.address, durable=False, tcp=self.tcp)
        self.tcp = bound_address(sock)
        self.guard.reset()
        outbound = Outbound(NID, EPOCH, EVENT_CAP_BYTES)
        self.publisher = Publisher(loop, sock, outbound, self.guard)

    def ask(self, pid: int) -> str | None:
        return self.whois(pid)

    def stop(self) -> None:
        self.publisher.close()
        self.auth.close()
        self.sockets.close()

    def close(self) -> None:
        self.stop()
        for sock in self._open:
            if not sock.closed:
                sock.disable_monitor()
                sock.close(linger=0)
        self._attackers.term()

    def say(self) -> None:
        for topic in TOPICS:
            self.publisher.publish(Event(topic, 0, 0, 0, 0, b"secret"))

    def sub(self, *wishes: bytes) -> "zmq.Socket[bytes]":
        """Return an attacker's SUB, not yet connected."""
        sock = self._attackers.socket(zmq.SUB)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RECONNECT_IVL, 20)
        sock.setsockopt(zmq.SNDHWM, 0)
        for wish in wishes:
            sock.setsockopt(zmq.SUBSCRIBE, wish)
        self._open.append(sock)
        return sock

    def client(self, *wishes: bytes) -> "zmq.Socket[bytes]":
        """Return a SUB over ipc, as every process of this host can make one."""
        sock = self.sub(*wishes)
        sock.connect(self.address)
        return sock

    async def by_hand(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection that has greeted as a SUB does, without libzmq."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_unix_connection(
                self.address.removeprefix("ipc://")
            )
            writer.write(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
            writer.write(b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB")
            await reader.readuntil(b"READY")
        return reader, writer

    def curve(
        self, *wishes: bytes, keys: CurveKeys, server: CurveKeys | None = None
    ) -> "tuple[zmq.Socket[bytes], zmq.Socket[bytes]]":
        """Return a CURVE SUB over TCP and what happens to its handshakes."""
        sock = self.sub(*wishes)
        sock.setsockopt(zmq.CURVE_SERVERKEY, (server or self.pair).public)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        events = self.watch(sock)
        sock.connect(self.tcp)
        return sock, events

    def watch(self, sock: "zmq.Socket[bytes]") -> "zmq.Socket[bytes]":
        events = sock.get_monitor_socket(zmq.EVENT_ALL)
        self._open.append(events)
        return events

    def known(self, node: str) -> CurveKeys:
        """Return the keys of *node*, which are authorized from now on."""
        keys = CurveKeys.make()
        self.names[raw_key(keys.public)] = node
        return keys

    async def hears(self, sock: "zmq.Socket[bytes]") -> None:
        """Publish until *sock* hears something."""

        def heard() -> bool:
            self.say()
            return bool(sock.poll(0))

        await until(heard)


def received(sock: "zmq.Socket[bytes]") -> set[str]:
    """Return the topics that wait in *sock*."""
    found = set()
    with contextlib.suppress(zmq.Again):
        while True:
            found.add(sock.recv(zmq.NOBLOCK).split(b"\0")[0].decode("latin-1"))
    return found


def happened(events: "zmq.Socket[bytes]", kind: zmq.Event) -> bool:
    """Say whether an event of *kind* waits among *events*."""
    with contextlib.suppress(zmq.Again):
        while True:
            if recv_monitor_message(events, zmq.NOBLOCK)["event"] == kind:
                return True
    return False


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the other side closes. Raises TimeoutError after 5 s."""
    got = b""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            while more := await reader.read(4096):
                got += more
    return got


@pytest.fixture
async def stage(runtime_dir: Path, tmp_path: Path) -> AsyncIterator[Stage]:
    place = runtime_dir / tmp_path.name[-40:]  # an address holds 107 bytes
    place.mkdir()
    made = Stage(place)
    yield made
    made.close()


# The door.


async def test_a_1_null_peer_on_a_curve_socket_gets_no_byte(stage: Stage) -> None:
    bare = stage.sub(b"")
    events = stage.watch(bare)
    bare.connect(stage.tcp)
    friend, _ = stage.curve(b"md.", keys=stage.known("analysis"))
    await until(lambda: happened(events, zmq.EVENT_DISCONNECTED))
    await stage.hears(friend)
    assert received(bare) == set()
    assert stage.guard.held("anonymous") == 0


async def test_a_2_unknown_client_key_is_refused_by_name_and_gets_no_byte(stage: Stage) -> None:
    stranger, events = stage.curve(b"md.", keys=CurveKeys.make())
    friend, _ = stage.curve(b"md.", keys=stage.known("analysis"))
    await until(lambda: happened(events, zmq.EVENT_HANDSHAKE_FAILED_AUTH))
    await stage.hears(friend)
    assert received(stranger) == set()
    assert ("refused", "a key that is not authorized") in stage.told


async def test_a_3_wrong_server_key_ends_in_no_handshake(stage: Stage) -> None:
    keys = stage.known("analysis")
    misled, events = stage.curve(b"md.", keys=keys, server=CurveKeys.make())
    friend, _ = stage.curve(b"md.", keys=keys)
    await until(lambda: happened(events, zmq.EVENT_DISCONNECTED))
    await stage.hears(friend)
    assert received(misled) == set()
    assert not happened(events, zmq.EVENT_HANDSHAKE_SUCCEEDED)


async def test_a_4_dead_handler_refuses_everybody(stage: Stage) -> None:
    stage.auth.close()
    clients = [stage.client(b"md."), stage.curve(b"md.", keys=stage.known("analysis"))[0]]
    events = stage.watch(clients[0])
    await until(lambda: happened(events, zmq.EVENT_DISCONNECTED))
    stage.say()
    assert [received(sock) for sock in clients] == [set(), set()]


async def test_a_4_slow_handler_refuses_until_libzmq_gives_the_handshake_up(stage: Stage) -> None:
    slow = Sockets()
    questions = slow.zap()  # taken, never answered
    address = f"ipc://{stage.place}/slow.e"
    server = slow.publisher(address, durable=False)
    client = stage.sub(b"md.")
    events = stage.watch(client)
    client.connect(address)
    await until(lambda: happened(events, zmq.EVENT_DISCONNECTED), timeout_s=5.0)
    assert questions.poll(0)
    assert not server.poll(0)  # no subscription came through
    assert received(client) == set()
    slow.close()


async def test_a_4_raising_handler_refuses_for_now_and_the_peer_comes_back(stage: Stage) -> None:
    def broken(pid: int) -> str | None:
        raise OSError("no locks to read")

    stage.whois = broken
    client = stage.client(b"md.")
    await until(lambda: stage.auth.zap.faults >= 2)  # it tries again by itself
    stage.say()
    assert received(client) == set()
    stage.whois = lambda pid: "analysis"
    await stage.hears(client)
    assert stage.told == [("fault", "OSError: no locks to read")]


async def test_a_5_revoked_key_is_out_once_sockets_are_bound_anew_and_others_are_back(
    stage: Stage,
) -> None:
    keys = stage.known("analysis")
    revoked, cut = stage.curve(b"md.", keys=keys)
    friend, cut_too = stage.curve(b"md.", keys=stage.known("recorder"))
    await stage.hears(revoked)
    await stage.hears(friend)
    del stage.names[raw_key(keys.public)]
    stage.publisher.close()
    sock = stage.sockets.publisher(stage.address, durable=False, tcp=stage.tcp)
    stage.publisher.rebind(sock)
    for events in (cut, cut_too):  # then all that was under way before is here
        await until(lambda seen=events: happened(seen, zmq.EVENT_DISCONNECTED))  # type: ignore[misc]  # bound now
    received(revoked), received(friend)
    await stage.hears(friend)
    await until(lambda: stage.auth.zap.refused)
    stage.say()
    assert received(revoked) == set()


async def test_a_6_routing_id_is_no_identity_and_takes_no_replies(stage: Stage) -> None:
    responder = stage.sockets.responder(f"ipc://{stage.place}/analysis.r")
    stage.whois = lambda pid: "analysis"
    first, second = (stage._attackers.socket(zmq.DEALER) for _ in range(2))
    for sock in (first, second):
        stage._open.append(sock)
        sock.setsockopt(zmq.ROUTING_ID, b"risk")
        sock.connect(f"ipc://{stage.place}/analysis.r")
        sock.send(b"hello")
        if sock is first:
            await until(lambda: responder.poll(0))
            peer = responder.recv(copy=False)
            assert (peer.bytes, user_of(peer)) == (b"risk", "analysis")
            responder.recv()
    await until(lambda: stage.auth.zap.accepted >= 2)
    responder.send_multipart([b"risk", b"reply"])
    await until(lambda: first.poll(0))
    assert not second.poll(0)
    assert not responder.poll(0)  # what the second said is not heard either


@pytest.mark.parametrize("greeting", [b"\1\0", b"\xff" + bytes(8) + b"\x7f\1\2\0\0"])
async def test_a_12_downgrade_to_a_protocol_without_security_is_refused(
    stage: Stage, greeting: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(stage.address.removeprefix("ipc://"))
    writer.write(greeting + b"\0\4\1md.")  # ZMTP 1.0 and 2.0: no mechanism, so no question
    answer = await rest(reader)
    writer.close()
    assert len(answer) <= 64  # at most a greeting
    friend = stage.client(b"md.")
    await stage.hears(friend)
    assert stage.guard.held("analysis") == 1


async def test_a_12_silent_peers_and_garbage_are_closed_and_others_unchanged(stage: Stage) -> None:
    path = stage.address.removeprefix("ipc://")
    peers = [await asyncio.open_unix_connection(path) for _ in range(500)]
    for reader, writer in peers[::2]:
        del reader
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)
    friend = stage.client(b"md.")
    await stage.hears(friend)
    async with asyncio.timeout(10):
        for reader, writer in peers:
            await rest(reader)
            writer.close()


@pytest.mark.skipif(os.getuid() != 0, reason="takes root to be another user")
async def test_a_29_other_uid_is_refused_also_where_the_directory_was_loosened(
    stage: Stage, runtime_dir: Path
) -> None:
    stage.whois = lambda pid: None
    opened = (runtime_dir, stage.place, stage.place / "analysis.e")
    program = (
        "import os, sys, socket\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX); sock.settimeout(5); sock.connect(sys.argv[1])\n"
        "hello = b'\\xff' + bytes(8) + b'\\x7f\\x03\\x00NULL' + bytes(48)\n"
        "sock.sendall(hello + b'\\x04\\x19\\x05READY\\x0bSocket-Type\\0\\0\\0\\x03SUB')\n"
        "got = b''\n"
        "while more := sock.recv(4096): got += more\n"
        "sys.stdout.buffer.write(got)\n"
    )
    modes = [path.stat().st_mode for path in opened]
    try:
        for path in opened:
            path.chmod(0o777)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", program, str(stage.place / "analysis.e"), stdout=-1
        )
        out, _ = await child.communicate()
    finally:
        for path, mode in zip(opened, modes, strict=True):
            path.chmod(stat.S_IMODE(mode))
    assert child.returncode == 0
    assert b"READY" not in out
    assert b"400" in out
    assert stage.told == [("refused", "uid 65534 over ipc")]
    friend = stage.client(b"md.")
    await stage.hears(friend)


async def test_self_test_passes_beside_a_working_publisher(stage: Stage) -> None:
    await refuse_strangers(stage.sockets)
    assert (stage.auth.zap.accepted, stage.auth.zap.refused) == (0, 1)  # it did ask


# Subscriptions.


async def test_a_10_what_is_not_granted_is_not_installed_also_after_a_restart(
    stage: Stage,
) -> None:
    denied = stage.client(b"", b"!", b"md", b"order.", b"mdx.", b"\xff")
    granted = stage.client(b"md.trade.X\0")
    for _ in range(2):
        await stage.hears(granted)
        # A SUB sends its subscriptions again only when its thread touches it.
        await until(lambda: not denied.poll(0) and stage.guard.denied >= 6)
        stage.say()
        await stage.hears(granted)
        assert received(denied) == set()
        assert received(granted) == {"md.trade.X"}
        stage.stop()
        stage.guard.denied = 0
        stage.start()


async def test_a_10_a_grant_is_for_the_one_who_asked_and_for_nobody_else(stage: Stage) -> None:
    users = iter(["recorder", "analysis"])
    stage.whois = lambda pid: next(users)
    recorder = stage.client(b"order.")
    await stage.hears(recorder)
    analysis = stage.client(b"order.", b"md.")
    await stage.hears(analysis)
    assert received(analysis) == {"md.trade.X"}
    assert received(recorder) == {"order.X"}


async def test_a_10_denied_prefixes_are_listed_in_the_head_and_others_heads_unheard(
    stage: Stage,
) -> None:
    probe = topics.probe(7, ["md.", "order."])
    spy = stage.client(topics.PROBE_MARK, probe[:10], b"md.")
    await stage.hears(spy)
    asker = stage.client(b"md.", b"order.", probe)
    heads: list[Head] = []

    def head_came() -> bool:
        with contextlib.suppress(zmq.Again):
            event = envelope.decode_event(asker.recv(zmq.NOBLOCK))
            if event.topic.startswith("\xff"):
                heads.append(envelope.decode_value(event.payload, Head))
        return bool(heads)

    await until(head_came)
    assert heads[0].denied == ("order.",)
    assert set(heads[0].heads) == {"md.trade.X"}
    await stage.hears(spy)
    assert received(spy) == {"md.trade.X"}


async def test_a_11_flood_of_subscriptions_ends_at_the_cap_and_others_are_heard(
    stage: Stage,
) -> None:
    users = iter(["analysis", "recorder", "recorder"])
    stage.whois = lambda pid: next(users)
    flood = stage.client(*(b"md.%d" % n for n in range(2 * SUBSCRIPTIONS_MAX)))
    await until(lambda: stage.guard.ignored >= SUBSCRIPTIONS_MAX - 5_000, timeout_s=15)
    await until(lambda: stage.guard.held("analysis") > SUBSCRIPTIONS_MAX / 2)
    assert stage.guard.held("analysis") <= SUBSCRIPTIONS_MAX
    stage.guard.check()
    friend = stage.client(b"md.")
    await stage.hears(friend)
    flood.close(linger=0)
    await until(lambda: stage.guard.held("analysis") == 0)  # gone with its peer
    await stage.hears(friend)


async def test_a_11_topic_of_a_mebibyte_costs_its_sender_the_connection(stage: Stage) -> None:
    friend = stage.client(b"md.")
    await stage.hears(friend)
    # By hand: libzmq's own SUB overflows its stack when it closes with a topic this long.
    reader, writer = await stage.by_hand()
    async with asyncio.timeout(5):
        topic = b"\1md." + b"x" * (1 << 20)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            writer.write(b"\x02" + struct.pack(">Q", len(topic)) + topic)
            await writer.drain()
        await rest(reader)
    writer.close()
    await stage.hears(friend)
    assert stage.guard.held("analysis") == 1


@pytest.mark.parametrize("claimed_bytes", [200 * 1024 * 1024, 1 << 62, (1 << 64) - 1])
async def test_a_13_huge_claimed_frame_is_reset_before_memory_is_taken(
    stage: Stage, claimed_bytes: int
) -> None:
    friend = stage.client(b"md.")
    await stage.hears(friend)
    reader, writer = await stage.by_hand()
    async with asyncio.timeout(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            writer.write(b"\x02" + struct.pack(">Q", claimed_bytes))
            for _ in range(64):
                writer.write(bytes(65_536))
                await writer.drain()
            await rest(reader)
    writer.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB
    await stage.hears(friend)


# The directory.


def test_a_27_run_directory_that_is_a_link_or_anothers_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="not ours"):
        Directory(tmp_path / "run", "test").make()
    if os.getuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, 65534)
        with pytest.raises(ConfigError, match="not ours"):
            Directory(tmp_path / "theirs", "test").make()


def test_a_27_run_directory_open_to_others_is_closed_before_anything_is_in_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    Directory(tmp_path / "run", "test").make()
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
