"""A recorded market, replayed: orders, fills and the recorder's rows agree to the last decimal."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from mesh.runtime.client import Client
from mesh.runtime.settings import load_paths
from tests.system.books import assert_books_agree, pages, settle, wait_for
from tests.system.meshes import Mesh

pytestmark = [
    pytest.mark.system,
    pytest.mark.postgres,
    pytest.mark.timeout(150),  # eleven processes start, trade and drain
]


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return where the recorder writes: nothing for its SQLite file, or a new database."""
    if request.param == "sqlite":
        yield ""
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"mesh_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    yield server.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def assert_traced(mesh: Mesh, order: str) -> None:
    """Assert that a filled order is followed from the market to its last fill, in time."""
    hops = mesh.json("trace", order)["hops"]
    told = [(hop["node"], hop["what"].partition(".")[0].split()[0]) for hop in hops]
    times = [hop["t_ns"] for hop in hops]
    assert times == sorted(times)
    assert hops[0]["node"] == "market_data"
    wanted = [
        *[
            ("analysis", "md"),
            ("strategy.ema", "intent"),
            ("risk", "risk"),
            ("execution", "order"),
        ],
        *[("paper_venue", "venue"), ("execution", "fill")],
    ]
    firsts = [told.index(hop) for hop in wanted]
    assert firsts == sorted(firsts)
    assert hops[-1]["what"].endswith("FILLED")
    assert sum(hop["us_since_previous"] for hop in hops) * 1_000 == pytest.approx(
        times[-1] - times[0]
    )


async def test_replayed_captures_are_traded_on_and_the_books_agree(
    tmp_path: Path, data_dir: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = Mesh(tmp_path)
    mesh.environment["DATABASE_URL"] = database_url
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
            assert (tmp_path / "state/recorder.sqlite3").exists() is not bool(database_url)
            orders = await pages(client, "execution.orders")
            await asyncio.to_thread(assert_traced, mesh, orders[0]["intent"]["client_order_id"])
            assert {o["intent"]["instrument"] for o in orders} == {"BTC-USDT.BINANCE"}
    finally:
        await asyncio.to_thread(mesh.run, "down")
    assert mesh.processes() == []
    assert mesh.leftovers() == []
