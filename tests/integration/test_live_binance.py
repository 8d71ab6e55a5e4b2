"""The live source against a server on this machine that plays a capture, breaks off, goes on.

One port speaks both: WebSocket streams, and the REST answer about the book as it stands.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from nodes.domain.market import FeedState, FeedStatus, Trade
from nodes.market_data.book import LIVE
from nodes.market_data.feed import Feed, Publication
from nodes.market_data.frame import Frame
from nodes.market_data.normalize import Normalizer
from nodes.market_data.reference import Registry
from nodes.market_data.settings import MarketDataSettings
from nodes.market_data.sources.binance import BinanceStreams
from nodes.market_data.sources.replay import read_capture
from nodes.market_data.sources.synthetic import Synthetic

CAPTURE = "binance_spot_raw/btcusdt_20240808.gz"
INSTRUMENT = "BTC-USDT.BINANCE"
MESSAGES = 3_000
LIVE_BY = 300  # messages into a connection the client's book must be live


def synthetic_frames() -> list[Frame]:
    market = Synthetic(
        "BTCUSDT", seed=7, start_ns=17 * 10**17, start_ticks=6_123_400, events_per_s=200
    )
    return list(islice(market.frames(), MESSAGES))


@pytest.fixture(params=["synthetic", "capture"])
def frames(request: pytest.FixtureRequest) -> list[Frame]:
    if request.param == "synthetic":
        return synthetic_frames()
    data_dir: Path = request.getfixturevalue("data_dir")
    return list(islice(read_capture(data_dir / CAPTURE), MESSAGES))


class Venue:
    """Plays frames over two connections; knows the book at the point it has played to."""

    def __init__(self, frames: list[Frame]) -> None:
        self.market = Normalizer(Registry("BINANCE"), futures=False)
        self.trades = sum(b'@trade"' in frame.raw for frame in frames)
        self.paths: list[str] = []
        self.refused = 0
        self._parts = [frames[: MESSAGES // 2], frames[MESSAGES // 2 :]]
        self.heard = asyncio.Event()  # the client's book is live

    @property
    def last_id(self) -> int:
        return self.market.books[INSTRUMENT].last_id

    @property
    def played(self) -> bool:
        return not self._parts

    async def on_connection(self, socket: ServerConnection) -> None:
        for number, frame in enumerate(self._parts[0]):
            if number == LIVE_BY:
                await self.heard.wait()
            self.market.step(frame)
            if b'"stream"' in frame.raw:
                await socket.send(frame.raw.decode())
        del self._parts[0]
        if self.played:
            await socket.wait_closed()

    def on_request(self, socket: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        if request.path.startswith("/stream"):
            return None
        book = self.market.books.get(INSTRUMENT)
        if not self.refused or book is None or book.state is not LIVE:
            self.refused += 1  # the first request always
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no book yet\n")
        top = book.top(5_000)
        body = {"lastUpdateId": top.update_id, "bids": top.bids, "asks": top.asks}
        return socket.respond(HTTPStatus.OK, msgspec.json.encode(body, enc_hook=str).decode())


@asynccontextmanager
async def serving(venue: Venue) -> AsyncIterator[Server]:
    async with serve(
        venue.on_connection, "127.0.0.1", 0, process_request=venue.on_request
    ) as server:
        yield server


def make_settings(port: int) -> MarketDataSettings:
    values: dict[str, Any] = {
        "source": "live:binance",
        "venue": "",
        "format": "binance-spot",
        "seed": 0,
        "symbols": ["BTCUSDT"],
        "files": [],
        "speed": 1.0,
        "events_per_s": 1,
        "start_prices": {},
        "depth_interval_ms": 100,
        "buffer_diffs": 10_000,
        "snapshot_wait_s": 10.0,
        "stale_after_s": 10.0,
        "rest_timeout_s": 5.0,
        "ws_url": f"ws://127.0.0.1:{port}",
        "rest_url": f"http://127.0.0.1:{port}",
        "backoff_first_s": 0.01,
        "backoff_most_s": 0.02,
    }
    return msgspec.convert(values, MarketDataSettings)


class Client:
    """What the node does with its live source, without the mesh."""

    def __init__(self, settings: MarketDataSettings, venue: Venue) -> None:
        self.feed = Feed(
            Registry("BINANCE"),
            futures=False,
            buffer_diffs=10_000,
            depth_interval_s=0.1,
            snapshot_wait_s=10.0,
            stale_after_s=10.0,
        )
        self.told: list[Publication] = []
        self.caught_up = asyncio.Event()
        self._venue = venue
        self._streams = BinanceStreams(settings, self._on_lost)

    async def run(self) -> None:
        await self._streams.run(self._on_frame)

    def trades(self) -> list[Trade]:
        return [value for _, value in self.told if isinstance(value, Trade)]

    def statuses(self, channel: str) -> list[tuple[FeedState, str]]:
        values = [value for _, value in self.told if isinstance(value, FeedStatus)]
        return [(one.state, one.reason) for one in values if one.channel == channel]

    def _on_frame(self, frame: Frame) -> None:
        self.told += self.feed.handle(frame, frame.recv_ns / 1e9)
        for symbol in self.feed.wanted():
            self._streams.want_snapshot(symbol)
        book = self.feed.normalizer.books.get(INSTRUMENT)
        if book is None or book.state is not LIVE:
            return
        self._venue.heard.set()
        whole = book.last_id == self._venue.last_id and len(self.trades()) == self._venue.trades
        if self._venue.played and whole:
            self.caught_up.set()

    def _on_lost(self, reason: str) -> None:
        self._venue.heard.clear()
        self.told += self.feed.lose(reason, 1)


async def until_caught_up(client: Client) -> None:
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(client.run())
        await client.caught_up.wait()
        running.cancel()


async def test_live_source_survives_a_lost_connection_and_ends_with_the_venues_book(
    frames: list[Frame],
) -> None:
    venue = Venue(frames)
    async with serving(venue) as server:
        client = Client(make_settings(server.sockets[0].getsockname()[1]), venue)
        await until_caught_up(client)
    ours, theirs = client.feed.snapshot(INSTRUMENT), venue.market.books[INSTRUMENT].top(5_000)
    assert (ours.bids[:20], ours.asks[:20]) == (theirs.bids[:20], theirs.asks[:20])
    assert len(client.trades()) == venue.trades
    assert all(trade.price > Decimal(1) for trade in client.trades())
    assert client.feed.refused == {}
    live, down = (FeedState.LIVE, ""), (FeedState.DOWN, "CLOSED")
    assert client.statuses("trade") == [live, down, live]
    assert [s for s in client.statuses("book") if s in (live, down)] == [live, down, live]
    assert venue.refused > 0  # and was asked again
    assert [path for path in venue.paths if path.startswith("/stream")] == [
        "/stream?streams=btcusdt@trade/btcusdt@bookTicker/btcusdt@depth@100ms"
    ] * 2


async def test_venue_that_refuses_connections_is_tried_again() -> None:
    venue = Venue(synthetic_frames())
    async with serving(venue) as server:
        port: int = server.sockets[0].getsockname()[1]
    losses: list[str] = []
    thrice = asyncio.Event()

    def on_lost(reason: str) -> None:
        losses.append(reason)
        if len(losses) == 3:
            thrice.set()

    streams = BinanceStreams(make_settings(port), on_lost)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(streams.run(lambda _: None))
        await thrice.wait()
        running.cancel()
    assert set(losses) <= {"ConnectionRefusedError", "OSError"}
