"""Responder on real sockets and both loops: callers that lie, leave, do not read; its own ends."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import zmq

from mesh.errors import Conflict, Invalid
from mesh.protocol import envelope, rpcs
from mesh.protocol.admission import Admission, Limits
from mesh.protocol.answering import Answering
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import (
    ERR,
    HELLO,
    REP,
    REQ,
    RPC_HEADER_BYTES,
    RPC_MAX_BYTES,
    WELCOME,
    Kind,
    Rpc,
)
from mesh.protocol.rpcs import BYE, CANCEL, CREDIT, GOAWAY, INPROG, PART, PARTS, PING, PONG, Method
from mesh.protocol.sessions import Sessions
from mesh.protocol.work import Abort, Execute, Resume, Work
from mesh.transport.responder import Job, Responder
from mesh.transport.rpc import failure_of
from tests.unit.mesh.transport.wires import DEADLINE_S, Run, Wires, loop, timer

EPOCH = 7
NAMES = ("a.read", "a.parts", "a.plain")
METHODS = {
    envelope.method_id(name): Method(name, streams=name == "a.parts", plain=name == "a.plain")
    for name in NAMES
}


class Server:
    """A responder whose handlers are played by hand."""

    def __init__(self, wires: Wires, *, room: int = 0) -> None:
        self._wires, self.jobs = wires, list[Job]()
        self.address = wires.address()
        sessions: Sessions[Work] = Sessions("test", lambda *_: True, lambda _: lambda _: True)
        admission = Admission("server", 3, METHODS, sessions, Limits(running_max=5, queue_max=5))
        self.answering = Answering(admission, lambda: 1)
        self._room = room
        self.plain: tuple[Kind, bytes] | None = REP, b"at once"
        self.responder = Responder(
            loop(), self.bound(), self.answering, self.jobs.append, lambda *_: self.plain
        )

    def bound(self) -> "zmq.SyncSocket":
        sock = self._wires.sock(zmq.ROUTER, ROUTER_MANDATORY=1, SNDHWM=self._room)
        sock.bind(self.address)
        return sock

    def of(self, kind: type) -> list[Work]:
        return [job.work for job in self.jobs if isinstance(job, kind)]  # type: ignore[union-attr]  # not of Forget

    def took_more_than(self, frames: int) -> bool:
        return self.responder._link.frames > frames

    async def execute(self, count: int = 1) -> Work:
        await until(lambda: len(self.of(Execute)) == count)
        return self.of(Execute)[-1]

    def close(self) -> None:
        self.answering.check()
        self.responder.close()
        self.responder.close()


class Caller:
    """A client that says what it likes."""

    def __init__(self, wires: Wires, server: Server, *, room: int = 0) -> None:
        self.sock = wires.sock(zmq.DEALER, RCVHWM=room)
        self.sock.connect(server.address)
        self.heard: list[Rpc] = []
        self.deaf = False

    def say(
        self, kind: Kind, body: bytes = b"", corr: int = 0, method: str = "a.read", ms: int = 5_000
    ) -> None:
        rpc = Rpc(kind, envelope.method_id(method), corr, EPOCH, body, ms)
        self.sock.send(envelope.encode_rpc(rpc))

    def of(self, kind: Kind) -> list[Rpc]:
        with suppress(zmq.Again):
            while not self.deaf:
                self.heard.append(envelope.decode_rpc(self.sock.recv(zmq.NOBLOCK)))
        return [rpc for rpc in self.heard if rpc.kind is kind]

    async def greet(self, name: str = "us") -> None:
        welcomed = len(self.of(WELCOME))
        self.say(HELLO, rpcs.encoded(Hello("test", name, 1, 1)))
        await until(lambda: len(self.of(WELCOME)) > welcomed)

    def codes(self) -> list[tuple[str, str]]:
        told = [envelope.decode_value(rpc.body, Failure) for rpc in self.of(ERR)]
        return [(failure.code, failure.executed) for failure in told]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await timer(0.001)


async def greeted(wires: Wires, **room: int) -> tuple[Server, Caller]:
    server = Server(wires, **room)
    caller = Caller(wires, server, **room)
    await caller.greet()
    return server, caller


def test_story(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"arg", 1)
        work = await server.execute()
        assert (work.body, work.caller.node) == (b"arg", "us")
        assert repr(server.responder) == "<Responder OPEN running=1 queued=0>"
        server.responder.done(work.number, b"reply")
        await until(lambda: caller.of(REP))
        assert [(rpc.corr, rpc.body) for rpc in caller.of(REP)] == [(1, b"reply")]
        server.close()
        await until(lambda: caller.of(BYE))

    run(body())


def test_plain_request_is_answered_in_its_turn_and_leaves_no_trace(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"arg", 1, "a.plain")
        await until(lambda: caller.of(REP))
        assert [(rpc.corr, rpc.body) for rpc in caller.of(REP)] == [(1, b"at once")]
        server.plain = ERR, rpcs.encoded(rpcs.failure(Invalid, "not so"))
        caller.say(REQ, b"arg", 2, "a.plain")
        await until(lambda: caller.codes() == [("INVALID", "no")])
        assert (server.jobs, server.answering.load) == ([], (0, 0))
        server.plain = None  # it has to wait for the disk
        caller.say(REQ, b"arg", 3, "a.plain")
        work = await server.execute()
        assert (work.corr, server.answering.load) == (3, (1, 0))
        server.responder.done(work.number, b"later")
        await until(lambda: len(caller.of(REP)) == 2)
        server.close()

    run(body())


def test_plain_answer_that_is_not_taken_ends_the_session(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, deaf = await greeted(wires, room=1)
        deaf.deaf, server.plain = True, (REP, bytes(64 * 1024))
        answered = 0
        while server.responder.unsent == 0:
            deaf.say(REQ, b"", answered + 1, "a.plain")
            answered += 1
            await until(partial(server.took_more_than, answered))  # the first is HELLO
        assert len(server.answering.sessions) == 0
        assert server.jobs == []
        server.close()

    run(body())


def test_who_did_not_greet_is_told_so_and_serves_nobody(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server = Server(wires)
        caller = Caller(wires, server)
        for kind in (REQ, PING, CREDIT, REP):
            caller.say(kind, b"", 1)
        await until(lambda: len(caller.codes()) == 2)
        await until(lambda: server.answering.rejects == 4)
        assert caller.codes() == [("UNKNOWN_SESSION", "no")] * 2
        assert server.jobs == []
        server.close()

    run(body())


def test_hostile_caller_is_counted_and_changes_nothing(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"arg", 1)
        work, dice = await server.execute(), random.Random(1)
        for _ in range(1_000):
            caller.sock.send(dice.randbytes(dice.randrange(2 * RPC_HEADER_BYTES)))
        caller.sock.send(b"")
        for kind in (HELLO, PING, CREDIT):
            caller.say(kind, b"\xc1")  # bodies that are none
        for kind in (WELCOME, REP, PART, INPROG):
            caller.say(kind, b"", 1)  # a server's own
        caller.say(REQ, b"", 0)
        caller.say(REQ, b"again", 1)  # its number is in use
        await until(lambda: server.answering.rejects == 1_010)
        assert (server.jobs, server.responder._link.rejects) == ([Execute(work)], 0)
        server.answering.check()
        server.responder.done(work.number, b"reply")
        await until(lambda: caller.of(REP))
        server.close()

    run(body())


def test_reply_too_large_is_told_as_an_effect_without_its_answer(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1)
        work = await server.execute()
        server.responder.done(work.number, bytes(RPC_MAX_BYTES))
        await until(lambda: caller.codes() == [("INTERNAL", "yes")])
        caller.say(REQ, b"", 2, "a.parts")
        work = await server.execute(2)
        server.responder.part(work.number, bytes(RPC_MAX_BYTES))  # no frame holds it
        await until(lambda: len(caller.codes()) == 2)
        assert caller.codes()[1][0] == "PROTOCOL"
        server.close()

    run(body())


def test_caller_that_does_not_read_loses_its_session_and_nobody_else_does(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        server, deaf = await greeted(wires, room=1)
        other = Caller(wires, server)
        await other.greet("other")
        deaf.deaf = True
        corr = 0
        while server.responder.unsent == 0:
            corr += 1
            deaf.say(REQ, b"", corr)
            work = await server.execute(corr)
            server.responder.done(work.number, bytes(64 * 1024))
        assert [session.caller.node for session in server.answering.sessions.all()] == ["other"]
        other.say(REQ, b"", 1)
        work = await server.execute(corr + 1)
        server.responder.done(work.number, b"reply")
        await until(lambda: other.of(REP))
        server.close()

    run(body())


def test_what_only_a_lost_caller_waited_for_is_aborted_after_its_begin(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1)
        work = await server.execute()
        caller.say(BYE)
        await until(lambda: server.of(Abort) == [work])
        assert server.jobs[0] == Execute(work)
        server.responder.failed(work.number, failure_of(Conflict("cut")))
        assert (server.answering.idle, server.answering.orphans) == (True, 1)
        assert caller.of(ERR) == []
        server.close()

    run(body())


def test_cancel_and_deadline_cut_what_runs_and_drop_what_waits(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        for corr in range(1, 5):  # a fifth of the slots is kept
            caller.say(REQ, b"", corr, ms=60_000)
        await server.execute(4)
        caller.say(REQ, b"", 5, ms=60_000)
        caller.say(REQ, b"", 6, ms=30)
        caller.say(CANCEL, b"", 5)
        caller.say(CANCEL, b"", 1)
        caller.say(CANCEL, b"", 99)
        await until(lambda: len(caller.codes()) == 2)
        assert sorted(caller.codes()) == [("CANCELLED", "no"), ("DEADLINE", "no")]
        assert [work.number for work in server.of(Abort)] == [1]
        server.close()

    run(body())


def test_next_begins_as_soon_as_a_slot_is_free(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        for corr in range(1, 7):
            caller.say(REQ, b"%d" % corr, corr)
        await server.execute(4)
        server.responder.done(server.of(Execute)[0].number, b"r")
        assert (await server.execute(5)).body == b"5"
        await until(lambda: [rpc.corr for rpc in caller.of(INPROG)] == [5])
        assert [rpc.kind for rpc in caller.heard] == [WELCOME, REP, INPROG]
        server.close()

    run(body())


def test_parts_stop_without_credit_and_go_on_with_it(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1, "a.parts")
        work = await server.execute()
        for _ in range(PARTS):
            server.responder.part(work.number, b"p")
        assert not server.answering.may_send(work.number)
        caller.say(CREDIT, rpcs.encoded(rpcs.Credit(PARTS + 1)), 1)
        await until(lambda: server.of(Resume) == [work])
        server.responder.part(work.number, b"p")
        await until(lambda: len(caller.of(PART)) == PARTS + 1)
        server.close()

    run(body())


def test_drain_tells_every_caller_and_finishes(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1)
        work = await server.execute()
        server.responder.drain("stopping", 500)
        await until(lambda: caller.of(GOAWAY))
        (goaway,) = [envelope.decode_value(rpc.body, rpcs.Goaway) for rpc in caller.of(GOAWAY)]
        assert (goaway.reason, goaway.ms, goaway.epoch) == ("stopping", 500, 3)
        caller.say(REQ, b"", 2)
        await until(lambda: caller.codes() == [("DRAINING", "no")])
        assert server.answering.load == (1, 0)
        server.responder.done(work.number, b"reply")
        await until(lambda: caller.of(REP))
        assert server.answering.idle
        server.close()

    run(body())


def test_fresh_socket_keeps_no_session_and_serves_who_greets_again(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1)
        work = await server.execute()
        server.responder.hang_up()
        server.address = wires.address()
        server.responder.rebind(server.bound())
        assert (len(server.answering.sessions), server.of(Abort)) == (0, [work])
        server.responder.failed(work.number, failure_of(Conflict("cut")))
        caller = Caller(wires, server)
        await caller.greet()
        caller.say(PING, rpcs.encoded(rpcs.Ping(1)))
        await until(lambda: caller.of(PONG))
        server.close()

    run(body())


def test_handlers_may_end_after_the_close(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(REQ, b"", 1)
        caller.say(REQ, b"", 2, ms=20)
        work = await server.execute(2)
        server.close()
        due = server.answering.next_deadline()
        await timer(0.05)
        assert due == server.answering.next_deadline()  # nobody told it the time
        server.responder.done(work.number, b"reply")
        server.responder.failed(work.number - 1, failure_of(Conflict("late")))
        assert len(server.jobs) == 2
        await until(lambda: caller.of(BYE))
        assert caller.of(REP) == []

    run(body())


def test_silent_caller_that_pinged_before_has_gone(run: Run, wires: Wires) -> None:
    async def body() -> None:
        server, caller = await greeted(wires)
        caller.say(PING, rpcs.encoded(rpcs.Ping(1)))
        await until(lambda: caller.of(PONG))
        (session,) = server.answering.sessions.all()
        session.heard -= 60.0
        await until(lambda: len(server.answering.sessions) == 0)  # nothing but time passes
        server.close()

    run(body())
