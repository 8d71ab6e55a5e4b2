"""Sinks of links: messages of many parts, whole budgets at once, frames that tell their peer."""

from collections.abc import Callable

import pytest
import zmq

from mesh.transport.link import BulkSink, Ended, Link, Recv
from mesh.transport.mux import BUDGET
from tests.unit.mesh.transport.wires import Got, Run, Wires, arrived, close, loop, timer


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
