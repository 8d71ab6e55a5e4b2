"""Serving on real sockets and a real journal: handlers of every kind, their bugs, their ends."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeAlias

import pytest
import zmq

from mesh.errors import (
    Conflict,
    Invalid,
    InvalidTransition,
    LocalProtocolError,
    MeshError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from mesh.protocol import envelope
from mesh.protocol.control import DURABLE, Ack, Failure, Fetch, Hello
from mesh.protocol.envelope import ERR, REP, REQ, Rpc
from mesh.protocol.rpcs import CANCEL
from mesh.protocol.work import Work
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, request
from mesh.runtime.serving import Serving
from tests.integration.rawnode import CLUSTER, RawCaller

Eventually: TypeAlias = Callable[..., Awaitable[None]]
KEY = bytes(range(16))
CUT_S = 0.3
BUGS = {
    error.__name__: error
    for error in (
        ZeroDivisionError,
        TimeoutError,
        asyncio.CancelledError,
        LocalProtocolError,
        InvalidTransition,
    )
}


class Desk(Component):
    """Handlers of every kind; a closed gate holds whoever is inside."""

    says: ClassVar = {"d.": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.entered: Counter[str] = Counter()
        self.marked: list[bytes | None] = []
        self.before: Callable[[], object] = lambda: None

    async def resolve_request(self, method: str, arg: Any, caller: str) -> object:
        self.entered["resolve"] += 1
        raise NotFound("nothing of it")

    @request("desk.plain")
    def plain(self, number: int, caller: str) -> tuple[int, str]:
        self.entered["plain"] += 1
        return number, caller

    @request("desk.none")
    def none(self) -> None:
        self.entered["none"] += 1

    @request("desk.plain_bug")
    def plain_bug(self, kind: str) -> None:
        raise BUGS[kind]

    @request("desk.bug", timeout_s=0.9)
    async def bug(self, kind: str) -> None:
        raise BUGS[kind]

    @request("desk.parts_bug")
    async def parts_bug(self, kind: str) -> AsyncIterator[int]:
        yield 1
        raise BUGS[kind]

    @request("desk.secret")
    async def secret(self, _: None) -> object:
        return object()

    @request("desk.refuse")
    async def refuse(self, _: None) -> None:
        raise Conflict("not so")

    @request("desk.hold", timeout_s=30.0)
    async def hold(self, _: None) -> int:
        self.entered["hold"] += 1
        try:
            await self.gate.wait()
        finally:
            self.entered["left"] += 1
        return 1

    @request("desk.parts", timeout_s=30.0)
    async def parts(self, _: None) -> AsyncIterator[int]:
        try:
            for number in range(1_000):
                yield number
        finally:
            await asyncio.sleep(0.05)  # to close what it reads from
            self.entered["closed"] += 1

    @request("desk.sell", kind="keyed", timeout_s=30.0)
    async def sell(self, number: int) -> int:
        self.entered["sell"] += 1
        self.before()
        await self.commit(("d.a", number), reply=number)
        return number

    @request("desk.write", writes=True)
    async def write(self, number: int) -> int:
        self.entered["write"] += 1
        return number

    @request("desk.sell_and_stay", kind="keyed", timeout_s=CUT_S)
    async def sell_and_stay(self, number: int) -> int:
        await self.commit(("d.a", number), reply=number)
        self.entered["stay"] += 1
        await self.gate.wait()
        return number + 1

    @request("desk.sell_and_fail", kind="keyed", timeout_s=30.0)
    async def sell_and_fail(self, number: int) -> int:
        async def fail() -> None:
            self.entered["fail"] += 1
            raise ZeroDivisionError

        await asyncio.gather(self.commit(("d.a", number), patient=True, reply=number), fail())
        return number + 1

    @request("desk.too_much", kind="keyed")
    async def too_much(self, _: None) -> int:
        await self.commit(("d.a", bytes(1 << 20)), reply=1)
        return 1

    @request("desk.marked", kind="keyed", marks=True, timeout_s=30.0)
    async def marks(self, what: str) -> str:
        self.entered["marked"] += 1
        self.marked = [row.reply for row in self.journal.rows()]
        if what == "refuse":
            raise Conflict("not so")
        return what

    @request("desk.recalled", kind="keyed", recalls=True)
    async def recalled(self, number: int) -> int:
        self.entered["recalled"] += 1
        return number

    @request("desk.kept", kind="keyed")
    def kept(self, number: int) -> int:
        self.entered["kept"] += 1
        return number

    def sold(self) -> list[int]:
        """Return what is in the journal."""
        return [
            envelope.decode_value(envelope.decode_event(record.frame).payload)
            for record in self.journal.read()
        ]


class Stage:
    """A desk, a caller, and hands on the desk's process."""

    def __init__(self, mesh: Any, desk: Desk, caller: Component) -> None:
        self.mesh, self.desk, self.caller = mesh, desk, caller
        self.bus: Bus = mesh.running["desk"][0]

    @property
    def works(self) -> list[Work]:
        return list(self.bus._responder.answering._load.works.values())

    @property
    def logged(self) -> list[str]:
        path = self.mesh.paths.logs / "error.log"
        return path.read_text().splitlines() if path.exists() else []

    def time_is_up(self) -> None:
        """Let the machine cut the only work, as at its deadline."""
        (work,) = self.works
        responder = self.bus._responder
        responder._act(responder.answering._abort(work, "time is up"))

    def fill(self) -> None:
        """Leave no room on the disk."""
        self.desk.journal._db.execute("pragma max_page_count=1")  # as many as there are

    def empty(self) -> None:
        self.desk.journal._db.execute("pragma max_page_count=1000000")

    async def fill_up(self) -> None:
        """Leave no room on the disk, not even in the last page."""
        self.fill()
        for value in (bytes(1_000), b""):
            with suppress(Unavailable):
                while True:
                    await self.desk.commit(("d.fill", value))


@pytest.fixture
async def stage(mesh: Any) -> Stage:
    desk, caller = Desk(), Component()
    await mesh.start("desk", desk)
    await mesh.start("caller", caller)
    assert await caller.call("desk.plain", 1, tuple[int, str]) == (1, "caller")
    return Stage(mesh, desk, caller)


# Handlers' bugs and refusals.


@pytest.mark.parametrize("kind", BUGS)
async def test_bug_of_a_plain_handler_is_told_and_logged_and_the_node_goes_on(
    stage: Stage, kind: str
) -> None:
    with pytest.raises(MeshError, match=f"desk.plain_bug: {kind} in the handler") as told:
        await stage.caller.call("desk.plain_bug", kind, int)
    assert (type(told.value), told.value.executed) == (MeshError, "unknown")
    assert len([line for line in stage.logged if "handler_failed" in line]) == 1
    assert await stage.caller.call("desk.plain", 2, tuple[int, str]) == (2, "caller")


@pytest.mark.parametrize("kind", BUGS)
async def test_bug_of_a_coroutine_is_told_and_logged_and_holds_no_slot(
    stage: Stage, kind: str
) -> None:
    """One that awaited what somebody else cancelled used to keep its slot for ever."""
    with pytest.raises(MeshError, match=f"desk.bug: {kind} in the handler") as told:
        await stage.caller.call("desk.bug", kind, int, timeout_s=5.0)
    assert (type(told.value), told.value.executed) == (MeshError, "unknown")
    assert len([line for line in stage.logged if "handler_failed" in line]) == 1
    assert stage.bus.idle


@pytest.mark.parametrize("kind", BUGS)
async def test_bug_between_two_parts_ends_the_stream(stage: Stage, kind: str) -> None:
    parts = stage.caller.stream("desk.parts_bug", kind, int)
    assert await anext(parts) == 1
    with pytest.raises(MeshError, match=f"desk.parts_bug: {kind} in the handler"):
        await anext(parts)
    assert stage.bus.idle


async def test_reply_that_cannot_be_encoded_is_a_bug(stage: Stage) -> None:
    with pytest.raises(MeshError) as told:
        await stage.caller.call("desk.secret", None, object)
    assert told.value.executed == "unknown"
    assert any("handler_failed" in line for line in stage.logged)


async def test_refusal_of_a_handler_is_no_bug(stage: Stage) -> None:
    with pytest.raises(Conflict, match="not so") as told:
        await stage.caller.call("desk.refuse", None, int)
    assert (told.value.executed, stage.logged) == ("no", [])


@pytest.mark.parametrize("method", ["desk.plain", "desk.hold", "desk.sell"])
async def test_argument_of_another_type_is_invalid(stage: Stage, method: str) -> None:
    with pytest.raises(Invalid) as told:
        await stage.caller.call(method, "text", int, key="k")
    assert (told.value.executed, stage.logged) == ("no", [])
    assert stage.desk.entered == {"plain": 1}


async def test_handler_without_parameters_is_called_without(stage: Stage) -> None:
    await stage.caller.call("desk.none", None, type(None))
    assert stage.desk.entered["none"] == 1


async def test_two_methods_of_one_number_are_refused_at_the_start() -> None:
    class Twins(Component):
        @request("plumless")
        def one(self, _: None) -> None: ...

        @request("buckeroo")
        def other(self, _: None) -> None: ...

    none: Any = None  # it fails before it looks at them
    with pytest.raises(LocalProtocolError, match="collides with"):
        Serving(Twins(), {}, nid=1, log=none, access=none, spawn=none, durable_log=none)


# Cut before, while and after.


async def greeted(stage: Stage, caller: RawCaller, eventually: Eventually) -> bytes:
    """Return the desk's name for the connection of a raw caller."""
    caller.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
    await eventually(lambda: caller.welcomed)
    sessions = stage.bus._responder.answering.sessions.all()
    (peer,) = (session.peer for session in sessions if session.caller.node == "raw")
    return peer


async def test_what_is_given_up_before_it_began_never_begins_and_its_key_is_free(
    stage: Stage, eventually: Eventually
) -> None:
    """Its outcome used to be unknown, and the service asked about what never was."""
    body, method = envelope.encode_value(7), envelope.method_id("desk.sell")
    with RawCaller(stage.mesh.directory.endpoint("desk", "r")) as caller:
        peer = await greeted(stage, caller, eventually)
        for rpc in (Rpc(REQ, method, 1, 1, body, 2_000, idem=KEY), Rpc(CANCEL, method, 1, 1)):
            stage.bus._responder._on_frame(peer, zmq.Frame(envelope.encode_rpc(rpc)))
        await eventually(lambda: any(answer.kind is ERR for answer in caller.heard()))
        told = envelope.decode_value(caller.answers[-1].body, Failure)
        assert (told.code, told.executed) == ("DEADLINE", "no")
        assert (stage.desk.entered["sell"], stage.bus.idle) == (0, True)
        rpc = Rpc(REQ, method, 2, 1, body, 2_000, idem=KEY)
        caller.send(envelope.encode_rpc(rpc))
        await eventually(lambda: any(answer.kind is REP for answer in caller.heard()))
    assert stage.desk.entered == {"plain": 1, "sell": 1}
    assert stage.desk.sold() == [7]


async def test_safe_handler_is_cut_as_soon_as_its_caller_leaves(
    stage: Stage, eventually: Eventually
) -> None:
    calling = asyncio.ensure_future(stage.caller.call("desk.hold", None, int, timeout_s=30.0))
    await eventually(lambda: stage.desk.entered["hold"])
    calling.cancel()
    await eventually(lambda: stage.desk.entered["left"] and stage.bus.idle)
    assert stage.logged == []


async def test_stream_that_is_left_closes_what_it_reads_from_before_its_end(
    stage: Stage, eventually: Eventually
) -> None:
    parts = stage.caller.stream("desk.parts", None, int, timeout_s=30.0)
    assert await anext(parts) == 0
    await parts.aclose()  # type: ignore[attr-defined]  # it is a generator
    await eventually(lambda: stage.bus.idle)
    assert stage.desk.entered["closed"] == 1
    assert not stage.bus._serving._room


async def test_cut_after_its_commit_it_is_answered_by_what_was_stored(stage: Stage) -> None:
    assert await stage.caller.call("desk.sell_and_stay", 5, int, timeout_s=30.0, key="k") == 5
    assert (stage.desk.sold(), stage.logged) == ([5], [])
    assert await stage.caller.call("desk.sell_and_stay", 5, int, key="k") == 5
    assert stage.desk.entered["stay"] == 1


async def test_cut_while_the_disk_refuses_its_commit_it_has_no_reply(
    stage: Stage, eventually: Eventually
) -> None:
    """The reply used to be told all the same: the wait was cancelled before the refusal."""
    await stage.fill_up()
    loop = asyncio.get_running_loop()
    stage.desk.before = partial(loop.call_soon, stage.time_is_up)
    with pytest.raises(OutcomeUnknown):
        await stage.caller.call("desk.sell", 5, int, timeout_s=30.0, key="k")
    stage.empty()
    stage.desk.before = lambda: None
    await eventually(lambda: not stage.bus.durable_log.full)
    assert await stage.caller.call("desk.sell", 5, int, timeout_s=30.0, key="k") == 5
    assert stage.desk.entered["resolve"] == 1  # it said that nothing had happened
    assert stage.desk.sold()[-1] == 5


async def test_what_no_group_can_hold_leaves_no_reply(stage: Stage) -> None:
    """The reply used to be told although nothing of the effect was stored."""
    with pytest.raises(MeshError, match="LocalProtocolError in the handler"):
        await stage.caller.call("desk.too_much", None, int, key="k")
    assert (stage.desk.sold(), stage.desk.journal.rows()) == ([], [])


async def test_handler_that_fails_while_it_commits_is_answered_once_that_is_on_disk(
    stage: Stage, eventually: Eventually
) -> None:
    """It used to be answered before."""
    await stage.fill_up()
    before = len(stage.desk.sold())
    asking = asyncio.ensure_future(
        stage.caller.call("desk.sell_and_fail", 5, int, timeout_s=30.0, key="k")
    )
    await eventually(lambda: stage.desk.entered["fail"])
    assert (await asyncio.wait({asking}, timeout=0.1))[1]
    stage.empty()
    assert await asking == 5
    assert len(stage.desk.sold()) == before + 1
    assert any("handler_failed_late" in line for line in stage.logged)


async def test_node_that_ends_waits_for_no_disk(stage: Stage, eventually: Eventually) -> None:
    """A handler cut by the node's end used to wait for a journal that was closed."""
    asking = asyncio.ensure_future(
        stage.caller.call("desk.sell_and_stay", 5, int, timeout_s=30.0, key="k")
    )
    await eventually(lambda: stage.desk.entered["stay"])
    stage.fill()
    decided = stage.bus.spawn(committed(stage.desk), "decided")
    await eventually(lambda: stage.bus.durable_log.full)
    answering = [task for task in asyncio.all_tasks() if "answer desk" in task.get_name()]
    assert answering
    stage.mesh.crash("desk")
    await eventually(lambda: all(task.done() for task in [*answering, decided]))
    asking.cancel()


async def committed(desk: Desk) -> None:
    """Commit more than a full disk has room for, and wait until it has."""
    await desk.commit(*[("d.a", bytes(4_000))] * 9, patient=True)


async def test_read_that_waits_for_the_disk_ends_at_its_deadline(
    stage: Stage, eventually: Eventually
) -> None:
    """It held its slot for as long as the disk was full."""
    stage.desk.gate.set()
    await stage.fill_up()
    decided = stage.bus.spawn(committed(stage.desk), "decided")
    await eventually(lambda: stage.bus.durable_log.pending)
    for method, arg in (("desk.plain", 1), ("desk.hold", None)):
        with pytest.raises(MeshError):
            await stage.caller.call(method, arg, object, timeout_s=0.1)
    await eventually(lambda: stage.bus.idle)
    assert not decided.done()
    stage.empty()
    await eventually(decided.done)


async def test_effect_that_waits_for_the_disk_is_answered_in_the_end(
    stage: Stage, eventually: Eventually
) -> None:
    await stage.fill_up()
    decided = stage.bus.spawn(committed(stage.desk), "decided")
    await eventually(lambda: stage.bus.durable_log.pending)
    asking = asyncio.ensure_future(stage.caller.call("desk.kept", 3, int, timeout_s=30.0, key="k"))
    await eventually(lambda: stage.desk.entered["kept"])
    stage.time_is_up()
    assert (await asyncio.wait({asking}, timeout=0.1))[1]
    stage.empty()
    assert await asking == 3
    await eventually(decided.done)
    assert [row.reply for row in stage.desk.journal.rows()] == [envelope.encode_value(3)]


# Keys, and what lies on disk of them.


async def test_marked_key_is_on_disk_before_its_handler_begins(
    stage: Stage, eventually: Eventually
) -> None:
    assert await stage.caller.call("desk.marked", "a", str, key="a") == "a"
    assert stage.desk.marked == [None]
    assert [row.reply for row in stage.desk.journal.rows()] == [envelope.encode_value("a")]
    with pytest.raises(Conflict):
        await stage.caller.call("desk.marked", "refuse", str, key="b")
    assert len(stage.desk.marked) == 2
    await eventually(lambda: len(stage.desk.journal.rows()) == 1)  # that it began is forgotten


async def test_key_that_cannot_be_marked_is_not_executed(stage: Stage) -> None:
    await stage.fill_up()
    refused = await until_no_mark_fits(stage)
    assert refused.executed == "no"
    assert stage.desk.entered["marked"] == len(stage.desk.journal.rows())


async def until_no_mark_fits(stage: Stage) -> Unavailable:
    for key in range(200):
        try:
            await stage.caller.call("desk.marked", "a", str, key=str(key), timeout_s=0.5)
        except Unavailable as refused:
            return refused
        except OutcomeUnknown:  # it ran, its reply waits for room
            continue
    raise AssertionError("there is room for ever")


async def test_recalled_reply_is_kept_in_memory_alone(stage: Stage) -> None:
    for _ in range(2):
        assert await stage.caller.call("desk.recalled", 1, int, key="k") == 1
    assert (stage.desk.entered["recalled"], stage.desk.journal.rows()) == (1, [])
    stage.mesh.crash("desk")
    again = Desk()
    await stage.mesh.start("desk", again)
    assert await stage.caller.call("desk.recalled", 1, int, key="k", timeout_s=10.0) == 1
    assert (again.entered["recalled"], again.entered["resolve"]) == (1, 0)


# Requests without types.


@pytest.mark.parametrize("method", ["desk.sell", "desk.parts"])
async def test_untyped_request_for_what_needs_a_call_of_its_own_is_invalid(
    stage: Stage, method: str
) -> None:
    with pytest.raises(Invalid, match="a call of its own"):
        await stage.caller.request("desk", method, 1)


async def test_full_disk_refuses_what_writes_by_every_way(stage: Stage) -> None:
    await stage.fill_up()
    with pytest.raises(Unavailable, match="disk is full"):
        await stage.caller.call("desk.write", 1, int)
    with pytest.raises(Unavailable, match="disk is full"):
        await stage.caller.request("desk", "desk.write", 1)
    assert stage.desk.entered["write"] == 0


async def test_node_without_a_journal_has_nothing_to_fetch(stage: Stage) -> None:
    """It used to say that it has a bug."""
    for method, arg in (("mesh.fetch", Fetch("id", 0, 1, ("",))), ("mesh.ack", Ack("id", 1))):
        with pytest.raises(NotFound, match="no journal"):
            await stage.desk.call(method, arg, object, target="caller", timeout_s=5.0)
    assert stage.logged == []
