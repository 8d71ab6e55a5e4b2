"""kill -9 of analysis, strategy and risk while they trade: no checkpoint is behind its word.

What a checkpoint says up to its offsets is what the journals say up to there, whenever the
process was killed. The nodes are the real ones.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from mesh.protocol import envelope
from mesh.protocol.commits import Applied
from mesh.runtime.client import Client
from mesh.runtime.planes import JOURNALS
from mesh.runtime.settings import ROOT, Paths, load_paths
from mesh.storage.checkpoint import Checkpoint, Checkpointer
from mesh.storage.reader import Reader
from nodes.analysis.history import History
from nodes.domain.decisions import Limits
from nodes.domain.market import BUY, Bar
from nodes.domain.numbers import parse
from nodes.domain.orders import Fill, OrderEvent
from nodes.risk.gatekeeper import Gatekeeper
from nodes.strategy.host import SCHEMA
from tests.chaos.process.homes import until
from tests.system.books import pages, wait_for

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(120),  # seven processes come up, three of them three times
]

KILLED = ("analysis", "strategy.ema", "risk")
OTHERS = ("coordinator", "market_data", "paper_venue", "execution")
KILLS = 3
SEED = 1
T = TypeVar("T")


class Trading:
    """The nodes that it takes to trade, with averages so short that they do it all the time."""

    def __init__(self, home: Path) -> None:
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("GENESIS_")},
            "PYTHONPATH": str(ROOT),
            "GENESIS_HOME": str(home),
            "GENESIS__COORDINATOR__EXPECTED": json.dumps([*OTHERS, *KILLED]),
            "GENESIS__ANALYSIS__CHECKPOINT_S": "0.2",
            "GENESIS__STRATEGY__EMA__CHECKPOINT_S": "0.2",
            "GENESIS__RISK__CHECKPOINT_S": "0.2",
            "GENESIS__STRATEGY__EMA__PARAMS__FAST": "2",
            "GENESIS__STRATEGY__EMA__PARAMS__SLOW": "3",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *nodes: str) -> None:
        for node in nodes:
            role = f"nodes.{node.partition('.')[0]}"
            self._processes[node] = subprocess.Popen(
                [sys.executable, "-m", role, "--node", node], env=self._environment
            )

    def kill(self, *nodes: str) -> None:
        for node in nodes:
            self._processes[node].kill()
        for node in nodes:
            self._processes.pop(node).wait()

    def stop(self, *nodes: str) -> None:
        for node in nodes:
            self._processes[node].send_signal(signal.SIGTERM)
        assert [self._processes.pop(node).wait(20.0) for node in nodes] == [0] * len(nodes)

    def close(self) -> None:
        self.kill(*self._processes)


@pytest.fixture
def trading(tmp_path: Path) -> Iterator[Trading]:
    trading = Trading(tmp_path)
    try:
        trading.start(*OTHERS, *KILLED)
        yield trading
    finally:
        trading.close()


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    return load_paths()


SCHEMAS = {"analysis": 1, "strategy.ema": SCHEMA, "risk": 1}


def newest(paths: Paths, node: str) -> Checkpoint:
    found = Checkpointer(node, paths.checkpoints, schema=SCHEMAS[node]).restore()
    return Checkpoint(None) if found is None else found


def all_saved(paths: Paths) -> bool:
    """Say whether each of the three has a checkpoint that has some events."""
    return all(any(at.offset for at in newest(paths, node).positions) for node in KILLED)


def told(paths: Paths, at: tuple[Applied, ...], topic: str, kind: type[T]) -> list[T]:
    """Return what a journal tells on *topic*, up to where the checkpoint says it has it."""
    [(node, _, offset)] = at
    reader = Reader(paths.state / JOURNALS / f"{node}.sqlite3")
    try:
        records = [record for record in reader.read() if record.offset <= offset]
    finally:
        reader.close()
    assert records[-1].offset == offset
    return [
        envelope.decode_value(envelope.decode_event(record.frame).payload, kind)
        for record in records
        if record.topic.startswith(topic)
    ]


def assert_checkpoints_agree_with_journals(paths: Paths) -> None:
    found = newest(paths, "analysis")
    past = History(2_000, ())
    past.begin(told(paths, found.positions, "md.bar.", Bar))
    again = History(2_000, ())
    again.begin(History.saved(found.state))
    assert list(again.bars()) == list(past.bars()) != []

    found = newest(paths, "risk")
    limits = Limits(Decimal(1), Decimal(1), 1, 1, 1)
    whole, restored = Gatekeeper(limits), Gatekeeper(limits)
    for change in told(paths, found.positions, "order.", OrderEvent):
        whole.handle(change, 0.0)
    restored.restore(found.state)
    restored.check()
    assert restored.orders == whole.orders != {}
    assert (restored.working, restored.held) == (whole.working, whole.held)

    found = newest(paths, "strategy.ema")
    held: dict[str, Decimal] = {}
    for fill in told(paths, found.positions, "fill.", Fill):
        signed = fill.quantity if fill.side is BUY else -fill.quantity
        held[fill.instrument] = held.get(fill.instrument, Decimal(0)) + signed
    assert {key: parse(text) for key, text in found.state["positions"].items()} == held != {}


def logged(paths: Paths) -> list[str]:
    """Return the names of what the killed have logged."""
    lines = [json.loads(line) for line in (paths.logs / "app.log").read_text().splitlines()]
    return [line["event"] for line in lines if line["node"] in KILLED]


def started(paths: Paths, times: int) -> bool:
    return logged(paths).count("started") == times * len(KILLED)


async def trades(mesh: Client) -> None:
    """Return after the next fill: all three have a part in it."""
    known: list[int] = []

    async def more() -> bool:
        known.append(len(await pages(mesh, "execution.fills")))
        return known[-1] > known[0]

    await wait_for(more, "it trades")


async def test_f23_killed_at_any_time_they_go_on_from_what_they_had(
    trading: Trading, paths: Paths
) -> None:
    dice = Random(SEED)
    async with Client(paths) as mesh:
        await trades(mesh)
        until(lambda: all_saved(paths))
        for kills in range(1, KILLS + 1):
            await asyncio.sleep(2 * dice.random())  # at any time: between two saves, or in one
            trading.kill(*KILLED)
            assert_checkpoints_agree_with_journals(paths)
            trading.start(*KILLED)
            until(partial(started, paths, kills + 1))
    trading.stop(*KILLED)
    assert_checkpoints_agree_with_journals(paths)
    wrong = {"CHECKPOINT_REJECTED", "OFFSET_GONE", "position_adopted", "log_notice"}
    assert not wrong.intersection(logged(paths))
