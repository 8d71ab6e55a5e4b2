"""What a strategy can ask for. Never here: the host, the mesh."""

from decimal import Decimal

import pytest

from mesh.errors import Invalid
from nodes.domain.market import BUY, SELL
from nodes.domain.numbers import ZERO
from nodes.domain.orders import OrderKind
from nodes.strategy.sdk import Cancel, Context, Strategy, Submit, base36

BTC = "BTC-USDT.SYNTHETIC"


def context() -> Context:
    return Context("ema", 71, "paper")


def submitted(ctx: Context) -> list[Submit]:
    return [action for action in ctx.actions if isinstance(action, Submit)]


def test_order_ids_are_strategy_epoch_number_in_base_36() -> None:
    ctx = context()
    ids = [ctx.buy(BTC, Decimal(1)) for _ in range(36)]
    assert (ids[0], ids[9], ids[35]) == ("ema-1z-1", "ema-1z-a", "ema-1z-10")
    assert base36(0) == "0"


def test_an_order_is_market_unless_it_has_a_price() -> None:
    ctx = context()
    ctx.now_ns = 5
    ctx.buy(BTC, Decimal(2), reason="why")
    ctx.sell(BTC, Decimal(1), price=Decimal(70))
    market, limit = (action.intent for action in submitted(ctx))
    assert (market.kind, market.side, market.price) == (OrderKind.MARKET, BUY, ZERO)
    assert (market.reason, market.ts_created, market.account) == ("why", 5, "paper")
    assert (limit.kind, limit.side, limit.price) == (OrderKind.LIMIT, SELL, Decimal(70))


@pytest.mark.parametrize("quantity", ["0", "-1", "NaN", "Infinity"])
def test_an_order_without_quantity_is_refused(quantity: str) -> None:
    ctx = context()
    with pytest.raises(Invalid):
        ctx.buy(BTC, Decimal(quantity))
    assert ctx.actions == []


def test_target_asks_for_what_is_missing_with_working_orders_counted() -> None:
    ctx = context()
    ctx.positions[BTC] = Decimal("0.3")
    assert ctx.target(BTC, Decimal(1)) is not None
    assert ctx.exposure(BTC) == Decimal(1)
    assert ctx.target(BTC, Decimal(1)) is None
    ctx.target(BTC, Decimal("-0.5"))
    assert [(a.intent.side, a.intent.quantity) for a in submitted(ctx)] == [
        (BUY, Decimal("0.7")),
        (SELL, Decimal("1.5")),
    ]


def test_cancel_is_an_action() -> None:
    ctx = context()
    ctx.cancel("ema-1z-1")
    assert ctx.actions == [Cancel("ema-1z-1")]


def test_an_empty_strategy_asks_for_nothing() -> None:
    ctx = context()
    strategy = Strategy(Strategy.P(), Strategy.S())
    strategy.on_start(ctx)
    assert (ctx.actions, ctx.quote(BTC), ctx.position(BTC)) == ([], None, ZERO)
