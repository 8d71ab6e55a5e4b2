"""The planes spoken over a plain unix socket: no ZeroMQ library, no code of ours.

What mesh/README.md says is enough to hear and to be answered. The talks block, so they run in
threads while the node lives on the loop of the test.
"""

import asyncio
import json
import os
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import msgpack
import pytest

from tests.wire.conftest import CLUSTER, Stage
from tests.wire.decoding import RPC, event_of, rpc_of
from tests.wire.zmtp import Peer

Subscribe: TypeAlias = Callable[[Peer, bytes], None]
TOKEN = b"\xff0123456789abcdef"
HELLO, WELCOME, REQ, REP, ERR = 1, 2, 3, 5, 8
EPOCH = 4711
NAME = f"cli.{os.getpid()}"


def by_command(peer: Peer, topic: bytes) -> None:
    peer.command(b"SUBSCRIBE", topic)  # ZMTP 3.1


def by_message(peer: Peer, topic: bytes) -> None:
    peer.send(b"\x01" + topic)  # ZMTP 3.0, and 3.1 still takes it


def request(kind: int, method: str, corr: int, body: Any, budget_ms: int = 2_000) -> bytes:
    number = zlib.crc32(method.encode()) if method else 0
    head = RPC.pack(0xE8, 1, kind, 0, number, corr, EPOCH, budget_ms, 1, 500, bytes(16))
    return head + bytes(msgpack.packb(body))


def hello(cluster: str = CLUSTER, wire: int = 1) -> bytes:
    return request(HELLO, "", 0, [cluster, NAME, wire, wire])


async def talk(stage: Stage, *frames: bytes, greeted: bool = True) -> list[dict[str, Any]]:
    """Return the answer to each frame, sent one by one over a connection of their own."""

    def say() -> list[dict[str, Any]]:
        with Peer(stage.place("r"), "DEALER") as peer:
            answers = []
            for frame in ((hello(),) if greeted else ()) + frames:
                peer.send(frame)
                answers.append(rpc_of(peer.recv()))
            return answers[greeted:]

    return await asyncio.to_thread(say)


# Events.


@pytest.mark.parametrize("subscribe", [by_command, by_message])
async def test_probe_is_answered_by_a_head_and_what_follows_is_heard(
    stage: Stage, subscribe: Subscribe
) -> None:
    stage.speaker.emit("x.tick.a", 1)
    probe = TOKEN + b"\x1ex.tick."
    with await asyncio.to_thread(Peer, stage.place("e"), "SUB") as peer:
        for topic in (b"x.tick.", probe):
            subscribe(peer, topic)
        head = event_of(await asyncio.to_thread(peer.recv))
        assert head["topic"].encode("latin-1") == probe
        assert (head["schema"], head["seq"], head["nid"]) == (1, 0, stage.bus.record.nid)
        epoch, low, high, heads, streams, denied, page, pages = head["payload"]
        assert (epoch, low, high, page, pages) == (stage.bus.epoch, 1, 1, 0, 1)
        assert (heads, streams, denied) == ({"x.tick.a": 1}, [], [])
        stage.speaker.emit("x.tick.a", 2)
        event = event_of(await asyncio.to_thread(peer.recv))
    assert (event["topic"], event["seq"], event["payload"]) == ("x.tick.a", 2, 2)
    assert (event["magic"], event["wire"], event["offset"]) == (0xE7, 1, 0)


async def test_what_is_not_granted_is_denied_in_the_head_and_not_heard(stage: Stage) -> None:
    probe = TOKEN + b"\x1ex.tick.\x1etop.secret"
    with await asyncio.to_thread(Peer, stage.place("e"), "SUB") as peer:
        for topic in (b"", b"top.secret", TOKEN[:9], b"x.tick.", probe):
            by_command(peer, topic)
        head = event_of(await asyncio.to_thread(peer.recv))
        assert head["payload"][5] == ["top.secret"]
        stage.speaker.emit("x.price.a", 1)  # heard by no prefix that was granted
        stage.speaker.emit("x.tick.a", 2)
        event = event_of(await asyncio.to_thread(peer.recv))
    assert event["topic"] == "x.tick.a"


async def test_exact_subscription_hears_no_longer_topic(stage: Stage) -> None:
    with await asyncio.to_thread(Peer, stage.place("e"), "SUB") as peer:
        for topic in (b"x.tick.a\0", TOKEN + b"\x1ex.tick.a\x1f"):
            by_command(peer, topic)
        await asyncio.to_thread(peer.recv)
        for topic_name in ("x.tick.ab", "x.tick.a"):
            stage.speaker.emit(topic_name, 1)
        assert event_of(await asyncio.to_thread(peer.recv))["topic"] == "x.tick.a"


async def test_head_heartbeat_and_values_come_behind_what_was_said_before_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.protocol.outbound.BURST_NS", 1 << 40)  # however slow we are
    publisher = stage.bus._planes.events
    with await asyncio.to_thread(Peer, stage.place("e"), "SUB") as peer:
        for topic in (b"x.", b"!hb\0", TOKEN):
            by_command(peer, topic)
        await heard_up_to(peer, "\xff")
        by_command(peer, TOKEN[:16] + b"0")
        assert publisher._sock.poll(8_000)  # it is here, and the loop has not looked at it
        for act in (
            lambda: publisher._link.drain(64),  # which answers the probe
            stage.bus.beat,
            lambda: stage.speaker.emit("x.price.a", "1"),
        ):
            for number in (1, 2, 3):
                stage.speaker.emit("x.tick.a", number)
            act()
        said = await heard_up_to(peer, "x.price")
    ticks, told = 0, []
    for event in said:
        if event["topic"] == "x.tick.a":
            ticks += len(event["payload"]) if event["flags"] else 1
        elif ticks:  # not a heartbeat of before
            told.append((event["topic"][:2], ticks))
    assert told == [("\xff0", 3), ("!h", 6), ("x.", 9)]
    (head,) = (event for event in said if event["topic"][0] == "\xff")
    assert head["payload"][3]["x.tick.a"] == 3


async def heard_up_to(peer: Peer, topic: str) -> list[dict[str, Any]]:
    """Return all that comes, up to the first event on a topic that begins so."""
    said = [event_of(await asyncio.to_thread(peer.recv))]
    while not said[-1]["topic"].startswith(topic):
        said.append(event_of(await asyncio.to_thread(peer.recv)))
    return said


async def test_pings_go_both_ways(stage: Stage) -> None:
    with await asyncio.to_thread(Peer, stage.place("e"), "SUB") as peer:
        for topic in (b"!hb\0", TOKEN):
            by_command(peer, topic)

        def converse() -> None:
            peer.ping(b"here")
            while not (peer.pings and peer.pongs):
                peer.recv()  # heartbeats of the node; pings are answered on the way

        await asyncio.to_thread(converse)
        assert peer.last_pong == b"here"


async def test_index_and_records_come_in_one_pipe_behind_the_head(stage: Stage) -> None:
    await stage.speaker.commit(("x.fill.a", 1))
    with await asyncio.to_thread(Peer, stage.place("d"), "SUB") as peer:
        for topic in (b"!log\0", b"x.fill.", TOKEN):
            by_command(peer, topic)
        head = event_of(await asyncio.to_thread(peer.recv))
        log_id = stage.bus.journal.log_id
        assert head["payload"][4] == [["speaker", log_id, 1, 1]]
        await stage.speaker.commit(("x.fill.a", 2), ("x.note", 3), ("x.fill.b", 4))
        index, *records = [event_of(await asyncio.to_thread(peer.recv)) for _ in range(3)]
    assert (index["topic"], index["schema"]) == ("!log", 8)
    assert index["payload"] == [log_id, 2, ["x.fill.a", "x.note", "x.fill.b"]]
    assert [(r["topic"], r["offset"], r["payload"]) for r in records] == [
        ("x.fill.a", 2, 2),
        ("x.fill.b", 4, 4),
    ]
    assert {record["flags"] for record in records} == {1}


# Requests.


async def test_greeting_is_answered_by_welcome_and_a_request_by_its_reply(stage: Stage) -> None:
    welcome, reply = await talk(
        stage, hello(), request(REQ, "speaker.double", 9, 21), greeted=False
    )
    assert (welcome["kind"], welcome["corr"]) == (WELCOME, 0)
    *who, methods = welcome["body"]
    assert who == ["speaker", stage.bus.epoch, 1, 64, 1024 * 1024]
    assert methods["speaker.double"] == 0  # safe
    assert welcome["client_epoch"] == EPOCH
    assert (reply["kind"], reply["corr"], reply["client_epoch"]) == (REP, 9, EPOCH)
    assert reply["body"] == {"value": 42, "caller": NAME}


@pytest.mark.parametrize(
    ("frame", "code", "executed"),
    [
        (request(REQ, "speaker.refuse", 1, None), "DENIED", "no"),
        (request(REQ, "speaker.nothing", 1, None), "NOT_FOUND", "no"),
        (request(REQ, "speaker.double", 1, "text"), "INVALID", "no"),
    ],
    ids=["refused", "unknown", "malformed"],
)
async def test_refused_request_says_what_was_executed(
    stage: Stage, frame: bytes, code: str, executed: str
) -> None:
    (answer,) = await talk(stage, frame)
    assert (answer["kind"], answer["body"][:2]) == (ERR, [code, executed])


@pytest.mark.parametrize(
    ("frame", "code"),
    [(hello("other"), "DENIED"), (hello(wire=2), "VERSION")],
    ids=["of another cluster", "of another wire"],
)
async def test_refused_greeting_says_why(stage: Stage, frame: bytes, code: str) -> None:
    (answer,) = await talk(stage, frame, greeted=False)
    assert (answer["kind"], answer["corr"], answer["body"][:2]) == (ERR, 0, [code, "no"])


async def test_request_without_greeting_is_told_to_greet(stage: Stage) -> None:
    ask = request(REQ, "speaker.double", 1, 1)
    first, _, again = await talk(stage, ask, hello(), ask, greeted=False)
    assert (first["kind"], first["body"][0]) == (ERR, "UNKNOWN_SESSION")
    assert again["kind"] == REP


async def test_frame_that_is_none_gets_no_answer_and_the_session_lives(stage: Stage) -> None:
    def say() -> dict[str, Any]:
        with Peer(stage.place("r"), "DEALER") as peer:
            peer.send(hello())
            peer.recv()
            for nonsense in (b"", b"\xe8", b"\xe8\x02" + bytes(46), b"\xe8\x01\x63" + bytes(45)):
                peer.send(nonsense)
            peer.send(request(REQ, "speaker.double", 2, 3))
            return rpc_of(peer.recv())

    answer = await asyncio.to_thread(say)
    assert (answer["corr"], answer["body"]["value"]) == (2, 6)


async def test_snapshot_comes_in_pages_of_128_kib_in_order_of_topic(stage: Stage) -> None:
    for number in range(40):
        stage.speaker.emit(f"x.price.{number:02d}", "v" * 8_000)
    first, second = [
        request(REQ, "mesh.snapshot", 1, [["x.price."], after]) for after in ("", "x.price.15")
    ]
    answer, rest = await talk(stage, first, second)
    frames, after = answer["body"]
    assert after == "x.price.15"
    assert [event_of(frame)["topic"] for frame in frames] == [
        f"x.price.{number:02d}" for number in range(16)
    ]
    assert event_of(rest["body"][0][0])["topic"] == "x.price.16"


# Records.


async def test_record_file_leads_to_every_plane(stage: Stage) -> None:
    path = stage.paths.run / CLUSTER / "nodes" / "speaker.json"
    node, nid, epoch, pid, services, says, endpoints, log_id, wire, *rest = json.loads(
        path.read_text()
    )
    assert (node, epoch, pid) == ("speaker", stage.bus.epoch, os.getpid())
    assert nid == zlib.crc32(f"{CLUSTER}/speaker".encode())
    assert "speaker.double" in services
    assert says.pop("breaker.") == 1  # as every node
    assert says == {"!hb": 0, "x.tick.": 0, "x.price.": 1, "x.fill.": 2, "x.note": 2}
    assert endpoints == {plane: f"ipc://{stage.place(plane)}" for plane in "edr"}
    assert (log_id, wire) == (stage.bus.journal.log_id, [1, 1])
    assert len(rest) == 4  # addresses for other hosts, host id, schemas, key
