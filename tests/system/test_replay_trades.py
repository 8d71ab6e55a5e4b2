"""A recorded market, replayed: orders, fills and the recorder's rows agree to the last decimal."""

import asyncio
from pathlib import Path

import pytest

from mesh.runtime.client import Client
from mesh.runtime.settings import load_paths
from tests.system.books import assert_books_agree, pages, settle, wait_for
from tests.system.meshes import Mesh

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(150),  # eleven processes start, trade and drain
]


async def test_replayed_captures_are_traded_on_and_the_books_agree(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(tmp_path)
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    files = sorted(str(path) for path in (data_dir / "binance_spot_raw").glob("btcusdt_*.gz"))
    words = ["up", "--detach", "--json", "--source", "replay", *files, "--speed", "10"]
    try:
        done = await asyncio.to_thread(mesh.run, *words)
        assert done.returncode == 0, done.stderr
        async with Client(load_paths()) as client:

            async def traded() -> bool:
                return len(await pages(client, "execution.fills")) >= 4

            await wait_for(traded, "four fills")
            await settle(client, load_paths())
            await assert_books_agree(client, load_paths())
            orders = await pages(client, "execution.orders")
            assert {o["intent"]["instrument"] for o in orders} == {"BTC-USDT.BINANCE"}
    finally:
        await asyncio.to_thread(mesh.run, "down")
    assert mesh.processes() == []
