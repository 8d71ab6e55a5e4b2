"""Links on real sockets and on both loops: a test per trap of libzmq's descriptor."""

import asyncio
from collections import deque

import pytest
import zmq

from mesh.errors import LocalProtocolError
from mesh.transport.link import Link
from mesh.transport.mux import BUDGET, DURABLE, EVENTS, RPC, Mux
from tests.unit.mesh.transport.wires import (
    BIG,
    DEADLINE_S,
    Got,
    Run,
    Sock,
    Wires,
    arrived,
    close,
    loop,
    timer,
)


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
