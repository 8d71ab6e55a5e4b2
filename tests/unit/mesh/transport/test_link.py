"""Links on real sockets and on both loops: a test per trap of libzmq's descriptor."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop
import zmq

from mesh.errors import LocalProtocolError
from mesh.transport.link import BulkSink, Ended, Link, Recv
from mesh.transport.mux import BUDGET, DURABLE, EVENTS, RPC, Mux

Run: TypeAlias = Callable[[Coroutine[Any, Any, None]], None]
Sock: TypeAlias = "zmq.Socket[bytes]"

DEADLINE_S = 10
BIG = bytes(64 * 1024)  # few of them fill what the kernel keeps between two sockets


class Wires:
    """Pairs of sockets over ipc: the first bound, the second connected."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self._directory, self._count = directory, 0
        self._made: list[Sock] = []  # held, so that none is collected before it is closed

    def address(self) -> str:
        self._count += 1
        return f"ipc://{self._directory}/{self._count}"

    def sock(self, kind: int, **options: int) -> Sock:
        sock = self.context.socket(kind)
        self._made.append(sock)
        for name, value in {"LINGER": 0, "SNDHWM": 0, "RCVHWM": 0, **options}.items():
            sock.setsockopt(getattr(zmq, name), value)
        return sock

    def pair(self, bound: int, connected: int, **options: int) -> tuple[Sock, Sock]:
        address = self.address()
        first, second = self.sock(bound, **options), self.sock(connected, **options)
        first.bind(address)
        second.connect(address)
        return first, second

    def feed(self) -> tuple[Sock, Sock]:
        """Return publisher and subscriber who have found each other."""
        publisher, subscriber = self.pair(zmq.XPUB, zmq.SUB)
        subscriber.subscribe(b"")
        assert publisher.poll(DEADLINE_S * 1000)
        publisher.recv()
        return publisher, subscriber


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    wires = Wires(tmp_path)
    yield wires
    wires.context.destroy(linger=0)


@pytest.fixture
def failures() -> list[BaseException]:
    """Return what reached the loop's exception handler; a test that expects some clears it."""
    return []


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def run(request: pytest.FixtureRequest, failures: list[BaseException]) -> Iterator[Run]:
    async def within(body: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await body

    with asyncio.Runner(loop_factory=request.param) as runner:
        runner.get_loop().set_exception_handler(lambda _, what: failures.append(what["exception"]))
        yield lambda body: runner.run(within(body))
    assert not failures


class Got(list[bytes]):
    """A sink that remembers, and can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def __call__(self, frame: bytes) -> None:
        self.append(frame)
        self._news.set()

    def routed(self, peer: bytes, frame: zmq.Frame) -> None:
        self(frame.bytes)

    async def until(self, last: bytes) -> None:
        while not self or self[-1] != last:
            self._news.clear()
            await self._news.wait()


def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def timer(delay_s: float) -> None:
    """Return when the loop's timer has fired; what is asserted must not have happened by then."""
    fired = loop().create_future()
    loop().call_later(delay_s, fired.set_result, None)
    await fired


def close(*links: Link) -> None:
    for link in links:
        link.close()


def arrived(sock: Sock) -> None:
    """Wait until a message waits. Asking eats the news of it, as a send may."""
    assert sock.poll(DEADLINE_S * 1000)


def test_message_waiting_before_the_reader_exists_is_delivered(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        sender.send(b"early")
        arrived(receiver)
        got = Got()
        link = Link(loop(), receiver, sink=got)
        await got.until(b"early")
        link.close()

    run(body())


def test_reply_whose_news_a_send_has_eaten_is_delivered(run: Run, wires: Wires) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER)
        got = Got()
        link = Link(loop(), dealer, sink=got)
        link.send(b"question")
        peer, _ = router.recv_multipart()
        await timer(0.01)  # the look after the first send is over
        router.send_multipart([peer, b"answer"])
        arrived(dealer)
        link.send(b"next question")
        await got.until(b"answer")
        link.close()

    run(body())


def test_replies_arriving_within_a_burst_of_sends_are_all_delivered(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER)
        got = Got()
        link = Link(loop(), dealer, sink=got)
        for number in range(500):
            link.send(b"%d" % number)
            router.send_multipart(router.recv_multipart())
        await got.until(b"499")
        assert got == [b"%d" % number for number in range(500)]
        link.close()

    run(body())


def test_sink_may_send_on_its_own_link(run: Run, wires: Wires) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER)
        got = Got()

        def ask_on(frame: bytes) -> None:
            got(frame)
            if len(got) < 300:
                asking.send(b"%d" % len(got))

        def answer(peer: bytes, frame: zmq.Frame) -> None:
            answering.send(peer, frame.bytes)

        answering = Link(loop(), router, routed=answer)
        asking = Link(loop(), dealer, sink=ask_on)
        asking.send(b"0")
        await got.until(b"299")
        answering.close()
        asking.close()

    run(body())


def test_sink_may_close_its_link_and_nothing_is_called_after(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        for number in range(5):
            sender.send(b"%d" % number)
        arrived(receiver)
        got, drained = Got(), Got()

        def close(frame: bytes) -> None:
            got(frame)
            link.close()

        link = Link(loop(), receiver, sink=close, on_drained=lambda: drained(b""))
        await got.until(b"0")
        await timer(0.02)
        assert (got, drained, link.closed) == ([b"0"], [], True)
        link.close()

    run(body())


@pytest.mark.parametrize("few", [True, False], ids=["asking first", "until EAGAIN"])
def test_sink_may_close_its_link_however_the_drain_goes(
    run: Run, wires: Wires, *, few: bool
) -> None:
    async def body() -> None:
        receiver, sender = wires.sock(zmq.PULL), wires.sock(zmq.PUSH)
        receiver.bind("inproc://close")  # all are there at once: the drain cannot end early
        sender.connect("inproc://close")
        got = Got()

        def close(frame: bytes) -> None:
            got(frame)
            if frame == b"last":
                link.close()

        link = Link(loop(), receiver, sink=close)
        for number in range(0 if few else 10):
            sender.send(b"%d" % number)
        sender.send(b"last")
        sender.send(b"beyond")
        await got.until(b"last")
        await timer(0.02)
        assert got[-1] == b"last"

    run(body())


def test_socket_closed_behind_its_link_ends_the_link(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, _ = wires.pair(zmq.PULL, zmq.PUSH)
        link = Link(loop(), receiver, sink=Got())
        await timer(0.01)  # libuv aborts if the descriptor is gone before its first poll
        receiver.close()
        assert not link.send(b"too late")
        assert link.closed

    run(body())


@pytest.mark.parametrize("behind", [False, True], ids=["by its link", "behind its link"])
def test_descriptor_number_used_again_serves_the_new_link(
    run: Run, wires: Wires, *, behind: bool
) -> None:
    async def body() -> None:
        old_sock = wires.sock(zmq.PULL)
        old = Link(loop(), old_sock, sink=Got())
        await timer(0.01)
        (old_sock if behind else old).close()
        sock = await socket_with(old.fd)
        got = Got()
        new = Link(loop(), sock, sink=got)
        old.close()  # once more: must not take the new one's reader away
        address, sender = wires.address(), wires.sock(zmq.PUSH)
        sock.bind(address)
        sender.connect(address)
        for number in range(3):
            sender.send(b"%d" % number)
            await got.until(b"%d" % number)
        new.close()

    async def socket_with(fd: int) -> Sock:
        """Take the lowest free number until *fd* is free; libzmq closes it in its own time."""
        while (sock := wires.sock(zmq.PULL)).getsockopt(zmq.FD) != fd:
            await timer(0.002)
        return sock

    run(body())


@pytest.mark.parametrize("parts", [2, 3, 3 * BUDGET])
def test_message_of_many_parts_to_a_sub_is_rejected_and_what_follows_is_delivered(
    run: Run, wires: Wires, parts: int
) -> None:
    async def body() -> None:
        publisher, subscriber = wires.feed()
        got, drained = Got(), Got()
        link = Link(loop(), subscriber, sink=got, on_drained=lambda: drained(b"%d" % len(got)))
        publisher.send_multipart([b"part"] * parts)
        publisher.send(b"after")
        publisher.send_multipart([b"part"] * parts)
        publisher.send(b"last")
        await got.until(b"last")
        await timer(0)
        assert (got, link.rejects, link.frames) == ([b"after", b"last"], 2, 2)
        assert set(drained) <= {b"1", b"2"}  # not for the rejected ones
        link.close()

    run(body())


@pytest.mark.parametrize("parts", [2, 3, 3 * BUDGET])
def test_third_part_to_a_router_is_rejected_and_what_follows_is_delivered(
    run: Run, wires: Wires, parts: int
) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER)
        got = Got()
        link = Link(loop(), router, routed=got.routed)
        dealer.send_multipart([b"part"] * parts)
        dealer.send(b"after")
        await got.until(b"after")
        assert (got, link.rejects) == ([b"after"], 1)
        link.close()

    run(body())


def bulk(sink: Callable[[bytes], None]) -> BulkSink:
    def take(recv: Recv, ended: Ended, most: int) -> int:
        for taken in range(most):
            try:
                frame = recv(zmq.NOBLOCK)
            except zmq.ZMQError as error:
                ended(error)
                return taken
            sink(frame)
        return most

    return take


def test_bulk_sink_takes_every_part_and_never_more_than_a_budget(run: Run, wires: Wires) -> None:
    async def body() -> None:
        publisher, subscriber = wires.feed()
        got, turns = Got(), list[int]()
        take = bulk(got)

        def counted(recv: Recv, ended: Ended, most: int) -> int:
            turns.append(most)
            return take(recv, ended, most)

        drained = Got()
        link = Link(loop(), subscriber, bulk=counted, on_drained=lambda: drained(got[-1]))
        publisher.send_multipart([b"a", b"b"])
        for _ in range(3 * BUDGET):
            publisher.send(b"c")
        publisher.send(b"after")
        await drained.until(b"after")
        assert got == [b"a", b"b", *[b"c"] * (3 * BUDGET), b"after"]
        assert (link.frames, link.rejects) == (len(got), 0)
        assert max(turns) <= BUDGET
        link.close()

    run(body())


def test_what_a_bulk_sink_raises_is_told_and_the_rest_is_delivered(
    run: Run, wires: Wires, failures: list[BaseException]
) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        for number in range(6):
            sender.send(b"%d" % number)
        arrived(receiver)
        got, drained = Got(), Got()

        def fail(frame: bytes) -> None:
            got(frame)
            if frame in (b"0", b"3", b"5"):
                raise zmq.Again  # not to be taken for the end of the messages

        link = Link(loop(), receiver, bulk=bulk(fail), on_drained=lambda: drained(got[-1]))
        await drained.until(b"5")
        assert got == [b"%d" % number for number in range(6)]
        assert [type(failure) for failure in failures] == [zmq.Again] * 3
        failures.clear()
        link.close()

    run(body())


def test_bulk_sink_may_close_its_link(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        for _ in range(6):
            sender.send(b"frame")
        arrived(receiver)
        got = Got()

        def leave(frame: bytes) -> None:
            got(b"last" if len(got) == 3 else frame)
            if got[-1] == b"last":
                link.close()

        link = Link(loop(), receiver, bulk=bulk(leave))
        await got.until(b"last")
        await timer(0)
        assert len(got) == 4
        assert link.closed

    run(body())


def test_reply_whose_news_a_post_has_eaten_is_delivered(run: Run, wires: Wires) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER)
        got = Got()
        link = Link(loop(), dealer, sink=got)
        link.post(b"question")
        peer, _ = router.recv_multipart()
        await timer(0.01)  # the look after the first send is over
        router.send_multipart([peer, b"answer"])
        arrived(dealer)
        link.post(b"next question")
        await got.until(b"answer")
        link.close()
        link.post(b"goes nowhere")

    run(body())


def test_framed_sink_grants_each_subscription_before_the_next_is_read(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        address, publisher = wires.address(), wires.sock(zmq.XPUB, XPUB_MANUAL=1)
        publisher.bind(address)
        seen, got = Got(), {b"a": Got(), b"b": Got()}

        def grant(frame: zmq.Frame) -> None:
            if frame.bytes != b"\x01secret":
                publisher.setsockopt(zmq.SUBSCRIBE, frame.bytes[1:])
            seen(frame.bytes)

        link = Link(loop(), publisher, framed=grant)
        ears = [hear(address, name, sink) for name, sink in got.items()]
        while len(seen) < 6:
            await timer(0.002)
        for word in (b"secret", b"a", b"b", b"end"):
            link.send(word)
        await got[b"a"].until(b"end")
        await got[b"b"].until(b"end")
        assert got == {
            b"a": [b"a", b"end"],
            b"b": [b"b", b"end"],
        }  # each its own, none the other's
        close(link, *ears)

    def hear(address: str, name: bytes, sink: Got) -> Link:
        sock = wires.sock(zmq.SUB)
        for prefix in (name, b"secret", b"end"):
            sock.subscribe(prefix)
        sock.connect(address)
        return Link(loop(), sock, sink=sink)

    run(body())


def test_full_dealer_tells_when_there_is_room_and_its_owner_loses_nothing(
    run: Run, wires: Wires
) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER, SNDHWM=4, RCVHWM=4)
        queue = deque(range(200))
        calls = 0

        def send_on() -> None:
            nonlocal calls
            calls += 1
            while queue and link.send(b"%d" % queue[0] + BIG):
                queue.popleft()

        link = Link(loop(), dealer, sink=Got(), on_writable=send_on)
        send_on()
        mux, seen = Mux.of(loop()), -1
        while seen != calls:  # until what the kernel takes is full
            seen = calls
            await timer(0.1)
        turns = mux.turns
        await timer(0.1)
        assert (mux.turns, calls) == (turns, seen)  # full and idle: no turns
        assert queue
        assert "blocked" in repr(link)

        got = Got()
        reader = Link(loop(), router, routed=lambda _, frame: got(frame.bytes.rstrip(b"\0")))
        await got.until(b"199")
        assert got == [b"%d" % number for number in range(200)]
        await timer(0.02)
        seen = calls
        await timer(0.02)
        assert calls == seen  # once per refused send, not once per wake-up
        link.close()
        reader.close()

    run(body())


def test_message_found_while_looking_for_room_is_delivered(run: Run, wires: Wires) -> None:
    async def body() -> None:
        router, dealer = wires.pair(zmq.ROUTER, zmq.DEALER, SNDHWM=4, RCVHWM=4)
        got = Got()

        def second_comes_now() -> None:
            if got == [b"first"]:
                router.send_multipart([peer, b"second"])
                arrived(dealer)  # asking has eaten the news of it

        def send_on() -> None:
            while link.send(BIG):
                pass

        link = Link(loop(), dealer, sink=got, on_drained=second_comes_now, on_writable=send_on)
        link.send(b"hello")
        peer, _ = router.recv_multipart()
        send_on()
        await timer(0.1)  # what the kernel takes is full
        assert "blocked" in repr(link)
        router.send_multipart([peer, b"first"])
        await got.until(b"second")
        close(link)

    run(body())


def test_dealer_without_a_peer_tells_when_one_has_come(run: Run, wires: Wires) -> None:
    async def body() -> None:
        address, got = wires.address(), Got()
        dealer = wires.sock(zmq.DEALER, IMMEDIATE=1, RECONNECT_IVL=5)
        dealer.connect(address)

        def send_again() -> None:
            link.send(b"hello")

        link = Link(loop(), dealer, sink=Got(), on_writable=send_again)
        assert not link.send(b"hello")
        assert link.unsent == 1
        router = wires.sock(zmq.ROUTER)
        router.bind(address)
        reader = Link(loop(), router, routed=got.routed)
        await got.until(b"hello")
        assert got == [b"hello"]
        link.close()
        reader.close()

    run(body())


def test_waiters_that_gave_up_lose_no_message(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        waiters: deque[asyncio.Future[bytes]] = deque()

        def resolve(frame: bytes) -> None:
            while waiters:
                if not (waiter := waiters.popleft()).done():
                    waiter.set_result(frame)
                    return

        async def next_frame(timeout_s: float) -> bytes:
            waiters.append(loop().create_future())
            return await asyncio.wait_for(waiters[-1], timeout_s)

        link = Link(loop(), receiver, sink=resolve)
        for number in range(10):
            with pytest.raises(TimeoutError):
                await next_frame(0.001)
            loop().call_soon(sender.send, b"%d" % number)
            assert await next_frame(DEADLINE_S) == b"%d" % number
        link.close()

    run(body())


def test_what_a_sink_raises_is_told_and_the_rest_is_delivered(
    run: Run, wires: Wires, failures: list[BaseException]
) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        other_receiver, other_sender = wires.pair(zmq.PULL, zmq.PUSH)
        for each in (sender, other_sender):
            for number in range(6):
                each.send(b"%d" % number)
        arrived(receiver)
        arrived(other_receiver)
        got, other, drained = Got(), Got(), Got()

        def fail(frame: bytes) -> None:
            got(frame)
            if frame in (b"0", b"3", b"5"):
                raise zmq.Again  # not to be taken for the end of the messages

        link = Link(loop(), receiver, sink=fail, on_drained=lambda: drained(got[-1]))
        behind = Link(loop(), other_receiver, sink=other)
        await got.until(b"5")
        await other.until(b"5")
        await drained.until(b"5")
        assert got == other == [b"%d" % number for number in range(6)]
        assert [type(failure) for failure in failures] == [zmq.Again] * 3
        failures.clear()
        sender.send(b"6")
        await got.until(b"6")
        link.close()
        behind.close()

    run(body())


def test_drain_with_frames_is_followed_by_on_drained(run: Run, wires: Wires) -> None:
    async def body() -> None:
        receiver, sender = wires.pair(zmq.PULL, zmq.PUSH)
        batch: list[bytes] = []
        flushed = Got()

        def flush() -> None:
            assert batch
            flushed(batch[-1])
            batch.clear()

        link = Link(loop(), receiver, sink=batch.append, on_drained=flush)
        for number in range(5 * BUDGET):
            sender.send(b"%d" % number)
        await flushed.until(b"%d" % (5 * BUDGET - 1))
        assert len(flushed) >= 5  # at least once a budget
        link.close()

    run(body())


def test_send_to_an_absent_peer_or_on_a_closed_link_is_refused(run: Run, wires: Wires) -> None:
    async def body() -> None:
        router = wires.sock(zmq.ROUTER, ROUTER_MANDATORY=1)
        router.bind(wires.address())
        link = Link(loop(), router, routed=Got().routed)
        assert not link.send(b"nobody", b"frame")
        assert link.unsent == 1
        link.close()
        assert not link.send(b"nobody", b"frame")
        link.close()

    run(body())


async def test_link_has_one_sink_and_a_router_no_on_writable(wires: Wires) -> None:
    sock = wires.sock(zmq.ROUTER)
    with pytest.raises(LocalProtocolError):
        Link(loop(), sock)
    with pytest.raises(LocalProtocolError):
        Link(loop(), sock, sink=Got(), routed=Got().routed)
    with pytest.raises(LocalProtocolError):
        Link(loop(), sock, routed=Got().routed, on_writable=lambda: None)


async def test_rank_comes_from_the_socket_unless_given_and_state_shows(wires: Wires) -> None:
    links = {
        kind: Link(loop(), wires.sock(kind), sink=Got())
        for kind in (zmq.DEALER, zmq.SUB, zmq.XPUB)
    }
    durable = Link(loop(), wires.sock(zmq.SUB), sink=Got(), rank=DURABLE)
    assert [link.rank for link in links.values()] == [RPC, EVENTS, EVENTS]
    assert repr(durable) == "<Link SUB DURABLE open frames=0 rejects=0 unsent=0>"
    for link in (*links.values(), durable):
        link.close()
    assert "closed" in repr(durable)
