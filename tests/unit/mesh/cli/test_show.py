"""What people see: tables that show exactly what was answered."""

import pytest

from mesh.cli import show
from mesh.cli.life import row, settings
from mesh.cli.nodes import event_line, unpack
from mesh.cli.trading import LISTS
from mesh.runtime.component import EventMeta


def test_a_table_shows_markup_and_long_values_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.table(("id", "quantity"), [("[red]x" + "y" * 200, "0.10"), (None, None)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "quantity"]
    assert first.split() == ["[red]x" + "y" * 200, "0.10"]
    assert second.split() == ["-", "-"]


def test_a_page_tells_how_to_get_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    show.items({"items": [{"ccy": "BTC"}], "next": "7"}, False, LISTS["balances"])
    assert capsys.readouterr().out.endswith("more: --cursor 7\n")


def test_json_is_the_answer_itself(capsys: pytest.CaptureFixture[str]) -> None:
    show.items({"items": [{"price": "1.10"}], "next": None}, True, LISTS["orders"])
    assert capsys.readouterr().out == '{"items":[{"price":"1.10"}],"next":null}\n'


def test_a_node_that_has_not_reported_yet_has_a_row() -> None:
    assert row({"node": "risk", "state": "JOINING"})[:2] == ("risk", "JOINING")


def test_options_travel_as_environment() -> None:
    assert settings("live:binance", [], None, safe_mode=True) == {
        "GENESIS__MARKET_DATA__SOURCE": "live:binance",
        "GENESIS__COORDINATOR__START_MODE": "safe",
    }
    assert settings(None, [], None, safe_mode=False) == {}


def test_an_event_is_one_line_of_json_whatever_its_payload() -> None:
    meta = EventMeta("x.a", "risk", 3, 4, 0, 0, 5)
    assert event_line(b"\x92\xa1b\xc4\x01\xff", 9, meta) == (
        '{"topic":"x.a","node":"risk","epoch":3,"seq":4,"offset":null,"ts":5,'
        '"snapshot":false,"schema":9,"data":["b","ff"]}'
    )


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x92\x01", b"\x01\x01"])
def test_what_is_no_messagepack_is_shown_in_hex(payload: bytes) -> None:
    assert unpack(payload) == {"hex": payload.hex()}
