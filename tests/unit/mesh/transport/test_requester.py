"""Requester on real sockets and both loops: a peer that answers, lies, fills up, goes away."""

import asyncio
import random
import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
import zmq

from mesh.errors import Draining, Overloaded
from mesh.protocol import envelope, rpcs
from mesh.protocol.control import Failure, Hello, Message
from mesh.protocol.envelope import ERR, HELLO, REP, REQ, RPC_HEADER_BYTES, WELCOME, Kind, Rpc
from mesh.protocol.outcomes import Failed, Replied
from mesh.protocol.peerlink import CONNECTING, DEAD, DRAINING, GREETING, READY
from mesh.protocol.rpcs import (
    BYE,
    CANCEL,
    CREDIT,
    END,
    INPROG,
    KEYED,
    PART,
    PARTS,
    PONG,
    SAFE,
    Ask,
    Credit,
    End,
    Goaway,
    Welcome,
    failure,
)
from mesh.transport.mux import BUDGET
from mesh.transport.requester import Requester
from mesh.transport.sockets import Line
from tests.unit.mesh.transport.wires import DEADLINE_S, Run, Wires, loop, timer

EPOCH = 7
CONNECTED = struct.pack("<HI", zmq.EVENT_HANDSHAKE_SUCCEEDED, 0)
DISCONNECTED = struct.pack("<HI", zmq.EVENT_DISCONNECTED, 0)
ASK = Ask("a.read", b"x", 5.0, SAFE)


class Peer:
    """A peer played by hand: what is sent over inproc is there at once, and so is what its
    monitor tells."""

    def __init__(self, wires: Wires, *, room: int = 0) -> None:
        self._wires, self._room = wires, room
        self.heard: list[Rpc] = []
        self.ready = self.dials = 0
        self.id = b""
        self.requester = Requester(
            loop(), self.dial, "peer", Hello("test", "us", 1, 1), EPOCH, self.on_ready
        )

    def on_ready(self) -> None:
        self.ready += 1

    def dial(self) -> Line:
        self.dials, self.sent = self.dials + 1, 0
        wires, name = self._wires, f"inproc://peer-{self.dials}"
        self.router, self.teller = wires.sock(zmq.ROUTER, RCVHWM=self._room), wires.sock(zmq.PAIR)
        dealer, events = wires.sock(zmq.DEALER, SNDHWM=self._room), wires.sock(zmq.PAIR)
        for bound, connected, address in (
            (self.router, dealer, name),
            (self.teller, events, f"{name}-events"),
        ):
            bound.bind(address)
            connected.connect(address)
        return Line(dealer, events)

    def tell(self, event: bytes) -> None:
        self.teller.send_multipart([event, b""])

    def listen(self) -> list[Rpc]:
        with suppress(zmq.Again):
            while True:
                self.id, frame = self.router.recv_multipart(zmq.NOBLOCK)
                self.heard.append(envelope.decode_rpc(frame))
        return self.heard

    def of(self, kind: Kind) -> list[Rpc]:
        return [rpc for rpc in self.listen() if rpc.kind is kind]

    def say(
        self, kind: Kind, body: Message | bytes = b"", corr: int = 0, epoch: int = EPOCH
    ) -> None:
        raw = body if isinstance(body, bytes) else rpcs.encoded(body)
        self.send(envelope.encode_rpc(Rpc(kind, 0, corr, epoch, raw)))

    def send(self, frame: bytes) -> None:
        self.router.send_multipart([self.id, frame])
        self.sent += 1

    async def connect(self, **welcome: int) -> None:
        greeted = len(self.of(HELLO))
        self.tell(CONNECTED)
        await until(lambda: len(self.of(HELLO)) > greeted)
        self.say(WELCOME, Welcome("peer", 3, **welcome))  # type: ignore[arg-type]  # its credit
        await until(lambda: self.requester.ready)

    async def asked(self, count: int = 1) -> list[int]:
        await until(lambda: len(self.of(REQ)) == count)
        return [rpc.corr for rpc in self.of(REQ)]

    async def seen_all(self) -> None:
        """Wait until the requester has taken whatever was sent."""
        link = self.requester._link
        assert link is not None
        await until(lambda: link.frames == self.sent)

    def close(self) -> None:
        self.requester.asking.check()
        self.requester.close()
        assert not self.requester._waiting
        assert not self.requester._parts


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await timer(0.001)


def calling(peer: Peer, ask: Ask = ASK) -> "asyncio.Task[Replied | Failed]":
    return asyncio.ensure_future(peer.requester.call(ask))


async def failed(task: "asyncio.Task[Replied | Failed]") -> tuple[str, str, bool]:
    outcome = await task
    assert isinstance(outcome, Failed)
    return outcome.failure.code, outcome.failure.executed, outcome.again


def test_story(run: Run, wires: Wires) -> None:
    """It greets what is connected, sends what waited, hands out the answer."""

    async def body() -> None:
        peer = Peer(wires)
        task = calling(peer)
        await timer(0)
        assert (peer.listen(), peer.requester.asking.queued) == ([], 1)
        await peer.connect()
        (corr,) = await peer.asked()
        peer.say(REP, b"reply", corr)
        assert await task == Replied(corr, b"reply")
        assert (peer.ready, peer.dials) == (1, 1)
        assert repr(peer.requester) == "<Requester peer READY inflight=0 queued=0 late=0>"
        peer.close()
        assert [rpc.kind for rpc in peer.listen()] == [HELLO, REQ, BYE]

    run(body())


def test_answers_that_came_before_the_end_are_taken_first(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        tasks = [calling(peer) for _ in range(40)]
        corrs = await peer.asked(40)
        peer.tell(DISCONNECTED)  # known first, and yet later than the answers
        for corr in corrs[:-1]:
            peer.say(REP, b"r", corr)
        outcomes = await asyncio.gather(*tasks)
        assert outcomes[:-1] == [Replied(corr, b"r") for corr in corrs[:-1]]
        assert isinstance(outcomes[-1], Failed)
        assert (outcomes[-1].failure.code, outcomes[-1].again) == ("UNAVAILABLE", True)
        assert peer.requester.asking.state is CONNECTING
        peer.close()

    run(body())


def test_peer_that_never_stops_talking_is_lost_all_the_same(run: Run, wires: Wires) -> None:
    """What a dead connection can have left is bounded; one that speaks on is a new one."""

    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        task = calling(peer)
        await peer.asked()
        asking = peer.requester.asking
        took, more = asking.frame, True

        def never_dry(rpc: Rpc, now: float) -> object:
            if more:
                peer.say(PONG, b"?", 99)
            return took(rpc, now)

        link = peer.requester._link
        assert link is not None
        peer.requester.asking = Talking(asking, never_dry)  # type: ignore[assignment]  # passes on
        peer.say(PONG, b"?", 99)
        peer.tell(DISCONNECTED)
        assert (await failed(task))[0] == "UNAVAILABLE"
        more = False
        peer.requester.asking = asking
        assert link.frames <= 20 * BUDGET
        peer.close()

    run(body())


class Talking:
    """An Asking whose peer says something whenever it is heard."""

    def __init__(self, asking: object, frame: Callable[[Rpc, float], object]) -> None:
        self._asking, self.frame = asking, frame

    def __getattr__(self, name: str) -> object:
        return getattr(self._asking, name)


def test_connection_comes_and_goes_and_what_is_new_is_asked_of_the_next(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        peer = Peer(wires)
        for turn in range(3):
            await peer.connect()
            task = calling(peer, Ask("a.sell", b"x", 5.0, KEYED))
            (*_, corr) = await peer.asked(turn + 1)
            peer.tell(DISCONNECTED)
            assert await failed(task) == ("OUTCOME_UNKNOWN", "unknown", True)
            peer.say(REP, b"too late", corr)
            await peer.seen_all()
        assert (peer.ready, peer.requester.asking.late) == (3, 4 - 1)
        for _ in range(4):  # and more without a word of the loss, all told at once
            peer.tell(CONNECTED)
        await until(lambda: len(peer.of(HELLO)) == 7)
        assert peer.requester.asking.state is GREETING
        peer.close()

    run(body())


def test_full_socket_bounces_and_goes_on_when_there_is_room(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires, room=2)
        await peer.connect()
        tasks = [calling(peer) for _ in range(30)]
        await timer(0.02)
        asking = peer.requester.asking
        assert (asking.inflight < 30, asking.queued > 0) == (True, True)
        asking.check()
        corrs = await peer.asked(30)
        assert len(set(corrs)) == 30
        for corr in corrs:
            peer.say(REP, b"r", corr)
            await timer(0)
        assert {type(outcome) for outcome in await asyncio.gather(*tasks)} == {Replied}
        peer.close()

    run(body())


def test_cancelled_call_is_given_up_at_the_peer_and_its_late_answer_dropped(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        task = calling(peer)
        (corr,) = await peer.asked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: peer.of(CANCEL))
        assert peer.requester.asking.inflight == 1  # the peer may be at it still
        peer.say(REP, b"r", corr)
        await until(lambda: peer.requester.asking.inflight == 0)
        assert ([rpc.corr for rpc in peer.of(CANCEL)], peer.requester.asking.late) == ([corr], 1)
        peer.close()

    run(body())


def test_call_that_was_answered_is_not_cancelled_at_the_peer(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        task = calling(peer)
        (corr,) = await peer.asked()
        peer.say(REP, b"r", corr)
        await task
        assert peer.of(CANCEL) == []
        peer.close()

    run(body())


def test_deadline_ends_a_call_to_a_peer_that_says_nothing(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        waiting = calling(peer, Ask("a.read", b"", 0.02, SAFE))
        assert await failed(waiting) == ("UNAVAILABLE", "no", False)
        await peer.connect()
        assert await failed(calling(peer, Ask("a.read", b"", 0.02, SAFE))) == (
            ("DEADLINE", "unknown", False)
        )
        peer.close()

    run(body())


def test_slow_taker_holds_at_most_the_credit_of_parts(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        parts = peer.requester.stream(ASK)
        first = asyncio.ensure_future(anext(parts))
        (corr,) = await peer.asked()
        for number in range(PARTS + 3):  # more than it may
            peer.say(PART, b"%d" % number, corr)
        assert await first == b"0"
        await peer.seen_all()
        (held,) = peer.requester._parts.values()
        assert len(held.came) == PARTS - 1
        assert peer.requester.asking.rejects == 3
        assert peer.of(CREDIT) == []  # the first is not taken before the next is asked for
        assert await anext(parts) == b"1"
        await until(lambda: len(peer.of(CREDIT)) == 1)
        (granted,) = peer.of(CREDIT)
        assert envelope.decode_value(granted.body, Credit).messages == PARTS + 1
        peer.say(END, End(PARTS + 3), corr)
        assert [await anext(parts), await anext(parts)] == [b"2", b"3"]
        with pytest.raises(Exception, match="7 parts were sent, 4 came"):
            await anext(parts)
        peer.close()

    run(body())


def test_whole_stream_is_handed_out_also_what_came_with_its_end(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        parts = peer.requester.stream(ASK)
        first = asyncio.ensure_future(anext(parts))
        (corr,) = await peer.asked()
        peer.say(PART, b"a", corr)
        peer.say(PART, b"b", corr)
        peer.say(END, End(2), corr)
        assert [await first, *[part async for part in parts]] == [b"a", b"b"]
        assert peer.of(CANCEL) == []
        peer.close()

    run(body())


def test_closed_iterator_cancels_its_call(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        parts = peer.requester.stream(ASK)
        first = asyncio.ensure_future(anext(parts))
        (corr,) = await peer.asked()
        peer.say(PART, b"a", corr)
        assert await first == b"a"
        await parts.aclose()  # type: ignore[attr-defined]  # it is a generator
        await until(lambda: [rpc.corr for rpc in peer.of(CANCEL)] == [corr])
        peer.say(PART, b"b", corr)
        await peer.seen_all()
        assert not peer.requester._waiting
        peer.close()

    run(body())


def test_parts_nobody_asked_for_pass_and_the_end_counts(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        task = calling(peer)
        (corr,) = await peer.asked()
        for _ in range(2 * PARTS):
            granted = len(peer.of(CREDIT))
            peer.say(PART, b"p", corr)
            while len(peer.of(CREDIT)) == granted:
                await timer(0.001)
        peer.say(END, End(2 * PARTS, b"extra"), corr)
        assert await task == Replied(corr, b"extra")
        peer.close()

    run(body())


def test_hostile_peer_is_counted_and_changes_nothing(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer, dice = Peer(wires), random.Random(1)
        await peer.connect()
        task = calling(peer)
        (corr,) = await peer.asked()
        asking = peer.requester.asking
        for _ in range(1_000):
            peer.send(dice.randbytes(dice.randrange(2 * RPC_HEADER_BYTES)))
        await peer.seen_all()
        assert asking.rejects == 1_000
        peer.say(REP, b"lie", corr, epoch=EPOCH + 1)  # of another run
        for kind in (REP, ERR, PART, END, INPROG):
            peer.say(kind, b"\xc1", corr + 1)  # of what was never asked
        await peer.seen_all()
        assert (asking.late, asking.rejects) == (6, 1_000)
        for kind in (ERR, END, HELLO, REQ, CANCEL):
            peer.say(kind, b"\xc1", corr)  # bodies that are none, kinds that are not a server's
        for kind in (WELCOME, PONG, ERR, CREDIT, HELLO, REQ):
            peer.say(kind, b"\xc1")
        await peer.seen_all()
        assert asking.rejects == 1_011
        peer.say(WELCOME, Welcome("another", 9, credit=1))  # nobody greeted
        peer.say(ERR, failure(Overloaded, "no reason"))
        peer.say(rpcs.GOAWAY, Goaway("not me", 1, epoch=99))
        await peer.seen_all()
        assert (asking.welcome, asking.state) == (Welcome("peer", 3), READY)
        asking.check()
        peer.say(REP, b"truth", corr)
        assert await task == Replied(corr, b"truth")
        peer.close()

    run(body())


def test_welcome_to_no_greeting_is_dropped(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        peer.tell(CONNECTED)
        await until(lambda: peer.of(HELLO))
        peer.tell(DISCONNECTED)
        await until(lambda: peer.requester.asking.state is CONNECTING)
        peer.say(WELCOME, Welcome("peer", 3))
        await peer.seen_all()
        assert (peer.requester.asking.late, peer.requester.ready) == (1, False)
        peer.close()

    run(body())


def test_peer_that_drains_finishes_and_refuses_what_is_new(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        task = calling(peer)
        (corr,) = await peer.asked()
        peer.say(rpcs.GOAWAY, Goaway("stopping", 5_000, 3))
        await until(lambda: peer.requester.refusing)
        assert peer.requester.asking.state is DRAINING
        assert await failed(calling(peer)) == ("DRAINING", "no", True)
        peer.say(REP, b"r", corr)
        assert await task == Replied(corr, b"r")
        peer.close()

    run(body())


def test_peer_that_turns_us_away_is_dialled_anew_after_a_pause(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        task = calling(peer)
        peer.tell(CONNECTED)
        await until(lambda: peer.of(HELLO))
        peer.say(ERR, Failure("DENIED", "no", "you are not us"))
        assert await failed(task) == ("DENIED", "no", False)
        assert (peer.requester.asking.state, peer.requester._link) == (DEAD, None)
        assert await failed(calling(peer)) == ("DENIED", "no", False)
        peer.requester.asking._link.at = 0.0  # the pause is over
        peer.requester._on_time()
        assert peer.dials == 2
        peer.heard.clear()
        await peer.connect()
        assert peer.ready == 1
        peer.close()

    run(body())


def test_lost_monitor_is_an_end_to_news_and_not_to_calls(run: Run, wires: Wires) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect()
        peer.requester._events.close(linger=0)  # behind our back
        task = calling(peer)
        (corr,) = await peer.asked()
        peer.say(REP, b"r", corr)
        assert await task == Replied(corr, b"r")
        peer.close()

    run(body())


def test_closing_fails_what_is_under_way_says_goodbye_and_twice_is_fine(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        peer = Peer(wires)
        await peer.connect(credit=1)
        tasks = [calling(peer), calling(peer)]
        await peer.asked()
        peer.requester.close()
        peer.requester.close()
        assert await failed(tasks[0]) == ("UNAVAILABLE", "unknown", True)
        assert await failed(tasks[1]) == ("DRAINING", "no", True)
        assert [rpc.kind for rpc in peer.listen()] == [HELLO, REQ, BYE]
        assert await failed(calling(peer)) == ("DRAINING", "no", True)
        with pytest.raises(Draining, match="not asked here"):
            await anext(peer.requester.stream(ASK))
        await timer(0.02)
        assert peer.dials == 1
        peer.close()

    run(body())


def test_line_is_muted_before_it_is_closed(
    run: Run, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        closed: list[bool] = []
        monkeypatch.setattr(
            Line, "mute", lambda line: closed.extend((line.sock.closed, line.events.closed))
        )
        peer = Peer(wires)
        await peer.connect()
        peer.close()
        assert closed == [False, False]

    run(body())


def test_what_is_ready_may_ask_and_close_at_once(run: Run, wires: Wires) -> None:
    """Effects that come of effects wait for their turn."""

    async def body() -> None:
        peer, tasks = Peer(wires), []

        def ask_at_once() -> None:
            tasks.append(calling(peer))

        peer.requester._on_ready = ask_at_once
        earlier = calling(peer)
        await timer(0)
        await peer.connect()
        first, second = await peer.asked(2)
        assert first < second  # what waited goes before what its session brings
        for corr in (first, second):
            peer.say(REP, b"r", corr)
        assert [await earlier, await tasks[0]] == [Replied(first, b"r"), Replied(second, b"r")]
        peer.requester._on_ready = peer.requester.close
        peer.say(BYE)
        await until(lambda: len(peer.of(HELLO)) == 2)
        peer.say(WELCOME, Welcome("peer", 3))
        await until(lambda: peer.requester._link is None)
        assert peer.requester.asking.state is DEAD
        peer.close()

    run(body())
