"""Analysis, strategy and risk on real files: checkpoint and journal together lose nothing."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar

import pytest

from mesh.protocol.control import DURABLE
from mesh.runtime.component import Component, EventMeta, request
from mesh.runtime.saving import Saving
from mesh.storage.checkpoint import Checkpointer
from mesh.storage.journal import Retention
from mesh.storage.private import PrivateDirectory
from nodes.analysis.node import AnalysisNode
from nodes.analysis.settings import AnalysisSettings
from nodes.domain.accounts import Position
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import BUY, Bar
from nodes.domain.orders import FILLED, OPEN, Fill, Order, OrderEvent, OrderIntent, OrderKind
from nodes.domain.schemas import SCHEMAS
from nodes.risk.node import RiskNode
from nodes.risk.settings import RiskSettings
from nodes.strategy.host import SCHEMA
from nodes.strategy.node import StrategyNode
from nodes.strategy.sdk import Context
from nodes.strategy.settings import StrategySettings
from tests.integration.conftest import LocalMesh, until

BTC = "BTC-USDT.X"
SECOND = 1_000_000_000
ONE = Decimal(1)


class Execution(Component):
    """Tells of orders that a test makes up, as execution does."""

    says: ClassVar = {"order.": DURABLE, "fill.": DURABLE}
    schemas = SCHEMAS

    @request("execution.open_orders")
    def open_orders(self, _: None) -> list[Order]:
        return []

    @request("execution.holdings")
    def holdings(self, _: None) -> list[Position]:
        return []

    async def filled(self, number: int) -> None:
        """Tell of an order of strategy ema that bought one."""
        coid, topic = f"ema-1-{number}", f"paper.ema.{BTC}"
        wish = OrderIntent(coid, "ema", 1, "paper", BTC, BUY, OrderKind.MARKET, ONE)
        fill = Fill(
            "paper", f"f{number}", coid, "v", "ema", BTC, BUY, ONE, ONE, Decimal(0), "", "T"
        )
        await self.commit(
            (f"order.{topic}", OrderEvent("rec", Order(wish, OPEN))),
            (f"fill.{topic}", fill),
            (f"order.{topic}", OrderEvent("full", Order(wish, FILLED, filled=ONE))),
        )


def analysis() -> AnalysisNode:
    settings = AnalysisSettings(
        intervals=("1s",),
        close_delay_ms=1,
        empty_bars_max=10,
        indicators=("ema_2",),
        history_bars=50,
        checkpoint_s=60.0,  # the tests say when
    )
    return AnalysisNode(settings)


def strategy() -> StrategyNode:
    params: dict[str, Any] = {"instrument": BTC, "interval": "1s", "fast": 2, "slow": 3}
    settings = StrategySettings(
        strategy="nodes.strategy.ema_cross:EmaCross",
        account="paper",
        params={**params, "quantity": "1"},
        submit_timeout_s=1.0,
        resend_s=1.0,
        settle_s=60.0,
        checkpoint_s=60.0,
    )
    return StrategyNode(settings)


def risk() -> RiskNode:
    settings = RiskSettings(
        order_notional_max=Decimal(10),
        position_notional_max=Decimal(10),
        open_orders_max=9,
        collar_bps=100,
        quote_max_age_ms=1_000,
        submit_timeout_s=1.0,
        checkpoint_s=60.0,
    )
    return RiskNode(settings)


def bars(numbers: Iterable[int]) -> list[Bar]:
    def bar(number: int) -> Bar:
        price, start = Decimal(100 + number % 7), number * SECOND
        return Bar(BTC, "1s", start, start + SECOND, price, price, price, price, ONE, ONE, ONE, 1)

    return list(map(bar, numbers))


@asynccontextmanager
async def run(
    mesh: LocalMesh, node: str, component: AnalysisNode | StrategyNode | RiskNode
) -> AsyncIterator[Any]:
    """Let *component* live; it dies without a word, as by SIGKILL."""
    await mesh.start(node, component)
    try:
        yield component
    finally:
        mesh.crash(node)


async def closed(node: AnalysisNode, numbers: Iterable[int]) -> None:
    """Let *node* commit bars."""
    made = bars(numbers)
    node.keep(made)
    await until(lambda: node.history.past(BTC, "1s", 1) == made[-1:])


def flip(mesh: LocalMesh, node: str, count: int = 1) -> list[str]:
    """Damage so many of the newest checkpoints of *node*; return their names, newest first."""
    paths = {int(p.suffixes[-2][1:]): p for p in mesh.paths.checkpoints.glob(f"{node}.*.ckpt")}
    damaged = [paths[generation] for generation in sorted(paths)[: -count - 1 : -1]]
    for path in damaged:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    return [path.name for path in damaged]


def logged(mesh: LocalMesh, name: str) -> list[dict[str, Any]]:
    """Return what the log has under that name."""
    file = mesh.paths.logs / "app.log"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in map(json.loads, lines) if line["event"] == name]


def assert_rejected(mesh: LocalMesh, node: str, files: list[str]) -> None:
    lines = logged(mesh, "CHECKPOINT_REJECTED")
    assert [(line["node"], line["level"]) for line in lines] == [(node, "WARNING")] * len(files)
    for line, file in zip(lines, files, strict=True):
        assert line["fields"]["why"].startswith(f"{file} is corrupted")


# --- analysis ---


async def test_a92_analysis_falls_back_to_the_previous_checkpoint_and_the_journal(
    mesh: LocalMesh,
) -> None:
    async with run(mesh, "analysis", analysis()) as node:
        for last in (10, 20):
            await closed(node, range(last - 10, last))
            await node.saving.save()
        await closed(node, range(20, 25))
    flipped = flip(mesh, "analysis")
    async with run(mesh, "analysis", analysis()) as node:
        assert node.history.past(BTC, "1s", 99) == bars(range(25))
        assert_rejected(mesh, "analysis", flipped)
        assert node.bars._series[BTC].next_ts == 25 * SECOND  # nothing is published again
        await closed(node, range(25, 30))
        assert node.journal.last == 30


async def test_journal_of_analysis_keeps_what_its_checkpoints_do_not_have_and_no_more(
    mesh: LocalMesh,
) -> None:
    mesh.retention = Retention(max_bytes=1, keep_s=0.0)
    async with run(mesh, "analysis", analysis()) as node:
        for last in range(100, 1_100, 100):
            await closed(node, range(last - 100, last))
            await node.saving.save()
        await until(lambda: node.journal.first == 801)  # three files may be wanted
    flipped = flip(mesh, "analysis", 2)
    async with run(mesh, "analysis", analysis()) as node:
        assert node.history.past(BTC, "1s", 99) == bars(range(950, 1_000))
        assert_rejected(mesh, "analysis", flipped)
        assert not logged(mesh, "OFFSET_GONE")


async def test_analysis_without_the_checkpoint_of_what_is_gone_starts_with_what_is_kept(
    mesh: LocalMesh,
) -> None:
    mesh.retention = Retention(max_bytes=1, keep_s=0.0)
    async with run(mesh, "analysis", analysis()) as node:
        for last in (10, 20, 30):
            await closed(node, range(last - 10, last))
            await node.saving.save()
        await until(lambda: node.journal.first == 11)
    for path in mesh.paths.checkpoints.glob("*.ckpt"):
        path.unlink()
    async with run(mesh, "analysis", analysis()) as node:
        assert node.history.past(BTC, "1s", 99) == bars(range(10, 30))
        [line] = logged(mesh, "OFFSET_GONE")
        assert (line["fields"]["after"], line["fields"]["first"]) == (0, 11)


async def test_checkpoint_of_another_journal_is_no_history(mesh: LocalMesh) -> None:
    async with run(mesh, "analysis", analysis()) as node:
        await closed(node, range(10))
        await node.saving.save()
        journal = node.journal.path
    for path in journal.parent.glob(journal.name + "*"):
        path.unlink()
    async with run(mesh, "analysis", analysis()) as node:
        assert node.history.past(BTC, "1s", 99) == []
        await closed(node, range(50, 52))


# --- strategy and risk ---


def bought(ctx: Context, quantity: int) -> bool:
    return ctx.position(BTC) == quantity


def ended(node: RiskNode, count: int) -> bool:
    return len(node.gatekeeper.ended) == count


async def test_a92_strategy_falls_back_to_the_previous_checkpoint_and_the_stream(
    mesh: LocalMesh,
) -> None:
    execution = Execution()
    await mesh.start("execution", execution)
    async with run(mesh, "strategy.ema", strategy()) as node:
        for number in (1, 2):
            await execution.filled(number)
            await until(partial(bought, node.host.ctx, number))
            await node.saving.save()
    await execution.filled(3)
    flipped = flip(mesh, "strategy.ema")
    async with run(mesh, "strategy.ema", strategy()) as node:
        assert node.host.ctx.position(BTC) == 1
        assert_rejected(mesh, "strategy.ema", flipped)
        await until(lambda: node.host.ctx.position(BTC) == 3)
        await execution.filled(4)  # behind it all: whatever came twice has come
        await until(lambda: node.host.ctx.position(BTC) == 4)


async def test_a92_risk_falls_back_to_the_previous_checkpoint_and_the_stream(
    mesh: LocalMesh,
) -> None:
    execution = Execution()
    await mesh.start("execution", execution)
    async with run(mesh, "risk", risk()) as node:
        for number in (1, 2):
            await execution.filled(number)
            await until(partial(ended, node, number))
            await node.saving.save()
    await execution.filled(3)
    flipped = flip(mesh, "risk")
    async with run(mesh, "risk", risk()) as node:
        assert list(node.gatekeeper.orders) == ["ema-1-1"]
        assert node.applied_offset("execution", execution.journal.log_id) == 3
        assert_rejected(mesh, "risk", flipped)
        await until(lambda: node.gatekeeper.held == {("paper", BTC): 3})
        node.gatekeeper.check()


async def test_risk_forgets_orders_of_a_journal_that_is_no_more(mesh: LocalMesh) -> None:
    execution = Execution()
    await mesh.start("execution", execution)
    async with run(mesh, "risk", risk()) as node:
        await execution.filled(1)
        await until(lambda: "ema-1-1" in node.gatekeeper.ended)
        await node.saving.save()
    journal = execution.journal.path
    mesh.stop("execution")
    for path in journal.parent.glob(journal.name + "*"):
        path.unlink()
    execution = Execution()
    await mesh.start("execution", execution)
    async with run(mesh, "risk", risk()) as node:
        await execution.filled(2)
        await until(lambda: "ema-1-2" in node.gatekeeper.ended)
        assert list(node.gatekeeper.orders) == ["ema-1-2"]
        assert logged(mesh, "journal_is_new")
        node.gatekeeper.check()


async def test_denial_is_the_same_after_risk_was_killed_without_a_checkpoint(
    mesh: LocalMesh,
) -> None:
    await mesh.start("execution", Execution())
    asker = Component()
    await mesh.start("asker", asker)
    wish = OrderIntent("a-1-1", "a", 1, "paper", BTC, BUY, OrderKind.MARKET, ONE)

    async def ask(node: RiskNode, wish: OrderIntent) -> RiskDecision:
        await until(lambda: node.gatekeeper.ready)
        coid = wish.client_order_id
        return await asker.call("risk.submit", wish, RiskDecision, key=coid, timeout_s=5.0)

    async with run(mesh, "risk", risk()) as node:
        denial = await ask(node, wish)
        assert denial.code == "MODE_BLOCKED"
    async with run(mesh, "risk", risk()) as node:
        assert await ask(node, wish) == denial
        assert node.journal.last == 1  # nothing was decided


# --- in drain ---


async def test_what_changed_is_saved_in_drain_and_another_may_write(mesh: LocalMesh) -> None:
    node = analysis()
    await mesh.start("analysis", node)
    await closed(node, range(5))
    await node.on_stop()
    other = Checkpointer("analysis", mesh.paths.checkpoints)
    found = other.restore()
    assert found is not None
    assert [at.offset for at in found.positions] == [5]
    assert other.save_checkpoint(None) == 2


async def test_nothing_is_written_where_nothing_changed(mesh: LocalMesh) -> None:
    async with run(mesh, "risk", risk()) as node:
        await node.on_stop()
        assert not mesh.paths.checkpoints.exists()


# --- how a state is kept ---


class Keeper(Component):
    """Keeps a number."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.forgotten = 0, 0

    async def on_start(self) -> None:
        self.saving = Saving(self, lambda: self.number, forget=self.forget)

    def forget(self) -> None:
        self.forgotten += 1


def heard(log_id: str, offset: int) -> EventMeta:
    return EventMeta("x.n", "other", 1, offset, offset, 0, 0, log_id)


async def test_event_is_new_once_and_another_journal_begins_anew(mesh: LocalMesh) -> None:
    keeper = Keeper()
    await mesh.start("keeper", keeper)
    saving = keeper.saving
    assert saving.is_new(heard("one", 5))
    saving.reached("other", "one", 5)
    assert not saving.is_new(heard("one", 5))
    assert saving.is_new(heard("one", 6))
    assert keeper.forgotten == 0
    assert saving.is_new(heard("two", 1))
    assert keeper.forgotten == 1
    assert saving.position("other", "two") == 0
    assert keeper.forgotten == 1


async def test_saves_that_wait_for_each_other_share_one_write(mesh: LocalMesh) -> None:
    keeper = Keeper()
    await mesh.start("keeper", keeper)
    async with asyncio.TaskGroup() as tasks:
        for keeper.number in range(1, 21):
            tasks.create_task(keeper.saving.save())
            await asyncio.sleep(0)
    found = Checkpointer("keeper", mesh.paths.checkpoints).restore()
    assert found is not None
    assert (found.state, found.epoch, found.generation) == (20, keeper.epoch, 2)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let no checkpoint be written until it is undone."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(PrivateDirectory, "write", full)
        yield patch


async def test_full_disk_is_told_and_waited_for(
    mesh: LocalMesh, full_disk: pytest.MonkeyPatch
) -> None:
    keeper = Keeper()
    await mesh.start("keeper", keeper)
    keeper.number = 7
    keeper.saving.changed()
    keeper.saving.start(0.01)
    await until(lambda: logged(mesh, "checkpoint_unsaved"))
    full_disk.undo()
    files = Checkpointer("keeper", mesh.paths.checkpoints)
    await until(lambda: files.restore_checkpoint() == 7)


# --- what a strategy sends ---


class Risk(Component):
    """Approves, and notes what the checkpoint of the strategy has by then."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[Any] = []

    @request("risk.submit", kind="keyed")
    async def submit(self, intent: OrderIntent) -> RiskDecision:
        files = Checkpointer("strategy.ema", self.paths.checkpoints, schema=SCHEMA)
        self.saved.append(files.restore_checkpoint())
        return RiskDecision(intent.client_order_id, intent.strategy, approved=True)


async def test_intent_is_on_disk_before_it_leaves(mesh: LocalMesh) -> None:
    risk = Risk()
    await mesh.start("risk", risk)
    async with run(mesh, "strategy.ema", strategy()) as node:
        await node.saving.save()
        coid = node.host.ctx.buy(BTC, ONE)
        node.act(node.host._take(keep=True))
        await until(lambda: risk.saved)
        assert risk.saved[0]["unseen"] == [coid]
        assert list(risk.saved[0]["working"]) == [coid]


async def test_intent_that_cannot_be_saved_is_dropped(
    mesh: LocalMesh, full_disk: pytest.MonkeyPatch
) -> None:
    risk = Risk()
    await mesh.start("risk", risk)
    async with run(mesh, "strategy.ema", strategy()) as node:
        node.host.ctx.buy(BTC, ONE)
        node.act(node.host._take(keep=True))
        await until(lambda: logged(mesh, "intents_unsaved"))
        assert (node.host.unseen(), node.host.ctx.working) == ((), {})
        assert "the disk is full" in node.host.reason
        full_disk.undo()
        node.host.ctx.buy(BTC, ONE)
        node.act(node.host._take(keep=True))
        await until(lambda: risk.saved)
        assert len(risk.saved) == 1
