"""The rows of the plane of events over real sockets: joining, restarts, loss, churn, attacks.

A row that needs no socket is the simulator's.
"""

import asyncio
import json
import os
import pickle
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
import zmq

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope
from mesh.protocol.access import GUEST, Access, Grants
from mesh.protocol.control import EPHEMERAL, LASTVALUE, Hello
from mesh.protocol.outbound import Stamped
from mesh.protocol.rejects import REJECTS_MAX
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, event, request
from mesh.runtime.feeds import Feed
from tests.chaos.process.homes import Home, until
from tests.integration.rawnode import CLUSTER, RawCaller, RawNode

Eventually: TypeAlias = Callable[..., Awaitable[None]]

TURN = 32  # events said before the loop gets its turn: fewer than it can hand out in one


class Speaker(Component):
    """Says ticks, and knows the last."""

    says: ClassVar = {"t.tick.": EPHEMERAL}

    def __init__(self) -> None:
        super().__init__()
        self.last = 0

    def say(self, count: int, topic: str = "t.tick.a", *, apart: bool = False) -> None:
        """Say so many numbers; apart: each has a cause of its own, so a frame of its own."""
        for _ in range(count):
            self.last += 1
            self.emit(topic, self.last, ts_recv=self.last if apart else 0)

    async def say_many(self, count: int) -> None:
        """Say so many without ever being ahead of the loop."""
        for _ in range(0, count, TURN):
            self.say(TURN)
            await asyncio.sleep(0)

    @request("speaker.last")
    def tell(self, _: None) -> int:
        return self.last


class Listener(Component):
    """Remembers what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    @event("t.tick.")
    def on_tick(self, number: int) -> None:
        self.heard.append(number)

    def feed(self, node: str = "speaker") -> Feed:
        found: Feed = self.bus.peers.feeds[node, "e"]  # type: ignore[attr-defined]  # a Bus
        return found

    @property
    def live(self) -> bool:
        return self.feed().subscriber.live


def logged(mesh: Any) -> str:
    path: Path = mesh.paths.logs / "app.log"
    return path.read_text() if path.exists() else ""


async def hearing(mesh: Any, eventually: Eventually) -> tuple[Speaker, Listener]:
    """Return a speaker and a listener that hears it."""
    speaker, listener = Speaker(), Listener()
    await mesh.start("speaker", speaker)
    await mesh.start("listener", listener)
    await eventually(lambda: listener.live)
    return speaker, listener


async def raw_and_listener(
    mesh: Any, eventually: Eventually, says: str = "t.tick."
) -> tuple[RawNode, Listener]:
    """Return a node of bare sockets and a listener that hears it."""
    raw, listener = RawNode(mesh.directory, "raw", {says: EPHEMERAL}, epoch=5), Listener()
    await mesh.start("listener", listener)
    await eventually(lambda: raw.serve() and listener.feed("raw").subscriber.live)
    return raw, listener


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


# --- streams ---


async def test_f1_joiner_in_the_middle_of_a_stream_misses_nothing_after_its_head(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, veteran = await hearing(mesh, eventually)
    joiner = Listener()
    streaming = mesh.running["speaker"][0].spawn(speaker.say_many(8_000), "stream")
    await eventually(lambda: speaker.last > 1_000)
    await mesh.start("joiner", joiner)
    await streaming
    await eventually(
        lambda: joiner.heard and joiner.heard[-1] == veteran.heard[-1] == speaker.last
    )
    assert veteran.heard == list(range(1, speaker.last + 1))
    assert joiner.heard == list(range(joiner.heard[0], speaker.last + 1))
    assert 1_000 < joiner.heard[0] < speaker.last


async def test_f1_publisher_that_comes_later_is_heard_without_holes(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, listener = Speaker(), Listener()
    await mesh.start("listener", listener)
    await mesh.start("speaker", speaker)
    await speaker.say_many(4_000)
    await eventually(lambda: listener.live)
    await speaker.say_many(4_000)
    await eventually(lambda: listener.heard and listener.heard[-1] == speaker.last)
    assert listener.heard == list(range(listener.heard[0], speaker.last + 1))
    assert listener.heard[0] <= 4_001


@pytest.mark.timeout(60)  # every one of 3,000 prefixes is matched against every one of 3,000 heads
async def test_f2_three_thousand_subscriptions_are_installed_before_the_head_each_time(
    mesh: Any, eventually: Eventually
) -> None:
    names = [f"t.tick.{number}" for number in range(3_000)]
    heard: list[str] = []
    listener = Component()
    await mesh.start("listener", listener)
    for name in names:
        listener.subscribe(name + "\0", lambda payload, schema, meta: heard.append(meta.topic))
    for _ in range(2):
        speaker = Speaker()
        bus = await mesh.start("speaker", speaker)

        def synced(bus: Bus = bus) -> bool:
            feed = mesh.running["listener"][0].peers.feeds.get(("speaker", "e"))
            link = feed and feed.subscriber
            return bool(link and link.live and link.sync.tracker.epoch == bus.epoch)

        await eventually(synced)
        for start in range(0, len(names), TURN):
            for name in names[start : start + TURN]:
                speaker.say(1, name)
            await asyncio.sleep(0)
        await eventually(lambda: len(heard) == len(names))
        assert heard == names
        heard.clear()
        mesh.crash("speaker")


@pytest.mark.system
@pytest.mark.slow
def test_f3_blocked_subscriber_hears_the_run_that_began_meanwhile_and_lacks_no_durable_event(
    home: Home,
) -> None:
    home.up("speaker", "counter", per_s=500)
    home.up("hearer", "hearer")
    until(lambda: home.recorded("hearer", "x.run") and home.recorded("hearer", "x.done"))
    with home.frozen("hearer"):
        home.kill("speaker")
        home.up("speaker", "counter", per_s=500)
        time.sleep(3.0)  # longer than heartbeats on the wire are waited for: the row says 3 s
    until(lambda: len(home.recorded("hearer", "x.run")) == 2)
    home.kill("speaker")
    home.up("speaker", "counter")
    truth = home.recorded("speaker")
    until(lambda: len(home.recorded("hearer", "x.done")) == len(truth))
    assert home.recorded("hearer", "x.done") == truth == list(range(1, len(truth) + 1))
    older, newer = home.recorded("hearer", "x.run")
    assert older < newer


@pytest.mark.system
def test_f4_publisher_killed_under_load_is_heard_again_in_each_of_its_runs(home: Home) -> None:
    home.up("hearer", "hearer")
    for run in range(1, 4):
        home.up("speaker", "counter", per_s=2_000)
        until(partial(lambda run: len(home.recorded("hearer", "x.run")) == run, run))
        home.kill("speaker")  # its record and its sockets are still there
    heard = home.recorded("hearer", "x.run")
    assert heard == sorted(set(heard))


async def test_f11_dropped_tail_shows_by_the_next_heartbeat(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, listener = await hearing(mesh, eventually)
    speaker.say(30_000, apart=True)  # its loop is ours: nobody takes what the pipe cannot hold
    await eventually(lambda: len(listener.heard) + missed(mesh) == 30_000)
    assert 4_096 <= len(listener.heard) < 30_000
    assert listener.heard == sorted(set(listener.heard))


def missed(mesh: Any, topic: str = "t.tick.a") -> int:
    """Return how many events of *topic* were told to be lost."""
    gaps = [json.loads(line)["fields"] for line in logged(mesh).splitlines() if '"gap"' in line]
    return sum(gap["last"] - gap["first"] + 1 for gap in gaps if gap["topic"] == topic)


async def test_f12_churn_of_600_subscribers_leaks_nothing_and_disturbs_nobody(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, survivor = await hearing(mesh, eventually)
    guard = mesh.running["speaker"][0]._planes.events._guard
    address = mesh.directory.endpoint("speaker", "e").encode()
    context = zmq.Context()
    before = held(guard), open_files()
    for number in range(30):
        churners = [context.socket(zmq.SUB) for _ in range(20)]
        for place, sock in enumerate(churners):
            sock.setsockopt(zmq.SUBSCRIBE, f"t.tick.{number}.{place}".encode())
            sock.connect(address.decode())
        await eventually(lambda: held(guard) == before[0] + 20)
        speaker.say(TURN)
        for sock in churners:
            sock.close(linger=0)
        await eventually(lambda: held(guard) == before[0])
    context.term()
    await eventually(lambda: len(survivor.heard) == speaker.last)
    assert survivor.heard == list(range(1, speaker.last + 1))
    await eventually(lambda: open_files() <= before[1])
    mesh.stop("listener")
    await eventually(lambda: held(guard) == 0)
    guard.check()


def held(guard: Any) -> int:
    return len(guard._topics)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_f13_copies_and_reordered_frames_are_dropped_and_a_hole_is_told_once(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        for seq in (1, 2, 2, 1, 3, 7, 5, 6, 7, 8):
            raw.say("t.tick.a", seq)
        await eventually(lambda: listener.heard[-1:] == [8])
        assert listener.heard == [1, 2, 3, 7, 8]
        tracker = listener.feed("raw").subscriber.sync.tracker
        assert (tracker.duplicates, tracker.missed) == (5, 3)
        assert logged(mesh).count('"gap"') == 1


async def test_f13_frames_of_an_older_run_are_dropped_and_counted(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        raw.say("t.tick.a", 1)
        for seq in (1, 2, 3):
            raw.say("t.tick.a", seq, epoch=4)
        raw.say("t.tick.a", 2)
        await eventually(lambda: len(listener.heard) == 2)
        assert listener.heard == [1, 2]
        assert listener.feed("raw").subscriber.sync.tracker.stale == 3


async def test_f37_socket_file_of_a_dead_node_is_bound_anew(
    mesh: Any, eventually: Eventually
) -> None:
    for plane in "er":
        path = mesh.directory.endpoint("speaker", plane).removeprefix("ipc://")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)  # a closed one leaves its file behind
    speaker, listener = await hearing(mesh, eventually)
    speaker.say(3)
    await eventually(lambda: listener.heard == [1, 2, 3])
    assert await listener.call("speaker.last", None, int) == 3


# --- attacks on a subscriber ---


async def test_a9_event_on_an_undeclared_topic_is_dropped_and_told_once(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually, says="t.tick.mine")
    with raw:
        for seq in (1, 2, 3):
            raw.say("t.tick.yours", seq)
            raw.say("t.tick.mine", seq, envelope.encode_value(10 * seq))
        await eventually(lambda: len(listener.heard) == 3)
        assert listener.heard == [10, 20, 30]
        assert listener.feed("raw").subscriber.rejects.total == 3
        assert logged(mesh).count("t.tick.yours is not its own") == 1


async def test_a9_topic_that_the_role_may_not_say_is_not_heard_and_told_once(
    mesh: Any, eventually: Eventually
) -> None:
    listener = Listener()
    bus = await mesh.start("listener", listener)
    bus.peers.access = Access({GUEST: Grants(sub=("",), pub=("t.tick.mine",))})
    says = {"t.tick.mine": EPHEMERAL, "t.tick.yours": EPHEMERAL}
    with RawNode(mesh.directory, "raw", says) as raw:
        await eventually(lambda: raw.serve() and listener.feed("raw").subscriber.live)
        raw.say("t.tick.yours", 1)
        raw.say("t.tick.mine", 1, envelope.encode_value(7))
        await eventually(lambda: listener.heard)
        assert listener.heard == [7]
        assert logged(mesh).count("may not say ['t.tick.yours']") == 1


async def test_a9_last_value_of_a_topic_that_is_not_its_own_is_dropped_from_a_snapshot(
    mesh: Any, eventually: Eventually
) -> None:
    liar, heard = Valued(), list[tuple[str, int]]()
    bus = await mesh.start("liar", liar)
    liar.emit("v.mine", 1)
    last_values = bus._planes.events.outbound.last_values
    theirs = bus._event("v.theirs", 2)  # past the check of our own
    last_values["v.theirs"] = Stamped(1, envelope.encode_event(theirs))
    forged = envelope.encode_numbered(bus._event("v.mine.too", 3), 7, bus.epoch, 1, 1_000)
    last_values["v.mine.too"] = Stamped(1, forged)
    listener = Component()
    hears = await mesh.start("listener", listener)
    hears.subscribe(
        "v.", lambda payload, schema, meta: heard.append((meta.topic, msgpack_int(payload)))
    )
    await eventually(lambda: hears.peers.feeds["liar", "e"].subscriber.rejects.total == 2)
    assert heard == [("v.mine", 1)]


class Valued(Component):
    """Says last values."""

    says: ClassVar = {"v.mine": LASTVALUE}


def msgpack_int(payload: bytes) -> int:
    return int(envelope.decode_value(payload, int))


async def test_a9_our_own_undeclared_topic_is_our_bug(mesh: Any) -> None:
    speaker = Speaker()
    await mesh.start("speaker", speaker)
    with pytest.raises(LocalProtocolError, match="did not declare"):
        speaker.emit("t.tock.a", 1)


HEADER = struct.Struct("<BBHIIIQQQQQ")


def frame(
    payload: bytes = b"\x01",
    *,
    topic: bytes = b"t.tick.a",
    magic: int = 0xE7,
    wire: int = 1,
    flags: int = 0,
    ext_len: int = 0,
    nid: int = envelope.node_id(CLUSTER, "raw"),
) -> bytes:
    """Return a frame that is right but for what is given."""
    return b"%b\0%b%b" % (
        topic,
        HEADER.pack(magic, wire, flags, 0, nid, ext_len, 5, 1, 0, 0, 0),
        payload,
    )


NO_FRAMES = {
    "a14_no_topic_end": b"t.tick.a" + bytes(0),
    "a14_short_header": frame()[:40],
    "a14_header_alone_cut": b"t.tick.a\0",
    "a14_bad_magic": frame(magic=0xE6),
    "a14_topic_of_300_bytes": frame(topic=b"t.tick." + b"a" * 300),
    "a14_ext_longer_than_the_frame": frame(ext_len=9),
    "a14_ext_of_2_gib": frame(ext_len=2**31),
    "a16_topic_that_is_no_utf8": frame(topic=b"t.tick.\xff\xfe"),
    "a18_newer_wire": frame(wire=2),
    "a18_must_understand": frame(flags=1 << 8),
    "a7_forged_sender": frame(nid=7),
}
NO_PAYLOADS = {
    "a15_empty": b"",
    "a15_truncated": b"\x92\x01",
    "a15_trailing": b"\x01\x02",
    "a15_bit_flipped": b"\xc1",
    "a16_deep": b"\x91" * 10_000,
    "a16_array_of_2_gib": b"\xdd\x7f\xff\xff\xff",
    "a16_list_as_key": b"\x81\x91\x01\x01",
    "a16_huge_ext_time": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a16_bad_utf8": b"\xa2\xff\xfe",
    "a17_pickle": pickle.dumps(print),
    "a18_other_type": envelope.encode_value("text"),
}


@pytest.mark.parametrize("bad", NO_FRAMES.values(), ids=NO_FRAMES)
async def test_a14_to_a18_what_is_no_frame_is_counted_and_nothing_else(
    mesh: Any, eventually: Eventually, bad: bytes
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        raw.send(bad)
        raw.say("t.tick.a", 1)
        raw.say("t.tick.a", 2)
        await eventually(lambda: len(listener.heard) == 2)
        assert listener.heard == [1, 2]
        subscriber = listener.feed("raw").subscriber
        assert (subscriber.rejects.total, subscriber.sync.tracker.missed) == (1, 0)


@pytest.mark.parametrize("bad", NO_PAYLOADS.values(), ids=NO_PAYLOADS)
async def test_a15_to_a18_payload_that_cannot_be_read_is_counted_and_nothing_else(
    mesh: Any, eventually: Eventually, bad: bytes
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        raw.say("t.tick.a", 1, bad)
        raw.say("t.tick.a", 2)
        raw.say("t.tick.a", 3, bad)  # by the lane, this one
        raw.say("t.tick.a", 4)
        await eventually(lambda: len(listener.heard) == 2)
        assert listener.heard == [2, 4]
        assert mesh.running["listener"][0].health.drops == 2


async def test_a14_message_of_several_parts_is_judged_part_by_part(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        raw.send(raw.frame("t.tick.a", 1), b"", b"more")
        raw.say("t.tick.a", 2)
        await eventually(lambda: len(listener.heard) == 2)
        assert listener.feed("raw").subscriber.rejects.total == 2


async def test_a14_twenty_rejects_silence_the_peer_and_no_other(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    speaker = Speaker()
    await mesh.start("speaker", speaker)
    await eventually(lambda: ("speaker", "e") in mesh.running["listener"][0].peers.feeds)
    await eventually(lambda: listener.live)
    with raw:
        raw.say("t.tick.a", 1)
        raw.say("t.tick.a", 2)
        await eventually(lambda: listener.heard == [1, 2])
        for _ in range(REJECTS_MAX):
            raw.send(b"t.tick.garbage")
        raw.say("t.tick.a", 3)
        raw.say("t.tick.b", 1)
        subscriber = listener.feed("raw").subscriber
        await eventually(lambda: subscriber.received == 4)
        speaker.say(1, "t.tick.c")
        await eventually(lambda: len(listener.heard) == 3)
        assert listener.heard == [1, 2, 1]
        assert logged(mesh).count("ignored for a minute") == 1


async def test_a21_sequence_that_jumps_or_goes_back_costs_no_memory_and_no_life(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    bus = mesh.running["listener"][0]
    with raw:
        for topic in ("t.tick.a", "t.tick.b", "t.tick.c"):
            raw.say(topic, 1, b"\x01")
            raw.say(topic, 2**63 + 1, b"\x02")
            raw.say(topic, 2**63, b"\x03")  # back: an old one
            raw.say(topic, 2**64 - 1, b"\x04")
        await eventually(lambda: len(listener.heard) == 9)
        assert listener.heard == [1, 2, 4] * 3
        assert len(listener.feed("raw").subscriber.sync.tracker.expected) == 3
        bus.beat()  # what it counted fits into a heartbeat
        assert not mesh.running["listener"][0].heartbeat().drops < 2**62


# --- attacks on the plane of requests ---


NO_REQUESTS = {
    "a14_empty": (b"",),
    "a14_short": (b"\xe8\x01\x03",),
    "a14_several_parts": (b"\xe8" * 48, b"more"),
    "a14_bad_magic": (b"\xe7\x01\x03" + bytes(45),),
    "a18_newer_wire": (b"\xe8\x02\x03" + bytes(45),),
    "a18_unknown_kind": (b"\xe8\x01\x7f" + bytes(45),),
    "a18_must_understand": (b"\xe8\x01\x03\x80" + bytes(44),),
    "a15_hello_of_garbage": (b"\xe8\x01\x01" + bytes(45) + b"\xc1",),
    "a16_hello_too_deep": (b"\xe8\x01\x01" + bytes(45) + b"\x91" * 10_000,),
    "a17_hello_of_pickle": (b"\xe8\x01\x01" + bytes(45) + pickle.dumps(print),),
}


@pytest.mark.parametrize("bad", NO_REQUESTS.values(), ids=NO_REQUESTS)
async def test_a14_to_a18_what_is_no_request_is_counted_and_nothing_else(
    mesh: Any, eventually: Eventually, bad: tuple[bytes, ...]
) -> None:
    speaker, listener = await hearing(mesh, eventually)
    responder = mesh.running["speaker"][0]._planes._responder
    with RawCaller(mesh.directory.endpoint("speaker", "r")) as caller:
        caller.send(*bad)
        await eventually(lambda: responder.answering.rejects + responder._link.rejects == 1)
        caller.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        await eventually(lambda: caller.welcomed)
        assert not caller.codes
    assert await listener.call("speaker.last", None, int) == speaker.last


@pytest.mark.parametrize("bad", NO_PAYLOADS.values(), ids=NO_PAYLOADS)
async def test_a15_to_a18_argument_that_cannot_be_read_is_invalid(
    mesh: Any, eventually: Eventually, bad: bytes
) -> None:
    await hearing(mesh, eventually)
    with RawCaller(mesh.directory.endpoint("speaker", "r")) as caller:
        caller.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        header = envelope.encode_rpc(
            envelope.Rpc(envelope.REQ, envelope.method_id("speaker.last"), 1, 1, bad, 2_000)
        )
        caller.send(header)
        await eventually(lambda: caller.codes)
        assert caller.codes == ["INVALID"]


async def test_a20_request_of_an_older_run_is_refused(mesh: Any, eventually: Eventually) -> None:
    await hearing(mesh, eventually)
    address, hello = mesh.directory.endpoint("speaker", "r"), Hello(CLUSTER, "raw", 1, 1)
    with RawCaller(address) as older, RawCaller(address) as newer:
        older.greet(hello, epoch=1)
        await eventually(lambda: older.welcomed)
        newer.greet(hello, epoch=2)
        await eventually(lambda: newer.welcomed)
        older.ask("speaker.last", None, epoch=1)
        await eventually(lambda: older.codes)
        older.greet(hello, epoch=1)
        await eventually(lambda: len(older.codes) == 2)
        assert older.codes == ["STALE_EPOCH", "STALE_EPOCH"]
        newer.ask("speaker.last", None, epoch=2)
        await eventually(lambda: len(newer.heard()) == 2)
        assert not newer.codes


async def test_a20_event_of_an_older_run_changes_nothing(
    mesh: Any, eventually: Eventually
) -> None:
    raw, listener = await raw_and_listener(mesh, eventually)
    with raw:
        raw.say("t.tick.a", 1)
        raw.say("t.tick.a", 9, epoch=4)
        raw.say("t.tick.a", 1, epoch=0)
        raw.say("t.tick.a", 2)
        await eventually(lambda: len(listener.heard) == 2)
        tracker = listener.feed("raw").subscriber.sync.tracker
        assert listener.heard == [1, 2]
        assert (tracker.stale, tracker.missed, tracker.epoch) == (2, 0, 5)
