"""A shop that reads, sells and is paid, and those who call it, for tests of requests.

Never here: tests.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from mesh.errors import (
    NotFound,
)
from mesh.protocol import envelope
from mesh.protocol.control import DURABLE, BreakerTurn
from mesh.runtime.component import Component, EventMeta, event, request
from mesh.runtime.deadline import left_s
from mesh.transport.requester import Requester


class Shop(Component):
    """Reads, sells once per key, pays once; a closed gate holds whoever is inside."""

    says: ClassVar = {"t.sold.": DURABLE}

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered: Counter[str] = Counter()
        self.left: list[float | None] = []
        self.delay_s = 0.0

    async def enter(self, what: str) -> None:
        self.entered[what] += 1
        self.left.append(left_s())
        await self.gate.wait()

    @request("shop.read", timeout_s=30.0)
    async def read(self, number: int) -> int:
        await self.enter("read")
        await asyncio.sleep(self.delay_s)
        return number

    @request("shop.sell", kind="keyed", timeout_s=30.0)
    async def sell(self, number: int) -> int:
        await self.enter("sell")
        await self.commit(("t.sold.a", number), reply=number)
        return number

    @request("shop.mark", kind="keyed", timeout_s=30.0)
    async def mark(self, number: int) -> int:
        await self.commit(("t.sold.a", number))
        await self.enter("mark")
        return number

    async def resolve_request(self, method: str, arg: Any, caller: str) -> object:
        self.entered["resolve"] += 1
        if arg == 0:
            raise NotFound("nothing of it")
        if arg == 1:
            return 11
        return await super().resolve_request(method, arg, caller)

    @request("shop.pay", kind="once", timeout_s=30.0)
    async def pay(self, number: int) -> int:
        await self.enter("pay")
        return number

    @request("shop.stop", urgent=True)
    def stop(self, _: None) -> str:
        return "stopped"

    @request("shop.bug")
    async def bug(self, _: None) -> None:
        self.entered["bug"] += 1
        raise ZeroDivisionError

    @request("shop.list", timeout_s=30.0)
    async def list_all(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.entered["part"] += 1
            yield number

    @request("shop.ask")
    async def ask(self, target: str) -> int:
        return await self.call("shop.read", 1, int, timeout_s=30.0, target=target)

    def sold(self) -> list[int]:
        """Return what is in the journal."""
        return [
            envelope.decode_value(envelope.decode_event(record.frame).payload)
            for record in self.journal.read()
        ]


class Watcher(Component):
    """Hears how breakers stand."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[tuple[str, str], tuple[str, str]] = {}

    @event("breaker.")
    def on_breaker(self, told: BreakerTurn, meta: EventMeta) -> None:
        self.heard[meta.node, meta.topic] = told.state, told.reason


async def shop_and_caller(mesh: Any, name: str = "shop") -> tuple[Shop, Component]:
    shop, caller = Shop(), Component()
    await mesh.start(name, shop)
    await mesh.start("caller", caller)
    assert await caller.call("shop.read", 0, int) == 0  # the session stands
    return shop, caller


def requester(mesh: Any, node: str = "shop") -> Requester:
    found = mesh.running["caller"][0].peers._requesters[node][1]
    assert isinstance(found, Requester)
    return found
