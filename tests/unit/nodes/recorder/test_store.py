"""Rows of events, pages and migrations: what both databases are given. Never here: drivers."""

import re
from decimal import Decimal
from importlib.resources import files

import pytest

from mesh.errors import ConfigError, Invalid
from mesh.protocol.control import ModeChange
from nodes.domain.market import BUY, Bar, Quote
from nodes.domain.orders import OPEN, Order, OrderEvent, OrderIntent, OrderKind
from nodes.recorder import store

MIGRATIONS = store.migrations(files("nodes.recorder") / "migrations")


def rows(value: object) -> list[store.Row]:
    return list(store.rows_of(value, node="execution", log_id="abc", offset=9))


def test_money_is_text_in_its_one_spelling() -> None:
    intent = OrderIntent(
        "ema-1-1", "ema", 1, "paper", "X", BUY, OrderKind.LIMIT, Decimal("0.10"), Decimal("1E-8")
    )
    (_, order), (_, event) = rows(OrderEvent("ack", Order(intent, OPEN)))
    facts = dict(zip(store.ORDERS.columns, order, strict=True))
    assert (facts["quantity"], facts["price"], facts["filled"]) == ("0.1", "0.00000001", "0")
    assert facts["state"] == "OPEN"
    assert event[:6] == ("execution", "abc", 9, "ema-1-1", "ack", "OPEN")


def test_every_value_is_text_or_a_whole_number() -> None:
    one = Decimal(1)
    bar = Bar("X", "1s", 1, 2, one, one, one, one, one, one, one, 1, empty=True)
    for _, values in rows(bar) + rows(ModeChange("safe", 2, 1, "why", 5, "me")):
        assert {type(value) for value in values} <= {str, int}


def test_what_is_not_kept_has_no_rows() -> None:
    one = Decimal(1)
    assert rows(Quote("X", one, one, Decimal(2), one)) == []


def test_the_schema_has_the_columns_that_are_written() -> None:
    text = "\n".join(statement for _, part in MIGRATIONS for statement in part)
    for table in store.TABLES.values():
        found = re.search(rf"create table {table.name} \((.*?)\n\)", text, re.DOTALL)
        assert found is not None
        columns = re.findall(r"^    (\w+) (?:text|bigint)", found[1], re.MULTILINE)
        assert sorted(columns) == sorted(table.columns)


def test_only_missing_migrations_are_applied() -> None:
    known: list[store.Migration] = [(1, ["a"]), (2, ["b"])]
    assert store.missing(known, 0) == known
    assert store.missing(known, 1) == [(2, ["b"])]
    assert store.missing(known, 2) == []


def test_a_newer_schema_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="update Genesis"):
        store.missing(MIGRATIONS, 10_000)


def test_statements_are_split_at_semicolons_that_end_a_line() -> None:
    assert store.statements("-- words;\ncreate a (\n x text);\n\ncreate b;\n") == [
        "create a (\n x text)",
        "create b",
    ]


@pytest.mark.parametrize(
    ("what", "limit", "cursor"),
    [
        ("users", 1, None),
        ("fills; drop table fills", 1, None),
        ("fills", 0, None),
        ("fills", 1_001, None),
        ("fills", 1, "x"),
        ("fills", 1, "1~"),
        ("fills", 1, "\u0661~a"),
    ],
)
def test_what_cannot_be_asked_is_refused(what: str, limit: int, cursor: str | None) -> None:
    with pytest.raises(Invalid):
        store.page_query(what, limit, cursor)


def test_a_page_ends_with_the_cursor_of_the_next_one() -> None:
    found = [(f"k{n}", f"k{n}", "ema", 1, "", "", 1, 10 - n) for n in range(3)]
    items, cursor = store.page_of("decisions", 2, found)
    assert [item["client_order_id"] for item in items] == ["k0", "k1"]
    assert items[0]["approved"] is True
    assert cursor == "9~k1"
    assert store.page_query("decisions", 2, cursor)[1] == (9, "k1", 3)
    assert store.page_of("decisions", 3, found)[1] is None
