"""One event from a publisher's process to a subscriber's: age on arrival, and the rate.

The floor is the same bytes through bare pyzmq sockets of the same options, measured in the
same run; the ratio is what Genesis adds. Never here: assertions.
"""

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import uvloop

from mesh.protocol import envelope
from mesh.protocol.control import Record
from mesh.protocol.envelope import Event
from mesh.transport.link import Link
from mesh.transport.pubsub import Ears, Publisher, Subscriber
from mesh.transport.sockets import Sockets

PACED: Final = 4_000  # events for the latency
PACE_S: Final = 0.001
BURST: Final = 2_000  # events at once for the rate: below the high-water mark, so none is lost
ROUNDS: Final = 10
TOPIC: Final = "bench.event"
VALUE: Final = [
    "BTC-USDT.BINANCE",
    "61837.63",
    "3.78826",
    "61837.64",
    "1.54698",
    50093239212,
    0,
    0,
]
PAYLOAD: Final = envelope.encode_value(VALUE)


def measure() -> list[dict[str, Any]]:
    """Return latency in µs and rate per s, of Genesis and of the floor."""
    with tempfile.TemporaryDirectory() as directory:
        floor = side_by_side(directory, "floor")
        ours = side_by_side(directory, "mesh")
    for row, base in ((ours, floor), (floor, floor)):
        row["ratio_p50"] = round(row["p50_us"] / base["p50_us"], 2)
        row["ratio_per_s"] = round(row["per_s"] / base["per_s"], 2)
    return [ours, floor]


def side_by_side(directory: str, kind: str) -> dict[str, Any]:
    """Run a publisher process against a subscriber here; return the figures."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    address = f"ipc://{directory}/{kind}"
    publisher = context.Process(target=publish, args=(address, kind, there))
    publisher.start()
    try:
        return uvloop.run(subscribe(address, kind, here))
    finally:
        here.send("end")
        publisher.join()


def publish(address: str, kind: str, control: Connection) -> None:
    """Publish paced events, then bursts, each when told to."""
    uvloop.run(_publish(address, kind, control))


async def _publish(address: str, kind: str, control: Connection) -> None:
    loop, sockets = asyncio.get_running_loop(), Sockets()
    send: Callable[[], object]
    if kind == "mesh":
        publisher = Publisher(loop, sockets, address, nid=1, epoch=1)
        send = lambda: publisher.publish(  # noqa: E731  # two ways to send, chosen once
            TOPIC, 7, PAYLOAD, ts_recv=0, ts_sent=time.time_ns(), keep=False
        )
    else:
        link = Link(loop, sockets.publisher(address, durable=False), sink=lambda frame: None)
        send = lambda: link.send(bare(time.time_ns()))  # noqa: E731  # as above
    while (word := await loop.run_in_executor(None, control.recv)) != "end":
        for _ in range(PACED if word == "paced" else BURST):
            send()
            if word == "paced":
                await asyncio.sleep(PACE_S)
    sockets.close()


async def subscribe(address: str, kind: str, control: Connection) -> dict[str, Any]:
    """Count and time what arrives."""
    loop, sockets = asyncio.get_running_loop(), Sockets()
    ages: list[int] = []
    arrived = asyncio.Event()

    def take(sent_ns: int) -> None:
        ages.append(time.time_ns() - sent_ns)
        arrived.set()

    if kind == "mesh":
        record = Record("bench", 1, 1, 0, (), {}, {"e": address})

        def decoded(event: Event) -> None:
            envelope.decode_value(event.payload)
            take(event.ts_sent)

        ears = Ears(decoded, lambda head, began: None, lambda gap: None)
        subscriber = Subscriber(loop, sockets, record, ears, durable=False, token=lambda: 1)
        subscriber.subscribe({TOPIC})
    else:
        sock = sockets.subscriber(durable=False)
        sock.subscribe(b"")
        sock.connect(address)
        Link(loop, sock, sink=lambda frame: take(int.from_bytes(frame[:8], "little")))
    await asyncio.sleep(1.0)  # connected; a benchmark may wait for luck, a test may not
    control.send("paced")
    await until(ages, arrived, PACED)
    paced = sorted(ages)
    rates = [await burst(control, ages, arrived) for _ in range(ROUNDS)]
    sockets.close()
    return {
        "what": kind,
        "p50_us": round(paced[len(paced) // 2] / 1000, 1),
        "p99_us": round(paced[int(len(paced) * 0.99)] / 1000, 1),
        "p999_us": round(paced[int(len(paced) * 0.999)] / 1000, 1),
        "per_s": int(sorted(rates)[len(rates) // 2]),
    }


async def burst(control: Connection, ages: list[int], arrived: asyncio.Event) -> float:
    """Return events per second of one burst, first to last arrival."""
    ages.clear()
    arrived.clear()
    control.send("burst")
    await until(ages, arrived, 1)
    begun = time.perf_counter()
    await until(ages, arrived, BURST)
    return BURST / (time.perf_counter() - begun)


async def until(ages: list[int], arrived: asyncio.Event, count: int) -> None:
    """Return once *count* events are here. Raises TimeoutError after 30 s."""
    async with asyncio.timeout(30):
        while len(ages) < count:
            arrived.clear()
            await arrived.wait()


def bare(sent_ns: int) -> bytes:
    """Return a frame of the same size with nothing but its time in it."""
    size = len(TOPIC) + 1 + envelope.EVENT_HEADER_BYTES + len(PAYLOAD)
    return sent_ns.to_bytes(8, "little").ljust(size, b"\0")
