"""Bars: exact sums on UTC multiples, contiguous, immutable. Never here: the mesh."""

import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from mesh.errors import Invalid
from nodes.analysis.bars import Bars, interval_ns
from nodes.domain.market import BUY, SELL, Bar, FeedState, Side, Trade, TradeKind

S = 1_000_000_000
BTC = "BTC-USDT.BINANCE"
START = 1_700_000_040 * S  # a whole minute


def trade(
    at_s: float,
    price: str = "100",
    quantity: str = "1",
    *,
    side: Side = BUY,
    trade_id: str = "",
    kind: TradeKind = TradeKind.MARKET,
) -> Trade:
    at = START + int(at_s * S)
    return Trade(BTC, trade_id, Decimal(price), Decimal(quantity), side, kind, at, at)


def make(*intervals: str, empty_max: int = 100) -> Bars:
    return Bars(intervals or ("1s",), delay_ns=S // 2, empty_max=empty_max)


def feed(bars: Bars, *trades: Trade) -> list[Bar]:
    return [bar for item in trades for bar in bars.apply(item)]


def started(*intervals: str) -> Bars:
    """Return bars whose first, partial one is behind them; second 0 is the next."""
    bars = make(*intervals)
    assert feed(bars, trade(-0.5), trade(0.6)) == []
    return bars


def test_first_partial_bar_is_dropped() -> None:
    bars = make()
    assert feed(bars, trade(0.1), trade(1.2), trade(1.6)) == []
    assert [bar.open_ts for bar in feed(bars, trade(2.5))] == [START + S]


def test_a_bar_sums_its_trades_exactly() -> None:
    bars = make()
    feed(bars, trade(-1))
    made = feed(
        bars,
        trade(0.0, "100.1", "0.1"),
        trade(0.5, "99.9", "0.2", side=SELL),
        trade(0.999, "100.3", "0.3"),
        trade(1.5, "1"),
    )
    assert len(made) == 1
    bar = made[0]
    assert (bar.open_ts, bar.close_ts) == (START, START + S)
    prices = (bar.open, bar.high, bar.low, bar.close)
    assert prices == tuple(map(Decimal, ("100.1", "100.3", "99.9", "100.3")))
    assert bar.volume == Decimal("0.6")
    assert bar.taker_buy == Decimal("0.4")
    assert bar.quote_volume == Decimal("60.08")
    assert (bar.trades, bar.empty, bar.gap) == (3, False, False)


def test_a_bar_waits_for_late_trades_and_then_counts_them() -> None:
    bars = started()
    assert feed(bars, trade(1.3, "105"), trade(0.9, "103")) == []
    (bar,) = feed(bars, trade(1.5))
    assert bar.close == Decimal(103)
    assert bars.late == 0
    assert feed(bars, trade(0.95, "200")) == []
    assert bars.late == 1


def test_silence_of_a_live_feed_is_an_empty_bar_at_the_last_close() -> None:
    bars = started()
    made = feed(bars, trade(0.9, "101"), trade(3.5, "110"))
    assert [(bar.empty, bar.close, bar.trades) for bar in made] == [
        (False, Decimal(101), 2),
        (True, Decimal(101), 0),
        (True, Decimal(101), 0),
    ]


def test_silence_of_a_stale_feed_is_a_gap() -> None:
    bars = started()
    bars.status(BTC, FeedState.STALE)
    made = feed(bars, trade(2.5))
    assert [(bar.empty, bar.gap) for bar in made] == [(False, True), (True, True)]


def test_no_bar_is_invented_while_the_feed_is_down() -> None:
    bars = started()
    bars.status(BTC, FeedState.DOWN)
    made = feed(bars, trade(2.6))
    bars.status(BTC, FeedState.LIVE)
    made += feed(bars, trade(3.6), trade(4.6))
    assert [bar.open_ts for bar in made] == [START, START + 2 * S, START + 3 * S]


def test_lost_trades_mark_the_bar() -> None:
    bars = started()
    made = feed(bars, trade(1, trade_id="7"), trade(1.2, trade_id="9"), trade(2.5))
    assert [bar.gap for bar in made] == [False, True]


def test_off_book_prints_never_enter_a_bar() -> None:
    bars = started()
    (bar,) = feed(bars, trade(0.9, "9", kind=TradeKind.OFF_BOOK), trade(1.5))
    assert bar.low == Decimal(100)


def test_time_passes_by_other_events_less_the_skew_of_the_venue_clock() -> None:
    bars = make()
    for at in (-0.5, 0.6):  # the venue's clock is 1.25 s ahead of ours
        ahead = trade(at)
        behind = ahead.ts_event - 5 * S // 4
        bars.apply(
            Trade(
                BTC, "", ahead.price, ahead.quantity, BUY, ts_event=ahead.ts_event, ts_recv=behind
            )
        )
    assert bars.hear(BTC, START + S // 4 - 1) == []
    assert [bar.open_ts for bar in bars.hear(BTC, START + S // 4)] == [START]


def test_longer_bars_are_sums_of_the_shortest() -> None:
    bars = make("1s", "5s")
    prices = [str(100 + (n * 7) % 11) for n in range(40)]
    made = feed(bars, *(trade(n / 2 - 3, price) for n, price in enumerate(prices)))
    long = [bar for bar in made if bar.interval == "5s"]
    assert [bar.open_ts for bar in long] == [START, START + 5 * S, START + 10 * S]
    for bar in long:
        parts = [b for b in made if b.interval == "1s" and bar.open_ts <= b.open_ts < bar.close_ts]
        assert len(parts) == 5
        assert bar.volume == sum(b.volume for b in parts)
        assert bar.high == max(b.high for b in parts)
        assert (bar.open, bar.close) == (parts[0].open, parts[-1].close)
        assert not bar.gap


def test_a_longer_bar_with_a_missing_part_has_a_gap() -> None:
    bars = make("1s", "5s")
    made = feed(bars, *(trade(n - 2 + 0.1) for n in range(4)))
    bars.status(BTC, FeedState.DOWN)
    made += feed(bars, trade(3.6))
    bars.status(BTC, FeedState.LIVE)
    made += feed(bars, *(trade(n + 4.1) for n in range(3)))
    assert [bar.gap for bar in made if bar.interval == "5s"] == [True]


def test_bars_of_an_earlier_run_are_not_published_again() -> None:
    first = started("1s", "5s")
    made = feed(first, *(trade(n / 2 + 1) for n in range(12)))
    second = make("1s", "5s")
    for bar in made:
        second.restore(bar)
    again = feed(second, *(trade(n / 2 + 1) for n in range(36)))
    assert {(bar.interval, bar.open_ts) for bar in made}.isdisjoint(
        (bar.interval, bar.open_ts) for bar in again
    )
    assert any(bar.interval == "5s" for bar in again)


def test_nothing_is_invented_for_the_time_before_a_restart() -> None:
    bars = make()
    bars.restore(started().apply(trade(1.5))[0])
    assert bars.hear(BTC, START + 20 * S) == []
    assert feed(bars, trade(30.1), trade(31.5)) == []
    assert [bar.open_ts for bar in feed(bars, trade(32.5))] == [START + 31 * S]


@pytest.mark.parametrize("jump_s", [100_000, -100_000])
def test_a_jump_of_the_source_is_a_new_beginning(jump_s: int) -> None:
    bars = started()
    assert feed(bars, trade(jump_s + 0.5), trade(jump_s + 1.6)) == []
    assert bars.restarts == 1
    assert [bar.open_ts for bar in feed(bars, trade(jump_s + 2.5))] == [START + (jump_s + 1) * S]


@pytest.mark.parametrize("interval", ["", "1", "s", "0s", "1w", "1.5m", "-1s", "\u0661s"])
def test_other_spellings_of_an_interval_are_refused(interval: str) -> None:
    with pytest.raises(Invalid):
        interval_ns(interval)


def test_an_interval_that_is_no_multiple_is_refused() -> None:
    with pytest.raises(Invalid, match="90s"):
        make("1m", "90s")
    assert interval_ns("1h") == 3_600 * S


def recorded(paths: list[Path]) -> Iterator[Trade]:
    for path in paths:
        with gzip.open(path) as lines:
            for line in lines:
                recv, _, text = line.partition(b" ")
                if b"@trade" in text:
                    d = json.loads(text)["data"]
                    numbers = Decimal(d["p"]), Decimal(d["q"])
                    side = SELL if d["m"] else BUY
                    at = d["T"] * 1_000_000
                    yield Trade(BTC, str(d["t"]), *numbers, side, ts_event=at, ts_recv=int(recv))


def test_recorded_minutes_equal_independent_candles(data_dir: Path) -> None:
    oracle = json.loads((data_dir / "oracle/binance_spot_ethusdt_20240808-09.json").read_text())
    files = [data_dir / "binance_spot_raw" / name for name in oracle["files"]]
    bars = make("1s", "1m", empty_max=1_000)
    made = [bar for bar in feed(bars, *recorded(files)) if bar.interval == "1m"]
    whole = oracle["candles_1m_by_trade_time"][1:-1]  # the recording cuts the outer ones
    assert len(made) == len(whole) > 5
    assert bars.late == 0
    for bar, candle in zip(made, whole, strict=True):
        ours = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.quote_volume)
        assert bar.open_ts == candle["t"] * 1_000_000
        assert ours == tuple(Decimal(candle[key]) for key in ("o", "h", "l", "c", "v", "qv"))
        assert not bar.empty
        assert not bar.gap
