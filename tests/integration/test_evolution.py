"""Nodes of different versions in one mesh (F58): who understands whom, and who is turned away.

Of a message there are an old form, a new one with a field appended, and a false one that
means something else by the same number.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import msgspec
import pytest

from mesh.protocol import envelope
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE, Head, Hello
from mesh.protocol.sync import BAD
from mesh.runtime.component import Component, event, request
from tests.integration.rawnode import CLUSTER, RawCaller, RawNode

Eventually: TypeAlias = Callable[..., Awaitable[None]]
NUMBER = 0x1900  # of the schema


class Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A payload on the wire."""


class OldNote(Wire, frozen=True):
    """A note, one version ago."""

    author: str
    text: str


class NewNote(Wire, frozen=True):
    """A note today."""

    author: str
    text: str
    stars: int = 3


class FalseNote(Wire, frozen=True):
    """Something else that took the same number."""

    page: str
    line: str


class Node(Component):
    """Says notes in each delivery class and keeps those it hears."""

    says: ClassVar = {"n.live": EPHEMERAL, "n.last": LASTVALUE, "n.kept": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, list[Any]] = {"n.live": [], "n.last": [], "n.kept": []}

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    async def say(self, note: object) -> None:
        """Say *note* once in each class."""
        self.emit("n.live", note)
        self.emit("n.last", note)
        await self.commit(("n.kept", note))


class OldNode(Node):
    """One version behind."""

    schemas: ClassVar = {OldNote: NUMBER}

    @event("n.live")
    def on_live(self, note: OldNote) -> None:
        self.heard["n.live"].append(note)

    @event("n.last")
    def on_last(self, note: OldNote) -> None:
        self.heard["n.last"].append(note)

    @event("n.kept", durable=True)
    async def on_kept(self, note: OldNote) -> None:
        self.heard["n.kept"].append(note)

    @request("old.shout")
    def shout(self, note: OldNote) -> OldNote:
        return OldNote(note.author, note.text.upper())


class NewNode(Node):
    """Of today."""

    schemas: ClassVar = {NewNote: NUMBER}

    @event("n.live")
    def on_live(self, note: NewNote) -> None:
        self.heard["n.live"].append(note)

    @event("n.last")
    def on_last(self, note: NewNote) -> None:
        self.heard["n.last"].append(note)

    @event("n.kept", durable=True)
    async def on_kept(self, note: NewNote) -> None:
        self.heard["n.kept"].append(note)

    @request("new.shout")
    def shout(self, note: NewNote) -> NewNote:
        return NewNote(note.author, note.text.upper(), note.stars + 1)


class FalseNode(Node):
    """Means something else by the number."""

    schemas: ClassVar = {FalseNote: NUMBER}


def log(mesh: Any) -> str:
    path: Path = mesh.paths.logs / "app.log"
    return path.read_text()


async def both(mesh: Any, eventually: Eventually) -> tuple[OldNode, NewNode]:
    """Return an old and a new node that hear each other."""
    old, new = OldNode(), NewNode()
    await mesh.start("old", old)
    await mesh.start("new", new)
    for hearer, speaker in (("old", "new"), ("new", "old")):
        feeds = mesh.running[hearer][0].peers.feeds
        for plane in ("e", "d"):
            key = (speaker, plane)
            await eventually(lambda f=feeds, k=key: k in f and f[k].subscriber.live)
    return old, new


async def test_f58_new_node_reads_what_the_old_one_says_with_the_default_of_what_is_missing(
    mesh: Any, eventually: Eventually
) -> None:
    old, new = await both(mesh, eventually)
    await old.say(OldNote("ann", "hi"))
    await eventually(lambda: all(new.heard.values()))
    assert new.heard == {topic: [NewNote("ann", "hi", 3)] for topic in new.heard}


async def test_f58_old_node_reads_what_the_new_one_says_without_what_it_does_not_know(
    mesh: Any, eventually: Eventually
) -> None:
    old, new = await both(mesh, eventually)
    await new.say(NewNote("bob", "ho", 5))
    await eventually(lambda: all(old.heard.values()))
    assert old.heard == {topic: [OldNote("bob", "ho")] for topic in old.heard}


async def test_f58_old_and_new_node_answer_each_other(mesh: Any, eventually: Eventually) -> None:
    old, new = await both(mesh, eventually)
    assert await old.call("new.shout", OldNote("ann", "hi"), OldNote) == OldNote("ann", "HI")
    assert await new.call("old.shout", NewNote("bob", "ho", 5), NewNote) == NewNote("bob", "HO", 3)


async def test_f58_old_journal_is_read_after_its_owner_was_brought_up_to_date(
    mesh: Any, eventually: Eventually
) -> None:
    old = OldNode()
    await mesh.start("owner", old)
    await old.commit(("n.kept", OldNote("ann", "hi")))
    mesh.crash("owner")
    owner, reader = NewNode(), NewNode()
    await mesh.start("owner", owner)
    await owner.commit(("n.kept", NewNote("bob", "ho", 5)))
    await mesh.start("reader", reader)
    await eventually(lambda: len(reader.heard["n.kept"]) == 2)
    assert reader.heard["n.kept"] == [NewNote("ann", "hi", 3), NewNote("bob", "ho", 5)]


async def test_f58_other_meaning_of_a_number_is_refused_counted_and_told_once_a_run(
    mesh: Any, eventually: Eventually
) -> None:
    old, false = OldNode(), FalseNode()
    await mesh.start("old", old)
    await mesh.start("false", false)
    feeds = mesh.running["old"][0].peers.feeds
    await eventually(lambda: ("false", "d") in feeds and feeds["false", "d"].subscriber.live)
    await eventually(lambda: feeds["false", "e"].subscriber.live)
    await false.say(FalseNote("1", "2"))
    false.emit("n.live", "not that number")  # of no schema: read as what the topic is about
    await eventually(lambda: feeds["false", "e"].subscriber.rejects.total >= 2)
    await eventually(lambda: feeds["false", "d"].subscriber.rejects.total >= 1)
    assert not any(old.heard.values())
    assert log(mesh).count(f"schemas {NUMBER:#x} differ there") == 2  # one for each plane


async def test_f58_other_meaning_of_a_number_is_refused_also_in_what_a_late_joiner_asks_for(
    mesh: Any, eventually: Eventually
) -> None:
    old, false = OldNode(), FalseNode()
    await mesh.start("false", false)
    await false.say(FalseNote("1", "2"))
    bus = await mesh.start("old", old)
    for plane in ("e", "d"):
        await eventually(lambda p=plane: bus.peers.feeds["false", p].subscriber.rejects.total)
    await eventually(lambda: bus.peers.readers["false"].lag == 0)
    assert not any(old.heard.values())


async def test_f58_publisher_of_another_wire_is_told_and_left_alone(
    mesh: Any, eventually: Eventually
) -> None:
    old = OldNode()
    await mesh.start("old", old)
    with RawNode(mesh.directory, "raw", {"n.live": EPHEMERAL}, epoch=5) as raw:
        raw.head = Head(5, 2, 2, {})
        feeds = mesh.running["old"][0].peers.feeds
        await eventually(lambda: raw.serve() and feeds["raw", "e"].subscriber.sync.state is BAD)
        raw.say("n.live", 1, envelope.encode_value(OldNote("ann", "hi")))
        assert "wire 2-2 there, 1 here" in log(mesh)
        assert not any(old.heard.values())


async def test_f58_publisher_that_also_speaks_our_wire_is_heard(
    mesh: Any, eventually: Eventually
) -> None:
    old = OldNode()
    await mesh.start("old", old)
    with RawNode(mesh.directory, "raw", {"n.live": EPHEMERAL}, epoch=5) as raw:
        raw.head = Head(5, 1, 2, {})
        feeds = mesh.running["old"][0].peers.feeds
        await eventually(lambda: raw.serve() and feeds["raw", "e"].subscriber.live)
        raw.say("n.live", 1, envelope.encode_value(OldNote("ann", "hi")), schema=NUMBER)
        await eventually(lambda: old.heard["n.live"])
        assert old.heard["n.live"] == [OldNote("ann", "hi")]


@pytest.mark.parametrize(("wires", "code"), [((2, 2), ["VERSION"]), ((1, 3), [])])
async def test_f58_greeting_needs_a_wire_that_both_speak(
    mesh: Any, eventually: Eventually, wires: tuple[int, int], code: list[str]
) -> None:
    await mesh.start("old", OldNode())
    with RawCaller(mesh.directory.endpoint("old", "r")) as caller:
        caller.greet(Hello(CLUSTER, "raw", *wires), epoch=1)
        await eventually(caller.heard)
        assert caller.codes == code
        assert caller.welcomed is not bool(code)


async def test_f58_payload_of_an_unknown_schema_that_fits_no_handler_is_counted(
    mesh: Any, eventually: Eventually
) -> None:
    old = OldNode()
    await mesh.start("old", old)
    with RawNode(mesh.directory, "raw", {"n.live": EPHEMERAL}, epoch=5) as raw:
        feeds = mesh.running["old"][0].peers.feeds
        await eventually(lambda: raw.serve() and feeds["raw", "e"].subscriber.live)
        raw.say("n.live", 1, envelope.encode_value({"a": 1}), schema=0x7777)
        raw.say("n.live", 2, envelope.encode_value(OldNote("ann", "hi")), schema=NUMBER)
        await eventually(lambda: old.heard["n.live"])
        assert old.heard["n.live"] == [OldNote("ann", "hi")]
        assert mesh.running["old"][0].health.drops == 1
