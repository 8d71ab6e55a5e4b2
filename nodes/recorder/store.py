"""The tables and the SQL that SQLite and PostgreSQL both speak, and what a driver must offer.

Every statement may be run twice: rows of facts are kept as first seen, an order moves only
forward in its journal, an offset only grows. Money is text in its one spelling.

Never here: drivers, connections.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from mesh.errors import ConfigError, Invalid
from mesh.protocol.control import ModeChange
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import Bar
from nodes.domain.orders import Fill, OrderEvent
from nodes.domain.plain import plain

Row: TypeAlias = tuple[str, tuple[str | int, ...]]  # statement and its values
Origin: TypeAlias = tuple[str, str]  # node and log_id
Offsets: TypeAlias = Mapping[Origin, int]
Page: TypeAlias = tuple[list[dict[str, Any]], str | None]  # items, cursor of the next page
Migration: TypeAlias = tuple[int, list[str]]  # version and its statements

PAGE_MAX: Final = 500  # rows of an answer, which is one frame of at most 256 KiB

SCHEMA_VERSION: Final = (
    "create table if not exists schema_version (version bigint primary key, ts bigint not null)"
)
VERSION: Final = "select coalesce(max(version), 0) from schema_version"
MIGRATED: Final = "insert into schema_version (version, ts) values (?, ?)"
ALL_OFFSETS: Final = "select node, log_id, log_offset from offsets"
OFFSET: Final = (
    "insert into offsets (node, log_id, log_offset) values (?, ?, ?)"
    " on conflict (node, log_id) do update set log_offset = excluded.log_offset"
    " where excluded.log_offset > offsets.log_offset"
)


class Table(NamedTuple):
    """A table of facts: its columns, its key, and how people page through it, newest first."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    time: str
    order: str  # expression that breaks ties of time; text

    @property
    def insert(self) -> str:
        """Return the statement that keeps a row as first seen."""
        marks = ", ".join("?" * len(self.columns))
        names, key = ", ".join(self.columns), ", ".join(self.key)
        return (
            f"insert into {self.name} ({names}) values ({marks})"  # noqa: S608 # our own names
            f" on conflict ({key}) do nothing"
        )


def _table(name: str, columns: str, key: str, time: str, order: str) -> Table:
    return Table(name, tuple(columns.split()), tuple(key.split()), time, order)


ORDERS: Final = _table(
    "orders",
    "client_order_id strategy account instrument side kind tif quantity price state"
    " venue_order_id filled notional reason ts_created ts_state log_id log_offset",
    "client_order_id",
    "ts_created",
    "client_order_id",
)
ORDER_EVENTS: Final = _table(
    "order_events",
    "node log_id log_offset client_order_id event state filled reason ts_state",
    "node log_id log_offset",
    "ts_state",
    "node || ' ' || log_id || ' ' || cast(log_offset as text)",
)
FILLS: Final = _table(
    "fills",
    "account fill_id client_order_id venue_order_id strategy instrument side price quantity"
    " fee fee_ccy liquidity ts_event",
    "account instrument fill_id",
    "ts_event",
    "account || ' ' || instrument || ' ' || fill_id",
)
DECISIONS: Final = _table(
    "decisions",
    "client_order_id strategy approved code detail mode_epoch ts_decided",
    "client_order_id",
    "ts_decided",
    "client_order_id",
)
BARS: Final = _table(
    "bars",
    "instrument interval open_ts close_ts open high low close volume quote_volume taker_buy"
    " trades empty gap",
    "instrument interval open_ts",
    "close_ts",
    "instrument || ' ' || interval",
)
MODES: Final = _table(
    "modes",
    "term mode_epoch mode reason since by",
    "term mode_epoch",
    "since",
    "cast(term as text) || ' ' || cast(mode_epoch as text)",
)
TABLES: Final = {
    table.name: table for table in (ORDERS, ORDER_EVENTS, FILLS, DECISIONS, BARS, MODES)
}
_YES_NO: Final = frozenset({"approved", "empty", "gap"})
_INSERT: Final = {name: table.insert for name, table in TABLES.items()}
_MOVED: Final = (
    *("state", "venue_order_id", "filled", "notional", "reason", "ts_state"),
    *("log_id", "log_offset"),
)
_ORDER: Final = (
    _INSERT["orders"].removesuffix("nothing")
    + "update set "
    + ", ".join(f"{name} = excluded.{name}" for name in _MOVED)
    + " where excluded.log_id <> orders.log_id or excluded.log_offset > orders.log_offset"
)


class Store(Protocol):
    """A database; every method waits, and raises StorageError where the database fails."""

    def open(self) -> None:
        """Connect; forget an earlier connection."""

    def migrate(self, now_ns: int) -> int:
        """Bring the schema up to date, return its version. ConfigError if it is newer."""

    def write(self, rows: Sequence[Row], offsets: Offsets) -> None:
        """Write rows and offsets in one transaction; twice is once."""

    def offsets(self) -> dict[Origin, int]:
        """Return up to where each journal is in the database."""

    def page(self, what: str, limit: int, cursor: str | None) -> Page:
        """Return rows newest first, and the cursor of the next page."""

    def close(self) -> None:
        """Disconnect; twice is fine."""


def rows_of(value: object, *, node: str, log_id: str, offset: int) -> Iterator[Row]:
    """Yield the rows that tell of an event at *offset* of a journal."""
    if isinstance(value, OrderEvent):
        order = plain(value.order)
        facts = {**order.pop("intent"), **order}
        facts |= {"event": value.event, "node": node, "log_id": log_id, "log_offset": offset}
        yield _ORDER, _values(ORDERS, facts)
        yield _INSERT["order_events"], _values(ORDER_EVENTS, facts)
    elif isinstance(value, Fill):
        yield _INSERT["fills"], _values(FILLS, plain(value))
    elif isinstance(value, RiskDecision):
        yield _INSERT["decisions"], _values(DECISIONS, plain(value))
    elif isinstance(value, Bar):
        yield _INSERT["bars"], _values(BARS, plain(value))
    elif isinstance(value, ModeChange):
        yield _INSERT["modes"], _values(MODES, plain(value))


def migrations(folder: Traversable) -> list[Migration]:
    """Return the migrations in *folder*, files like 0001.sql, in order."""
    files = [item for item in folder.iterdir() if item.name.endswith(".sql")]
    return [
        (int(item.name.removesuffix(".sql")), statements(item.read_text(encoding="utf-8")))
        for item in sorted(files, key=lambda item: item.name)
    ]


def statements(text: str) -> list[str]:
    """Return the statements of a migration; each ends with a semicolon at the end of a line."""
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    parts = "\n".join([*lines, ""]).split(";\n")
    return [part.strip() for part in parts if part.strip()]


def missing(known: Sequence[Migration], version: int) -> list[Migration]:
    """Return what brings a database of *version* up to date. ConfigError if it is newer."""
    newest = known[-1][0] if known else 0
    if version > newest:
        raise ConfigError(
            f"the database has schema {version}, this program knows {newest}: update Genesis"
        )
    return [migration for migration in known if migration[0] > version]


def page_query(what: str, limit: int, cursor: str | None) -> tuple[str, tuple[str | int, ...]]:
    """Return the statement of a page, one row longer than asked. Raises Invalid."""
    table = TABLES.get(what)
    if table is None:
        raise Invalid(f"no history of {what!r}: there are {', '.join(TABLES)}")
    if not 1 <= limit <= PAGE_MAX:
        raise Invalid(f"a page has 1 to {PAGE_MAX} rows, not {limit}")
    where = ""
    values: tuple[str | int, ...] = ()
    if cursor is not None:
        time, _, order = cursor.partition("~")
        if not (time.isascii() and time.isdigit() and len(time) < 20 and order):
            raise Invalid("this cursor did not come from here")
        where = f" where ({table.time}, {table.order}) < (?, ?)"
        values = (int(time), order)
    names = ", ".join(table.columns)
    sql = (
        f"select {table.order}, {names} from {table.name}{where}"  # noqa: S608 # our own names
        f" order by {table.time} desc, {table.order} desc limit ?"
    )
    return sql, (*values, limit + 1)


def page_of(what: str, limit: int, found: Sequence[Sequence[Any]]) -> Page:
    """Return items and next cursor from the rows of :func:`page_query`."""
    table = TABLES[what]
    items = [
        {
            name: bool(value) if name in _YES_NO else value
            for name, value in zip(table.columns, row[1:], strict=True)
        }
        for row in found[:limit]
    ]
    more = len(found) > limit
    return items, f"{items[-1][table.time]}~{found[limit - 1][0]}" if more else None


def _values(table: Table, facts: Mapping[str, Any]) -> tuple[str | int, ...]:
    return tuple(
        int(facts[name]) if isinstance(facts[name], bool) else facts[name]
        for name in table.columns
    )
