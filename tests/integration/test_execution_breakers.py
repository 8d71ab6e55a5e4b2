"""EMERGENCY holds the breaker of orders to the venue open; cancels keep their way."""

from typing import Any

import pytest

from mesh.errors import BreakerOpen
from mesh.protocol.control import ModeChange
from mesh.runtime.component import Component, request
from nodes.domain.accounts import Balance
from nodes.execution.node import ExecutionNode
from nodes.execution.settings import ExecutionSettings


class Venue(Component):
    """Takes whatever it is sent."""

    @request("venue.place", kind="keyed")
    async def place(self, intent: str) -> str:
        return "placed"

    @request("venue.cancel", urgent=True)
    def cancel(self, coid: str) -> str:
        return "canceled"

    @request("venue.balances")
    def balances(self, _: None) -> list[Balance]:
        return []


async def test_emergency_stops_orders_at_the_breaker_and_lets_cancels_through(mesh: Any) -> None:
    execution = ExecutionNode(
        ExecutionSettings(
            account="paper", place_timeout_s=1.0, query_timeout_s=1.0, reply_budget_s=1.0,
            approval_age_max_ms=1_000, absence_window_ms=1_000,
        )
    )  # fmt: skip
    await mesh.start("venue", Venue())
    bus = await mesh.start("execution", execution)

    async def place(key: str) -> str:
        return await execution.call("venue.place", key, str, key=key)

    def enter(mode: str, epoch: int) -> None:
        bus.learn_mode(ModeChange(mode, epoch, 1, "test", 1, "operator"))

    assert await place("a") == "placed"
    enter("emergency", 1)
    with pytest.raises(BreakerOpen, match=r"venue\.keyed"):
        await place("b")
    assert await execution.call("venue.cancel", "a", str, urgent=True) == "canceled"
    enter("safe", 2)
    assert await place("b") == "placed"
