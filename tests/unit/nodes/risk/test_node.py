"""The risk node in a simulated mesh: it learns, judges, hands over, and settles its doubts."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest

from mesh.errors import Invalid, NotFound, Unavailable
from mesh.protocol.control import DURABLE, LASTVALUE
from mesh.protocol.mode import EMERGENCY
from mesh.sim.loopback import LoopbackMesh
from nodes.domain.accounts import Position
from nodes.domain.decisions import ApprovedIntent, RiskDecision
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, Quote
from nodes.domain.orders import PENDING, Order, OrderEvent, OrderIntent, OrderKind
from nodes.domain.schemas import SCHEMAS
from nodes.risk.node import RiskNode
from nodes.risk.settings import RiskSettings

BTC = "BTC-USDT.BINANCE"
ONE, TICK = Decimal(1), Decimal("0.01")
QUOTE = Quote(BTC, Decimal(99), ONE, Decimal(100), ONE)
SETTINGS = RiskSettings(
    order_notional_max=Decimal(1_000),
    position_notional_max=Decimal(2_000),
    open_orders_max=10,
    collar_bps=200,
    quote_max_age_ms=2_000,
    checkpoint_s=1.0,
    submit_timeout_s=1.0,
)


class Execution:
    """What the test lets execution answer; asked: what it was handed."""

    def __init__(self) -> None:
        self.asked: list[OrderIntent] = []
        self.error: Exception | None = None
        self.hangs = False

    def stand_in(self, mesh: LoopbackMesh) -> None:
        async def submit(approved: ApprovedIntent) -> Order:
            self.asked.append(approved.intent)
            if self.hangs:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
            return Order(approved.intent, PENDING)

        def order(coid: str) -> Order:
            raise NotFound(coid)

        def open_orders(_: None) -> list[Order]:
            return []

        def holdings(_: None) -> list[Position]:
            return []

        mesh.answer("execution.submit", submit, kind="keyed")
        mesh.answer("execution.order", order)
        mesh.answer("execution.holdings", holdings)
        mesh.answer("execution.open_orders", open_orders)


@pytest.fixture
def mesh() -> Iterator[LoopbackMesh]:
    with LoopbackMesh(schemas=SCHEMAS) as mesh:
        instrument = Instrument(BTC, "BTCUSDT", "BTC", "USDT", TICK, TICK)
        mesh.publish(f"md.instrument.{BTC}", instrument, LASTVALUE)
        yield mesh


@pytest.fixture
def execution(mesh: LoopbackMesh) -> Execution:
    execution = Execution()
    execution.stand_in(mesh)
    return execution


def intent(number: int) -> OrderIntent:
    price, coid = Decimal(100), f"s-1-{number}"
    return OrderIntent(coid, "s", 1, "paper", BTC, BUY, OrderKind.LIMIT, Decimal(5), price)


def submit(mesh: LoopbackMesh, number: int) -> RiskDecision:
    mesh.publish(f"md.quote.{BTC}", QUOTE)
    wish = intent(number)
    return mesh.call("risk.submit", wish, RiskDecision, key=wish.client_order_id)


def decisions(mesh: LoopbackMesh) -> list[str]:
    return [decision.code for _, decision in mesh.said("risk.decision.")]


def test_until_execution_told_its_orders_everything_waits(mesh: LoopbackMesh) -> None:
    mesh.start("risk", RiskNode(SETTINGS))
    with pytest.raises(Unavailable, match="NOT_READY"):
        submit(mesh, 1)
    Execution().stand_in(mesh)
    mesh.advance(1.0)
    assert submit(mesh, 2).approved


def test_what_is_approved_is_on_disk_and_with_execution(
    mesh: LoopbackMesh, execution: Execution
) -> None:
    mesh.start("risk", RiskNode(SETTINGS))
    assert submit(mesh, 1).approved
    assert execution.asked == [intent(1)]
    assert decisions(mesh) == [""]


def test_an_old_price_denies(mesh: LoopbackMesh, execution: Execution) -> None:
    mesh.start("risk", RiskNode(SETTINGS))
    mesh.publish(f"md.quote.{BTC}", QUOTE)
    mesh.advance(3.0)
    denied = mesh.call("risk.submit", intent(1), RiskDecision, key="s-1-1")
    assert not denied.approved
    assert decisions(mesh) == [denied.code]
    assert execution.asked == []


def test_the_mode_is_part_of_the_verdict(mesh: LoopbackMesh, execution: Execution) -> None:
    mesh.start("risk", RiskNode(SETTINGS))
    mesh.set_mode(EMERGENCY)
    assert not submit(mesh, 1).approved


def test_what_execution_surely_refused_counts_no_longer(
    mesh: LoopbackMesh, execution: Execution
) -> None:
    risk = RiskNode(SETTINGS)
    mesh.start("risk", risk)
    execution.error = Invalid("no such account")
    with pytest.raises(Invalid, match="no such account"):
        submit(mesh, 1)
    assert not risk.gatekeeper.flight


def test_a_doubt_counts_until_execution_says_that_there_is_no_order(
    mesh: LoopbackMesh, execution: Execution
) -> None:
    risk = RiskNode(SETTINGS)
    mesh.start("risk", risk)
    execution.hangs = True
    assert submit(mesh, 1).approved
    assert list(risk.gatekeeper.flight) == ["s-1-1"]
    mesh.advance(10.0)
    assert not risk.gatekeeper.flight


def test_a_new_run_learns_the_whole_order_stream(mesh: LoopbackMesh, execution: Execution) -> None:
    mesh.start("risk", RiskNode(SETTINGS))
    mesh.publish("order.paper", OrderEvent("rec", Order(intent(1), PENDING)), DURABLE)
    mesh.kill("risk")
    mesh.publish("order.paper", OrderEvent("rec", Order(intent(2), PENDING)), DURABLE)
    risk = RiskNode(SETTINGS)
    mesh.start("risk", risk)
    assert list(risk.gatekeeper.orders) == ["s-1-1", "s-1-2"]
    risk.gatekeeper.check()
