"""The analysis node in a simulated mesh: bars are committed, indicators follow, a crash costs
neither."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from mesh import clock
from mesh.errors import Invalid
from mesh.sim.loopback import LoopbackMesh
from nodes.analysis.node import AnalysisNode
from nodes.analysis.settings import AnalysisSettings
from nodes.domain.market import Bar, Trade
from nodes.domain.schemas import SCHEMAS

BTC = "BTC-USDT.BINANCE"
SECOND_NS = 1_000_000_000
SETTINGS = AnalysisSettings(
    intervals=("1s",),
    close_delay_ms=100,
    empty_bars_max=10,
    indicators=("ema_2",),
    history_bars=5,
    checkpoint_s=1.0,
)


@pytest.fixture
def mesh() -> Iterator[LoopbackMesh]:
    with LoopbackMesh(schemas=SCHEMAS) as mesh:
        yield mesh


def trade_each_second(mesh: LoopbackMesh, prices: list[int], first: int = 0) -> None:
    for number, price in enumerate(prices, first):
        now = clock.wall_ns()
        trade = Trade(
            BTC, str(number), Decimal(price), Decimal(1), None, ts_event=now, ts_recv=now
        )
        mesh.publish(f"md.trade.{BTC}", trade)
        mesh.advance(0.99)


def closes(mesh: LoopbackMesh) -> list[Decimal]:
    return [bar.close for _, bar in mesh.said("md.bar.", Bar)]


def test_bars_are_committed_and_indicators_follow(mesh: LoopbackMesh) -> None:
    mesh.start("analysis", AnalysisNode(SETTINGS))
    trade_each_second(mesh, [10, 20, 30, 40])
    assert closes(mesh) == [Decimal(20), Decimal(30)]  # the first second was joined midway
    topics = [topic for topic, _ in mesh.said("")]
    assert topics.index(f"md.bar.1s.{BTC}") < topics.index(f"ta.ema_2.1s.{BTC}")


def test_a_crash_costs_no_bar_that_was_told(mesh: LoopbackMesh) -> None:
    mesh.start("analysis", AnalysisNode(SETTINGS))
    trade_each_second(mesh, [10, 20, 30])
    told = closes(mesh)
    mesh.kill("analysis")
    mesh.start("analysis", AnalysisNode(SETTINGS))
    past = mesh.call("analysis.history", {"instrument": BTC, "interval": "1s"}, list)
    assert [Decimal(bar["close"]) for bar in past] == told
    trade_each_second(mesh, [40, 50], first=3)
    starts = [bar.open_ts for _, bar in mesh.said("md.bar.", Bar)]
    assert starts == sorted(set(starts))


def test_history_is_bounded_and_the_newest(mesh: LoopbackMesh) -> None:
    mesh.start("analysis", AnalysisNode(SETTINGS))
    trade_each_second(mesh, list(range(1, 11)))
    past = mesh.call("analysis.history", {"instrument": BTC, "interval": "1s"}, list)
    assert [Decimal(bar["close"]) for bar in past] == [Decimal(n) for n in (5, 6, 7, 8, 9)]
    with pytest.raises(Invalid):
        mesh.call("analysis.history", {"instrument": BTC}, list)
