"""The host: events in, actions out, positions exact over failures and restarts."""

from decimal import Decimal
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.protocol.commits import Applied
from mesh.storage.checkpoint import Checkpointer
from nodes.domain.accounts import Position
from nodes.domain.market import BUY, SELL, Bar, Quote, Side
from nodes.domain.numbers import ZERO, canon
from nodes.domain.orders import (
    CANCELED,
    FILLED,
    OPEN,
    REJECTED,
    Fill,
    Order,
    OrderEvent,
    OrderIntent,
    OrderState,
)
from nodes.domain.plain import plain
from nodes.strategy.host import (
    SCHEMA,
    SETTLE_S,
    Host,
    parse_bars,
    parse_params,
    upgrade_offsets,
)
from nodes.strategy.sdk import SMA, Action, Context, Params, State, Strategy, Submit

BTC = "BTC-USDT.SYNTHETIC"
ONE = Decimal(1)


class WishParams(Params, frozen=True):
    quantity: Decimal = ONE
    bars: int = 2


class WishState(State):
    seen: int = 0


class Wish(Strategy):
    """Wants to hold its quantity; raises when a bar closes at 13."""

    P = WishParams
    S = WishState

    def on_start(self, ctx: Context) -> None:
        self.average = ctx.indicator(BTC, "1s", SMA(self.p.bars))
        self.heard: list[str] = []

    def on_bar(self, ctx: Context, bar: Bar) -> None:
        self.s.seen += 1
        ctx.target(BTC, self.p.quantity)
        if bar.close == 13:
            raise ZeroDivisionError("unlucky")

    def on_fill(self, ctx: Context, fill: Fill) -> None:
        self.heard.append(f"fill {canon(ctx.position(BTC))}")

    def on_order(self, ctx: Context, event: OrderEvent) -> None:
        self.heard.append(event.event)


def bar(n: int, close: int = 100, instrument: str = BTC) -> Bar:
    price = Decimal(close)
    times = n * 10**9, (n + 1) * 10**9
    return Bar(instrument, "1s", *times, price, price, price, price, ONE, price, ONE, 1)


def fresh(epoch: int = 1, kind: type[Strategy] = Wish) -> Host:
    host = Host(kind, name="wish", epoch=epoch, account="paper", params={})
    assert host.start(0) == []
    return host


def warmed(epoch: int = 1) -> Host:
    host = fresh(epoch)
    host.warm([bar(0), bar(1)])
    return host


def one_intent(actions: list[Action]) -> OrderIntent:
    (action,) = actions
    assert isinstance(action, Submit)
    return action.intent


def sent(host: Host, n: int = 2) -> OrderIntent:
    intent = one_intent(host.bar(bar(n), 0))
    host.sent(intent.client_order_id)
    return intent


def fill_of(intent: OrderIntent, quantity: str = "1", side: Side = BUY) -> Fill:
    names = "paper", quantity, intent.client_order_id, "v1", intent.strategy, BTC, side
    return Fill(*names, Decimal(100), Decimal(quantity), Decimal(0), "USDT", "TAKER")


def event_of(intent: OrderIntent, event: str, state: OrderState) -> OrderEvent:
    return OrderEvent(event, Order(intent, state))


def test_on_bar_runs_only_when_the_series_is_warm() -> None:
    host = fresh()
    assert host.state == "WARMING"
    assert host.bar(bar(0), 0) == []
    assert one_intent(host.bar(bar(1), 7)).ts_created == 7
    assert host.state == "RUNNING"


def test_past_bars_join_the_live_ones_whatever_comes_first() -> None:
    early, late = fresh(), fresh()
    early.warm([bar(0, 10), bar(1, 20)])
    early.bar(bar(2, 40), 0)
    late.bar(bar(2, 40), 0)
    late.warm([bar(0, 10), bar(1, 20), bar(2, 40)])
    for host in (early, late):
        assert isinstance(host.strategy, Wish)
        assert host.strategy.average.value == 30.0
        assert [b.open_ts for b in host.ctx.series[BTC, "1s"].bars] == [0, 10**9, 2 * 10**9]


def test_old_and_foreign_bars_are_ignored() -> None:
    host = warmed()
    assert host.bar(bar(1), 0) == []
    assert host.bar(bar(9, instrument="X"), 0) == []
    host.warm([bar(0, instrument="X")])
    assert list(host.ctx.series) == [(BTC, "1s")]


def test_a_working_order_is_not_asked_for_twice() -> None:
    host = warmed()
    sent(host)
    assert host.bar(bar(3), 0) == []


@pytest.mark.parametrize("fill_first", [True, False])
def test_position_and_working_order_change_together(fill_first: bool) -> None:
    host = warmed()
    intent = sent(host)
    fill, full = fill_of(intent), event_of(intent, "full", FILLED)
    if fill_first:
        host.fill(fill, 0, 0.0)
        assert host.ctx.exposure(BTC) == ONE
        host.order(full, 0, 0.0)
    else:
        host.order(full, 0, 0.0)
        assert host.ctx.exposure(BTC) == ONE
        host.fill(fill, 0, 0.0)
    assert (host.ctx.position(BTC), host.ctx.working) == (ONE, {})
    assert host.bar(bar(3), 0) == []
    assert isinstance(host.strategy, Wish)
    assert sorted(host.strategy.heard) == ["fill 1", "full"]


def test_partial_fills_leave_the_rest_working() -> None:
    host = warmed()
    intent = sent(host)
    host.fill(fill_of(intent, "0.4"), 0, 0.0)
    assert host.ctx.working[intent.client_order_id].remaining == Decimal("0.6")
    host.order(event_of(intent, "cxl", CANCELED), 0, 0.0)
    assert host.ctx.working == {}
    assert one_intent(host.bar(bar(3), 0)).quantity == Decimal("0.6")


def test_a_rejected_order_is_asked_for_again_under_a_new_id() -> None:
    host = warmed()
    intent = sent(host)
    host.order(event_of(intent, "ref", REJECTED), 0, 0.0)
    assert one_intent(host.bar(bar(3), 0)).client_order_id != intent.client_order_id


def test_events_of_other_strategies_change_nothing() -> None:
    host = warmed()
    other = Context("other", 1, "paper")
    other.buy(BTC, ONE)
    intent = one_intent(other.actions)
    host.fill(fill_of(intent), 0, 0.0)
    host.order(event_of(intent, "ack", OPEN), 0, 0.0)
    assert host.ctx.positions == {}
    assert isinstance(host.strategy, Wish)
    assert host.strategy.heard == []


def test_fills_of_an_earlier_run_count_but_are_no_news() -> None:
    old = sent(warmed(epoch=1))
    host = warmed(epoch=2)
    host.fill(fill_of(old), 0, 0.0)
    assert host.ctx.position(BTC) == ONE
    assert isinstance(host.strategy, Wish)
    assert host.strategy.heard == []


def test_a_dropped_intent_frees_its_exposure_unless_execution_knows_it() -> None:
    host = warmed()
    denied = sent(host)
    assert host.drop(denied.client_order_id, "LIMIT: too large")
    assert host.ctx.exposure(BTC) == 0
    assert host.status(0).reason == "LIMIT: too large"
    known = sent(host, 3)
    host.order(event_of(known, "rec", OPEN), 0, 0.0)
    assert not host.drop(known.client_order_id, "no answer")
    assert host.ctx.exposure(BTC) == ONE


def test_a_raising_hook_leaves_no_trace_and_three_in_a_row_end_the_acting() -> None:
    host = warmed()
    for n in range(2, 5):
        assert host.bar(bar(n, 13), 0) == []
        assert host.strategy.s.seen == 0
        assert host.ctx.working == {}
    assert host.state == "OBSERVE"
    assert "ZeroDivisionError: unlucky" in host.status(0).reason
    assert host.bar(bar(5), 0) == []
    assert host.ctx.working == {}


def test_a_good_hook_ends_a_row_of_failures() -> None:
    host = warmed()
    for n, close in enumerate((13, 13, 100, 13, 13), 2):
        host.bar(bar(n, close), 0)
    assert host.state == "RUNNING"
    assert host.failures == 4


def test_a_paused_strategy_sees_and_does_not_act() -> None:
    host = warmed()
    host.paused = True
    assert host.bar(bar(2), 0) == []
    assert (host.state, host.strategy.s.seen, host.ctx.working) == ("PAUSED", 1, {})


def test_quotes_of_followed_instruments_are_at_hand() -> None:
    host = warmed()
    quote = Quote(BTC, Decimal(9), ONE, Decimal(10), ONE)
    assert host.quote(quote, 0) == []
    assert host.ctx.quote(BTC) is quote
    host.quote(Quote("X", Decimal(9), ONE, Decimal(10), ONE), 0)
    assert host.ctx.quote("X") is None


def test_a_symbol_alone_follows_the_first_venue_that_shows_it() -> None:
    class Anywhere(Wish):
        def on_start(self, ctx: Context) -> None:
            self.average = ctx.indicator("BTC-USDT.", "1s", SMA(2))

    host = fresh(kind=Anywhere)
    assert not host.meet("ETH-USDT.SYNTHETIC")
    assert host.meet(BTC)
    assert not host.meet("BTC-USDT.BINANCE")
    host.warm([bar(0), bar(1)])
    assert one_intent(host.bar(bar(2), 0)).instrument == BTC


def test_a_strategy_that_cannot_start_is_a_configuration_error() -> None:
    class Broken(Strategy):
        def on_start(self, ctx: Context) -> None:
            raise KeyError("x")

    host = Host(Broken, name="b", epoch=1, account="paper", params={})
    with pytest.raises(ConfigError, match="KeyError"):
        host.start(0)


def test_a_restart_restores_everything_that_was_saved() -> None:
    host = warmed()
    intent = sent(host)
    host.fill(fill_of(intent, "0.25"), 0, 0.0)
    again = warmed(epoch=2)
    again.restore(host.snapshot())
    assert again.snapshot() == host.snapshot()
    assert again.unseen() == (intent.client_order_id,)
    assert again.bar(bar(2), 0) == []
    again.fill(fill_of(intent, "0.75"), 0, 0.0)
    assert again.ctx.position(BTC) == ONE
    assert isinstance(again.strategy, Wish)
    assert again.strategy.heard == ["fill 1"]
    again.forget_orders()
    assert (again.ctx.position(BTC), again.unseen()) == (ZERO, ())


# A checkpoint of strategy.ema as schema 1 wrote it, with the offsets in its state.
FIRST_SCHEMA = bytes.fromhex(
    "474e434b02000100000001000000000000000000000000000000667273c84b1785cfb600000082a573746174"
    "6587a776657273696f6e01a5737461746581a5666c69707300a9706f736974696f6e7381b24254432d555344"
    "542e53594e544845544943a52d302e3032a7776f726b696e6781a7656d612d332d3892b24254432d55534454"
    "2e53594e544845544943a4302e3031a6756e7365656e91a7656d612d332d38a6706175736564c2a76f666673"
    "65747381a9657865637574696f6e92b03031323334353637383961626364656629a9706f736974696f6e7390"
    "8a01b1bb"
)


def test_checkpoint_of_the_first_schema_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "strategy.ema.1.ckpt").write_bytes(FIRST_SCHEMA)
    files = Checkpointer("strategy.ema", tmp_path, schema=SCHEMA, upgrades={1: upgrade_offsets})
    found = files.restore()
    assert found is not None
    assert found.positions == (Applied("execution", "0123456789abcdef", 41),)
    host = Host(Strategy, name="ema", epoch=4, account="paper", params={})
    host.restore({**found.state, "state": {}})
    assert host.ctx.positions == {BTC: Decimal("-0.02")}
    assert host.ctx.working["ema-3-8"].remaining == Decimal("0.01")
    assert host.unseen() == ("ema-3-8",)
    assert host.snapshot() == {**found.state, "state": {}}


def test_a_state_that_no_longer_fits_is_a_configuration_error() -> None:
    saved = fresh().snapshot() | {"state": {"other": 1}}
    with pytest.raises(ConfigError, match="State"):
        fresh().restore(saved)


def test_execution_is_believed_once_all_is_quiet() -> None:
    host = warmed()
    intent = sent(host)
    host.report(Position("paper", "wish", BTC, Decimal(3)))
    host.report(Position("paper", "other", BTC, Decimal(9)))
    assert host.adopt(100.0) == {}, "an order works"
    host.fill(fill_of(intent), 0, 100.0)
    assert host.adopt(100.0 + SETTLE_S / 2) == {}, "its position may still be on the way"
    assert host.adopt(100.0 + SETTLE_S) == {BTC: (ONE, Decimal(3))}
    assert host.ctx.position(BTC) == 3
    host.fill(fill_of(intent, "2", SELL), 0, 200.0)
    assert host.ctx.position(BTC) == ONE


def test_status_tells_parameters_and_positions_as_text() -> None:
    host = warmed()
    host.fill(fill_of(sent(host)), 0, 0.0)
    status = host.status(42)
    assert (status.name, status.kind, status.ts_event) == ("wish", "Wish", 42)
    assert status.params == {"quantity": "1", "bars": "2"}
    assert status.positions == {BTC: "1"}
    assert (status.intents, status.working) == (1, 0)


@pytest.mark.parametrize("params", [{"quantity": 0.01}, {"what": 1}, {"quantity": "1e999"}])
def test_wrong_parameters_are_one_line(params: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_params(Wish, params)
    assert "\n" not in str(caught.value)
    assert "Wish" in str(caught.value)


def test_parameters_may_all_be_text_as_the_environment_gives_them() -> None:
    assert parse_params(Wish, {"bars": "5", "quantity": "0.5"}) == WishParams(
        quantity=Decimal("0.5"), bars=5
    )


def test_bars_come_back_from_their_plain_form() -> None:
    bars = [bar(1), bar(2, 7)]
    assert parse_bars(plain(bars)) == bars


def test_series_named_by_symbol_follows_the_first_venue_that_shows_it() -> None:
    class Anywhere(Wish):
        def on_start(self, ctx: Context) -> None:
            ctx.follow("BTC-USDT.", "1s")

    host = Host(Anywhere, name="any", epoch=1, account="paper", params={})
    host.start(0)
    assert not host.meet("BTC-USDC.X")
    assert host.meet("BTC-USDT.X")
    assert not host.meet("BTC-USDT.Y")
    assert list(host.ctx.series) == [("BTC-USDT.X", "1s")]
