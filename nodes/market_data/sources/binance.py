"""Binance, live: public streams by WebSocket, snapshots by REST, reconnecting for ever.

Never here: parsing, keys, orders.
"""

import asyncio
import random
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Final

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from mesh.clock import wall_ns
from mesh.protocol.backoff import BackoffPolicy
from nodes.market_data.frame import Frame
from nodes.market_data.settings import MarketDataSettings
from nodes.market_data.sources.pacing import Sink

CHANNELS: Final = ("trade", "bookTicker", "depth@100ms")
MESSAGE_MOST: Final = 4 * 1024 * 1024  # bytes
SNAPSHOT_PATHS: Final = {False: "/api/v3/depth", True: "/fapi/v1/depth"}  # by futures
SNAPSHOT_LEVELS: Final = 1000

Lost = Callable[[str], None]


class BinanceStreams:
    """One combined connection for all symbols; tells `lost` whenever it breaks."""

    def __init__(self, settings: MarketDataSettings, lost: Lost) -> None:
        self._settings = settings
        self._lost = lost
        self._backoff = BackoffPolicy(settings.backoff_first_s, settings.backoff_most_s)
        self._wanted: dict[str, None] = {}  # a queue without repetition
        self._anything_wanted = asyncio.Event()

    def want_snapshot(self, symbol: str) -> None:
        """Ask for the book of *symbol* by REST, soon; asking again changes nothing."""
        self._wanted.setdefault(symbol)
        self._anything_wanted.set()

    async def run(self, sink: Sink) -> None:
        """Hand frames to *sink* until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._stream(sink), name="stream")
            tasks.create_task(self._snapshots(sink), name="snapshots")

    async def _stream(self, sink: Sink) -> None:
        retry = 0
        while True:
            try:
                async with connect(
                    self._stream_url(),
                    max_size=MESSAGE_MOST,
                    open_timeout=self._settings.rest_timeout_s,
                ) as socket:
                    async for message in socket:
                        retry = 0
                        raw = message.encode() if isinstance(message, str) else message
                        sink(Frame(wall_ns(), raw))
                reason = "CLOSED"
            except (OSError, TimeoutError, WebSocketException) as error:
                reason = type(error).__name__
            self._lost(reason)
            await self._rest(retry)
            retry += 1

    async def _snapshots(self, sink: Sink) -> None:
        retry = 0
        while True:
            await self._anything_wanted.wait()
            symbol = next(iter(self._wanted))
            try:
                answer = await asyncio.to_thread(self._fetch, symbol)
            except (OSError, HTTPException):  # refused, timed out, 4xx, 5xx, cut off: again
                retry += 1
                self._wanted[symbol] = self._wanted.pop(symbol)  # the others come first
            else:
                retry = 0
                self._answered(symbol)
                head = f'{{"stream":"{symbol.lower()}@snapshot","data":'.encode()
                sink(Frame(wall_ns(), head + answer + b"}"))
            await self._rest(retry)  # also after success: a book that fits no snapshot asks again

    def _answered(self, symbol: str) -> None:
        self._wanted.pop(symbol, None)  # only now: what was asked meanwhile is answered as well
        if not self._wanted:
            self._anything_wanted.clear()

    def _fetch(self, symbol: str) -> bytes:
        """Return the body of one depth request. Raises OSError."""
        path = SNAPSHOT_PATHS[self._settings.futures]
        query = f"?symbol={symbol}&limit={SNAPSHOT_LEVELS}"
        url = self._settings.rest_url.rstrip("/") + path + query
        with urllib.request.urlopen(  # noqa: S310  # the settings take http and https alone
            url, timeout=self._settings.rest_timeout_s
        ) as answer:
            body: bytes = answer.read(MESSAGE_MOST)
        return body

    def _stream_url(self) -> str:
        streams = "/".join(
            f"{symbol.lower()}@{channel}"
            for symbol in self._settings.symbols
            for channel in CHANNELS
        )
        return f"{self._settings.ws_url.rstrip('/')}/stream?streams={streams}"

    async def _rest(self, retry: int) -> None:
        first = self._settings.backoff_first_s
        dice = random.random  # jitter, no secret
        await asyncio.sleep(self._backoff.delay_s(retry, dice, at_least_s=first / 2))
