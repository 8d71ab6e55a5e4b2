"""The golden frames: one of each kind, made by our own machines from fixed input.

    .venv/bin/python -m tests.wire.golden_frames

writes golden/*.json anew. A frame that changes its bytes is another wire: raise WIRE and keep
the old files, unless nothing was ever released with them.

Never here: decoding; test_golden_frames.py does it without our code.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mesh.errors import Denied
from mesh.protocol import envelope, rpcs, topics
from mesh.protocol.bundle import Bundle
from mesh.protocol.cause import Cause, root_trace
from mesh.protocol.commits import GroupCommit, Wish
from mesh.protocol.control import (
    SCHEMAS,
    Ack,
    Fetch,
    FetchPage,
    Heartbeat,
    Hello,
    Snapshot,
    SnapshotPage,
    Welcome,
)
from mesh.protocol.envelope import ERR, HELLO, REP, REQ, TOMBSTONE, WELCOME, Event, Rpc
from mesh.protocol.outbound import Outbound
from mesh.transport.rpc import failure_of

FOLDER: Final = Path(__file__).with_name("golden")
CLUSTER: Final = "genesis"
NODE: Final = "speaker"
NID: Final = envelope.node_id(CLUSTER, NODE)
EPOCH: Final = 1_790_000_000_000
LOG_ID: Final = "0123456789abcdef"
RECV_NS: Final = 1_790_000_000_123_456_789
SENT_NS: Final = RECV_NS + 1_000
SCHEMA: Final = 0x1001
CALLER_EPOCH: Final = EPOCH + 5_000
CAUSE: Final = Cause(root_trace(NID, EPOCH, 1, "x.tick.a"), NID, EPOCH, 1, "x.tick.a", RECV_NS)
TOKEN: Final = 0x00C0FFEE00C0FFEE


class Golden(NamedTuple):
    """A frame and what it shows."""

    name: str
    frame: bytes


def event(topic: str, value: object, flags: int = 0, ext: bytes = b"") -> Event:
    payload = envelope.encode_value(value)
    return Event(topic, SCHEMA, 0, 0, 0, payload, flags, ts_recv=RECV_NS, ts_sent=SENT_NS, ext=ext)


def beat(outbound: Outbound) -> Event:
    """Return a heartbeat whose every field can be told from its neighbours."""
    value = Heartbeat(
        n=7,
        state="ready",
        mode="normal",
        mode_epoch=2,
        term=3,
        lag_p99_us=400,
        inflight=5,
        drops=6,
        rss_bytes=70_000_000,
        events_in_s=8.5,
        events_out_s=9.5,
        latency_p50_us=100,
        latency_p99_us=200,
        figures={"gaps": 1.0},
        heads=outbound.beacon(),
        streams=outbound.streams,
    )
    made = event(topics.HEARTBEAT, value)
    return Event(
        made.topic,
        SCHEMAS[Heartbeat],
        0,
        0,
        0,
        made.payload,
        ts_recv=RECV_NS,
        ts_sent=SENT_NS,
    )


def events() -> Iterator[Golden]:
    """Yield the frames of the plane of events."""
    plane = Outbound(NID, EPOCH, 16 * 1024)
    yield Golden("ephemeral", plane.frame(event("x.tick.a", [1, "100.5", None])))
    keyed = event("x.price.a", ["99.5"], ext=envelope.encode_value({envelope.EXT_KEY: "bid"}))
    yield Golden("last value with a conflation key", plane.frame(keyed, keep=True))
    plane.frame(event("x.price.b", ["1"]), keep=True)
    yield Golden("tombstone", plane.frame(event("x.price.b", ["1"], TOMBSTONE), keep=True))
    yield Golden("heartbeat", plane.frame(beat(plane)))
    probe = topics.probe(TOKEN, ["x.price.", "x.tick.a\0", "order."])
    (page,) = plane.answer(probe, lambda prefix: prefix.startswith("x."))
    yield Golden("head", page)
    yield Golden("bundle", burst(plane)[-1])
    derived = plane.traced(event("x.mid.a", ["100.5"]), CAUSE)
    yield Golden("event with a cause", plane.frame(derived))


def burst(plane: Outbound) -> list[bytes]:
    """Return the frames of three events said at once: the first, then a bundle."""
    frames: list[bytes] = []
    bundle = Bundle(frames.append, lambda act: None)
    say = plane.voice("x.tick.a", SCHEMA, keep=False, bundle=bundle, now_ns=lambda: SENT_NS)
    for price in ("101", "102.5", "103"):
        say([2, price, None], RECV_NS)
    bundle.flush()
    return frames


def durable_events() -> Iterator[Golden]:
    """Yield the frames of the plane of durable events."""
    plane = Outbound(NID, EPOCH, 4 * 1024)
    commits: GroupCommit[int] = GroupCommit(plane, NODE, LOG_ID, first=5, last=41)
    commits.add(Wish(1, (event("x.fill.a", ["0.25"]), event("x.note", ["hi"]))))
    commits.group()
    index, first, second = commits.committed().frames
    yield Golden("index", index)
    yield Golden("durable", first)
    yield Golden("durable on another topic", second)
    yield Golden("heartbeat on the durable plane", plane.frame(beat(plane)))
    (page,) = plane.answer(topics.probe(TOKEN), lambda prefix: True)
    yield Golden("head with a stream", page)


def requests() -> Iterator[Golden]:
    """Yield the frames of the plane of requests."""
    ask, encode = CALLER_EPOCH, envelope.encode_rpc
    value = envelope.encode_value
    hello = Hello(CLUSTER, "cli.4711", 1, 1)
    yield Golden("hello", encode(Rpc(HELLO, 0, 0, ask, value(hello))))
    welcome = Welcome(NODE, EPOCH, methods={"mesh.snapshot": 0, "x.place": 1, "x.pay": 2})
    yield Golden("welcome", encode(Rpc(WELCOME, 0, 0, ask, value(welcome))))
    urgent, key = envelope.method_id("x.place"), bytes(range(16))
    order = Rpc(REQ, urgent, 8, ask, value(["buy"]), 499, attempt=2, prio=50, idem=key)
    yield Golden("request with a key", encode(order))
    caused = Rpc(REQ, urgent, 11, ask, value(["buy"]), 499, cause=CAUSE)
    yield Golden("request with a cause", encode(caused))
    session, of_call = (0, 0), (urgent, 8)  # method and corr
    for name, kind, told, where in (
        ("started", rpcs.INPROG, b"", of_call),
        ("cancel", rpcs.CANCEL, b"", of_call),
        ("part", rpcs.PART, value("an item"), of_call),
        ("end of the parts", rpcs.END, value(rpcs.End(1)), of_call),
        ("credit for parts", rpcs.CREDIT, value(rpcs.Credit(5)), of_call),
        ("credit of a session", rpcs.CREDIT, value(rpcs.Credit(32, 500_000)), session),
        ("ping", rpcs.PING, value(rpcs.Ping(SENT_NS, 7)), session),
        ("pong", rpcs.PONG, value(rpcs.Pong(SENT_NS, SENT_NS + 1, SENT_NS + 2, 7, (8,))), session),
        ("goaway", rpcs.GOAWAY, value(rpcs.Goaway("stopping", 5_000, EPOCH)), session),
        ("bye", rpcs.BYE, b"", session),
    ):
        yield Golden(name, encode(Rpc(kind, *where, ask, told)))
    kept = dict(events())["last value with a conflation key"]
    stored = [frame for name, frame in durable_events() if name.startswith("durable")]
    for method, wish, reply in (
        ("mesh.snapshot", Snapshot(("x.price.",)), SnapshotPage((kept,))),
        (
            "mesh.fetch",
            Fetch(LOG_ID, 41, 553, ("x.",)),
            FetchPage(LOG_ID, tuple(stored), 43, 5, 43),
        ),
        ("mesh.ack", Ack(LOG_ID, 43), None),
    ):
        number = envelope.method_id(method)
        wish_frame = encode(Rpc(REQ, number, 9, ask, value(wish), budget_ms=1_999))
        yield Golden(f"request {method}", wish_frame)
        yield Golden(f"reply {method}", encode(Rpc(REP, number, 9, ask, value(reply))))
    failure = value(failure_of(Denied("not you", retry_after_s=1.5)))
    number = envelope.method_id("x.refused")
    yield Golden("error to a request", encode(Rpc(ERR, number, 10, ask, failure)))
    yield Golden("error to a greeting", encode(Rpc(ERR, 0, 0, ask, failure)))


FILES: Final = {"events": events, "durable": durable_events, "requests": requests}


def write(decoded: dict[str, dict[str, object]]) -> None:
    """Write the golden files. decoded: by name, what each frame reads."""
    FOLDER.mkdir(exist_ok=True)
    for file, make in FILES.items():
        entries = [
            {"name": name, "hex": frame.hex(" ", -16).split(" "), "decoded": decoded[name]}
            for name, frame in make()
        ]
        text = json.dumps(entries, indent=1, ensure_ascii=True)
        (FOLDER / f"{file}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tests.wire.decoding import decoded_of

    write({name: decoded_of(frame) for make in FILES.values() for name, frame in make()})
