"""The recorder's contract, on a SQLite file: a test per promise, the same for every database.

Never here: promises that only one database keeps.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from mesh.errors import ConfigError, StorageError
from mesh.protocol.control import ModeChange
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import BUY, Bar
from nodes.domain.orders import (
    FILLED,
    OPEN,
    Fill,
    Order,
    OrderEvent,
    OrderIntent,
    OrderKind,
    OrderState,
)
from nodes.recorder import store as sql
from nodes.recorder.sqlite import SqliteStore
from nodes.recorder.store import Row, Store

LOG = ("execution", "a1")
ONE = Decimal(1)


def rows(value: object, offset: int, log_id: str = LOG[1]) -> list[Row]:
    return list(sql.rows_of(value, node=LOG[0], log_id=log_id, offset=offset))


def order(name: str, state: OrderState, ts: int = 0) -> OrderEvent:
    kind = OrderKind.MARKET
    intent = OrderIntent(name, "ema", 1, "paper", "X", BUY, kind, ONE, ts_created=ts)
    return OrderEvent("ack", Order(intent, state, filled=ONE if state is FILLED else Decimal(0)))


def fill(number: int) -> Fill:
    ids = "paper", f"f{number}", "ema-1-1", "v1", "ema", "X"
    return Fill(*ids, BUY, Decimal("9.50"), ONE, Decimal(0), "USDT", "TAKER", ts_event=number)


def bar(n: int, interval: str = "1s") -> Bar:
    return Bar("X", interval, n, n + 1, ONE, ONE, ONE, ONE, ONE, ONE, ONE, 1, empty=n == 0)


def ids(store: Store, what: str, column: str) -> list[object]:
    return [item[column] for item in store.page(what, 500, None)[0]]


class RecorderContract:
    """What every database promises."""

    def test_everything_written_is_found(self, store: Store) -> None:
        decision = RiskDecision("ema-1-1", "ema", approved=False, code="LIMIT", detail="it's ?%s")
        change = ModeChange("safe", 2, 1, "why", 5, "me")
        events: list[object] = [order("ema-1-1", OPEN), fill(1), decision, bar(0), change]
        written = [row for at, value in enumerate(events, 1) for row in rows(value, at)]
        store.write(written, {LOG: len(events)})
        for what in sql.TABLES:
            assert len(store.page(what, 10, None)[0]) == 1, what
        assert store.offsets() == {LOG: 5}
        assert store.page("fills", 1, None)[0][0]["price"] == "9.5"
        found = store.page("decisions", 1, None)[0][0]
        assert (found["detail"], found["approved"]) == ("it's ?%s", False)
        assert store.page("bars", 1, None)[0][0]["empty"] is True

    def test_writing_twice_is_writing_once(self, store: Store) -> None:
        for _ in range(2):
            store.write(rows(fill(1), 1) + rows(order("ema-1-1", OPEN), 2), {LOG: 2})
        assert ids(store, "fills", "fill_id") == ["f1"]
        assert ids(store, "order_events", "event") == ["ack"]

    def test_an_order_moves_only_forward(self, store: Store) -> None:
        store.write(rows(order("a", FILLED), 5), {LOG: 5})
        store.write(rows(order("a", OPEN), 4), {LOG: 4})
        assert ids(store, "orders", "state") == ["FILLED"]
        assert store.offsets() == {LOG: 5}

    def test_a_new_journal_begins_its_own_offsets(self, store: Store) -> None:
        store.write(rows(order("a", OPEN), 5), {LOG: 5})
        store.write(rows(order("a", FILLED), 1, "b2"), {(LOG[0], "b2"): 1})
        assert ids(store, "orders", "state") == ["FILLED"]
        assert store.offsets() == {LOG: 5, (LOG[0], "b2"): 1}

    def test_a_failed_write_leaves_neither_rows_nor_offsets(self, store: Store) -> None:
        broken = [*rows(fill(1), 1), (sql.FILLS.insert, ("too", "few"))]
        with pytest.raises((StorageError, ValueError)):
            store.write(broken, {LOG: 2})
        assert ids(store, "fills", "fill_id") == []
        assert store.offsets() == {}
        store.write(rows(fill(1), 1), {LOG: 1})
        assert ids(store, "fills", "fill_id") == ["f1"]

    def test_pages_meet_without_holes_or_repeats(self, store: Store) -> None:
        bars = [bar(n, interval) for n in range(20) for interval in ("1s", "1m", "5m")]
        store.write([row for at, b in enumerate(bars) for row in rows(b, at)], {LOG: 60})
        seen: list[tuple[int, str]] = []
        cursor: str | None = None
        for _ in range(9):
            items, cursor = store.page("bars", 7, cursor)
            seen += [(item["open_ts"], item["interval"]) for item in items]
        assert cursor is None
        assert len(seen) == len(set(seen)) == 60
        assert [ts for ts, _ in seen] == sorted((ts for ts, _ in seen), reverse=True)

    def test_every_history_has_a_next_page(self, store: Store) -> None:
        modes = [ModeChange("safe", n, 1, "", 5, "") for n in range(3)]
        decisions = [RiskDecision(f"o{n}", "ema", approved=True) for n in range(3)]
        orders = [order(f"o{n}", OPEN) for n in range(3)]
        events: list[object] = [
            *modes,
            *decisions,
            *orders,
            *map(fill, range(3)),
            *map(bar, range(3)),
        ]
        store.write([row for at, e in enumerate(events, 1) for row in rows(e, at)], {LOG: 15})
        for what in sql.TABLES:
            first, cursor = store.page(what, 2, None)
            last, end = store.page(what, 2, cursor)
            assert (len(first), len(last), end) == (2, 1, None), what
            assert last[0] not in first

    def test_opening_again_finds_everything(self, store: Store) -> None:
        store.write(rows(fill(1), 1), {LOG: 1})
        store.close()
        with pytest.raises(StorageError):
            store.offsets()
        store.open()
        assert store.migrate(2) == 1
        assert store.offsets() == {LOG: 1}

    def test_a_newer_schema_is_refused_and_left_alone(self, store: Store) -> None:
        store.write([(sql.MIGRATED, (99, 0))], {})
        with pytest.raises(ConfigError, match="99"):
            store.migrate(3)
        store.write(rows(fill(1), 1), {LOG: 1})
        assert ids(store, "fills", "fill_id") == ["f1"]


class TestSqlite(RecorderContract):
    """The contract on a file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        made = SqliteStore(tmp_path / "recorder.sqlite3")
        made.open()
        assert made.migrate(1) == 1
        yield made
        made.close()


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="recorder database"):
        SqliteStore(tmp_path / "nowhere" / "x.sqlite3").open()
