"""`genesis trace`: the hops of an order from journals on disk, in order of time."""

import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from mesh.cli import genesis, waterfall
from mesh.cli.failures import NOT_FOUND, NOT_RUNNING
from mesh.protocol import envelope
from mesh.protocol.cause import Cause
from mesh.protocol.commits import GroupCommit, Wish
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.storage.journal import Journal
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import BUY
from nodes.domain.orders import (
    FILLED,
    PENDING,
    Fill,
    Order,
    OrderEvent,
    OrderIntent,
    OrderKind,
    VenueReport,
)

COID = "ema-1-1"
TICK = Event(
    "md.trade.X", 0, envelope.node_id("genesis", "market_data"), 5, 77, b"", ts_recv=1_000
)
INTENT = OrderIntent(
    COID, "ema", 1, "paper", "X", BUY, OrderKind.MARKET, Decimal("0.01"), ts_created=3_000
)
FILL = Fill(
    "paper", "f1", COID, "v1", "ema", "X", BUY, Decimal(9), Decimal("0.01"), Decimal(0), "U", "T"
)


class Disk:
    """Journals of nodes, written as they would."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for place in ("state/journals", "state/epochs"):
            (home / place).mkdir(parents=True)
        for node in ("market_data", "strategy.ema"):
            (home / "state/epochs" / node).write_text("1")

    def write(self, node: str, *said: tuple[str, object, int, Cause | None]) -> list[Event]:
        """Store events (topic, value, ts_sent, cause) of *node*; return them as stored."""
        (self.home / "state/epochs" / node).write_text("1")
        out = Outbound(envelope.node_id("genesis", node), 5, 4096)
        journal = Journal(self.home / f"state/journals/{node}.sqlite3")
        commits: GroupCommit[int] = GroupCommit(out, node, journal.log_id, 1, 0)
        events = tuple(
            out.traced(Event(topic, 1, 0, 0, 0, envelope.encode_value(value), ts_sent=at), cause)
            for topic, value, at, cause in said
        )
        commits.add(Wish(1, events))
        group = commits.group()
        assert group is not None
        journal.append(group)
        journal.close()
        return [envelope.decode_event(record.frame) for record in group.records]

    def trace(self, *words: str) -> "tuple[int, str, str]":
        environment = {"GENESIS_HOME": str(self.home)}
        result = CliRunner().invoke(
            genesis, ["trace", *words], prog_name="genesis", env=environment
        )
        return result.exit_code, result.stdout, result.stderr

    def hops(self, order: str = COID) -> list[tuple[str, str, int]]:
        code, out, err = self.trace(order, "--json")
        assert code == 0, err
        return [(hop["node"], hop["what"], hop["t_ns"]) for hop in json.loads(out)["hops"]]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def asked(before: Event, node: str, method: str) -> Cause:
    """Return the cause of what a handler does whom *node* asked because of *before*."""
    cause = before.follows()
    return Cause(
        cause.trace, envelope.node_id("genesis", node), 5, 9, method, cause.ts_recv
    )  # the request itself is on no disk


def traded(disk: Disk) -> Event:
    """Write what an order leaves behind; return the bar that it follows from."""
    (bar, *_) = disk.write(
        "analysis",
        ("md.bar.1s.X", ["X"], 2_000, TICK.follows()),
        ("md.bar.1m.Y", ["Y"], 2_100, None),
    )
    decision = RiskDecision(COID, "ema", approved=True)
    disk.write("risk", ("risk.decision.ema", decision, 4_000, asked(bar, "strategy.ema", "r")))
    placed = asked(bar, "execution", "venue.place")
    (_, report) = disk.write(
        "paper_venue",
        ("venue.intent.paper", INTENT, 6_000, placed),
        ("venue.report.paper", VenueReport("fill", COID, "v1", fill=FILL), 7_000, placed),
    )
    done = report.follows()
    disk.write(
        "execution",
        ("order.paper", OrderEvent("rec", Order(INTENT, PENDING)), 5_000, asked(bar, "risk", "e")),
        ("fill.paper", FILL, 8_000, done),
        ("acct.ledger.paper", ["paper"], 8_001, done),
        ("order.paper", OrderEvent("full", Order(INTENT, FILLED)), 8_002, done),
    )
    return bar


def test_an_order_is_followed_from_the_market_event_to_its_fill(disk: Disk) -> None:
    traded(disk)
    assert disk.hops() == [
        ("market_data", "md.trade.X", 1_000),
        ("analysis", "md.bar.1s.X", 2_000),
        ("strategy.ema", "intent BUY 0.01 X", 3_000),
        ("risk", "risk.decision.ema approved", 4_000),
        ("execution", "order.paper rec PENDING", 5_000),
        ("paper_venue", "venue.intent.paper BUY 0.01 X", 6_000),
        ("paper_venue", "venue.report.paper fill", 7_000),
        ("execution", "fill.paper BUY 0.01 at 9", 8_000),
        ("execution", "order.paper full FILLED", 8_002),
    ]


def test_json_has_exactly_what_is_documented(disk: Disk) -> None:
    traded(disk)
    told = json.loads(disk.trace(COID, "--json")[1])
    assert set(told) == {"order_id", "hops"}
    assert told["order_id"] == COID
    assert {tuple(hop) for hop in told["hops"]} == {("node", "what", "t_ns", "us_since_previous")}
    assert [hop["us_since_previous"] for hop in told["hops"][:3]] == [0.0, 1.0, 1.0]


def test_people_see_a_line_for_each_hop_further_right_the_later_it_is(disk: Disk) -> None:
    traded(disk)
    code, out, _ = disk.trace(COID)
    lines = out.splitlines()[1:]
    assert code == 0
    assert [line.split()[0] for line in lines[:3]] == ["market_data", "analysis", "strategy.ema"]
    columns = [line.rindex("*") for line in lines]
    assert columns == sorted(columns)
    assert columns[-1] - columns[0] == 30
    assert "00:00:00.000001" in lines[0]


def test_other_orders_of_the_same_trace_are_not_told_of(disk: Disk) -> None:
    bar = traded(disk)
    denied = RiskDecision("ema-1-2", "ema", approved=False, code="SAFE", detail=f"not {COID}")
    (disk.home / "state/journals/risk.sqlite3").unlink()
    disk.write("risk", ("risk.decision.ema", denied, 4_000, asked(bar, "strategy.ema", "r")))
    assert all(node != "risk" for node, _, _ in disk.hops())
    assert disk.hops("ema-1-2")[-1] == (
        "risk",
        f"risk.decision.ema denied SAFE: not {COID}",
        4_000,
    )


def test_a_fill_by_a_later_market_event_names_that_one_too(disk: Disk) -> None:
    traded(disk)
    later = msgspec.structs.replace(TICK, seq=99, ts_recv=9_000)
    (disk.home / "state/journals/paper_venue.sqlite3").unlink()
    report = VenueReport("fill", COID, "v1", fill=FILL)
    disk.write("paper_venue", ("venue.report.paper", report, 9_500, later.follows()))
    assert disk.hops()[-2:] == [
        ("market_data", "md.trade.X", 9_000),
        ("paper_venue", "venue.report.paper fill", 9_500),
    ]


def test_a_first_event_that_nobody_names_still_has_its_time(disk: Disk) -> None:
    quote = msgspec.structs.replace(TICK, topic="md.quote.X")
    decision = RiskDecision(COID, "ema", approved=True)
    disk.write("risk", ("risk.decision.ema", decision, 4_000, asked(quote, "strategy.ema", "r")))
    assert disk.hops() == [
        ("", "first cause", 1_000),
        ("risk", "risk.decision.ema approved", 4_000),
    ]


def test_records_without_causes_and_of_other_shapes_do_no_harm(disk: Disk) -> None:
    disk.write(
        "execution",
        ("order.paper", OrderEvent("rec", Order(INTENT, PENDING)), 5_000, None),
        ("order.paper", [COID], 5_001, None),
        ("fill.paper", COID, 5_002, None),
        ("x.note", [COID], 5_003, None),
    )
    assert [hop[1:] for hop in disk.hops()] == [
        ("intent BUY 0.01 X", 3_000),
        ("order.paper rec PENDING", 5_000),
    ]


def test_an_order_that_no_journal_names_is_7_and_one_line(disk: Disk) -> None:
    traded(disk)
    code, out, err = disk.trace("ema-9-9")
    assert (code, out) == (NOT_FOUND, "")
    assert err.startswith("genesis: no journal here names the order 'ema-9-9'")
    assert err.count("\n") == 1


def test_where_nothing_ever_ran_it_is_3(disk: Disk) -> None:
    assert disk.trace(COID)[0] == NOT_RUNNING


def test_places_of_fields_are_those_of_the_types() -> None:
    def place(kind: type, name: str) -> int:
        fields: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]  # a Struct
        return fields.index(name)

    assert [
        place(OrderIntent, name)
        for name in ("strategy", "side", "quantity", "instrument", "ts_created")
    ] == [
        *(waterfall._STRATEGY, waterfall._SIDE, waterfall._QUANTITY),
        *(waterfall._INSTRUMENT, waterfall._CREATED),
    ]
