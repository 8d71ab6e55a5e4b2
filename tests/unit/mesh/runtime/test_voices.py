"""Voices: numbered at once, but a last value not before its cause is on disk."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope
from mesh.protocol.access import Access, SubscriptionGuard
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.protocol.outbound import Outbound
from mesh.runtime.voices import Act, Voices
from mesh.transport.pubsub import Publisher
from mesh.transport.sockets import Sockets

SAYS: dict[str, int] = {"e.": EPHEMERAL, "v.": LASTVALUE, "d.": DURABLE, "!v": LASTVALUE}


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[Publisher]:
    sockets = Sockets()
    sock = sockets.publisher(f"ipc://{tmp_path}/e", durable=False)
    loop = asyncio.get_running_loop()
    publisher = Publisher(loop, sock, Outbound(7, 3, 1_000), SubscriptionGuard(Access({})))
    yield publisher
    publisher.close()
    sockets.close()


async def test_last_value_waits_for_the_journal_and_nothing_else_does(
    publisher: Publisher,
) -> None:
    held: list[Act] = []
    voices = Voices("a", SAYS, {int: 9}, publisher, lambda _, act: held.append(act))
    for _ in range(2):
        for topic in ("e.x", "v.x", "!v"):
            voices.emit(topic, 1, 5)
    assert publisher.outbound.heads == {"e.x": 2, "!v": 2}
    assert voices.ready.keys() == {"e.x", "!v"}
    for act in held:
        act()
    assert publisher.outbound.heads == {"e.x": 2, "!v": 2, "v.x": 2}
    kept = envelope.decode_event(publisher.outbound.last_values["v.x"].frame)
    assert (kept.schema, kept.seq, kept.ts_recv, kept.payload) == (9, 2, 5, b"\x01")


async def test_without_a_journal_a_last_value_waits_for_nothing(publisher: Publisher) -> None:
    voices = Voices("a", SAYS, {int: 9}, publisher, None)
    voices.emit("v.x", 1, 0)
    voices.emit("v.x", 2, 0)
    assert publisher.outbound.last_values["v.x"].seq == 2


async def test_another_type_on_a_topic_has_its_own_schema(publisher: Publisher) -> None:
    voices = Voices("a", SAYS, {int: 9, str: 10}, publisher, None)
    schemas = []
    for value in (1, "text", 2, 2.5):
        voices.emit("v.x", value, 0)
        frame = publisher.outbound.last_values["v.x"].frame
        schemas.append(envelope.decode_event(frame).schema)
    assert schemas == [9, 10, 9, 0]
    assert publisher.outbound.heads == {"v.x": 4}


@pytest.mark.parametrize("topic", ["d.x", "x.y", "E.x"])
async def test_what_was_not_declared_so_is_our_own_fault(publisher: Publisher, topic: str) -> None:
    voices = Voices("a", SAYS, {}, publisher, None)
    with pytest.raises(LocalProtocolError):
        voices.emit(topic, 1, 0)
    with pytest.raises(LocalProtocolError):
        voices.emit("e.x", bytes(1_000), 0)
    assert not publisher.outbound.heads
