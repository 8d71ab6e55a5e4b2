"""EveryNode: callers get of a node's topics what they may hear, and no journal is no bug."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from mesh.errors import Denied, NotFound
from mesh.protocol import envelope
from mesh.protocol.access import Access, Grants
from mesh.protocol.control import Ack, Fetch, Snapshot, SnapshotPage
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.protocol.rpcs import Caller
from mesh.runtime.component import Component
from mesh.runtime.doing import Doing, current
from mesh.runtime.everynode import EveryNode

ACCESS = Access({"reader": Grants(sub=("a.",))})


@dataclass
class Source:
    outbound: Outbound


@pytest.fixture
def every() -> EveryNode:
    outbound = Outbound(7, 1, 4_096)
    for topic in ("a.x", "b.x"):
        outbound.frame(Event(topic, 0, 7, 1, 0, envelope.encode_value(topic)), keep=True)
    return EveryNode(Source(outbound), Component(), ACCESS, lambda: None)


@contextmanager
def asked_by(user: str) -> Iterator[None]:
    caller = Caller(user, user, 1)
    token = current.set(Doing(caller, "mesh.snapshot", 1, 7, None))
    try:
        yield
    finally:
        current.reset(token)


def topics(page: SnapshotPage) -> list[str]:
    return [envelope.decode_event(frame).topic for frame in page.frames]


def test_snapshot_holds_what_the_caller_may_hear(every: EveryNode) -> None:
    snapshot = every.methods["mesh.snapshot"]
    assert topics(snapshot(Snapshot(("a.", "b.")))) == ["a.x", "b.x"]  # ourselves
    with asked_by("reader"):
        assert topics(snapshot(Snapshot(("a.", "b.")))) == ["a.x"]
        assert topics(snapshot(Snapshot(()))) == []
        with pytest.raises(Denied, match="reader may hear none"):
            snapshot(Snapshot(("b.", "")))


async def test_node_without_a_journal_refuses_what_is_about_it(every: EveryNode) -> None:
    with pytest.raises(NotFound, match="no journal"):
        every.methods["mesh.fetch"](Fetch("id", 0, 1, ("",)))
    with pytest.raises(NotFound, match="no journal"):
        await every.methods["mesh.ack"](Ack("id", 1), "reader")
    with asked_by("reader"), pytest.raises(Denied):
        every.methods["mesh.fetch"](Fetch("id", 0, 1, ("b.",)))
