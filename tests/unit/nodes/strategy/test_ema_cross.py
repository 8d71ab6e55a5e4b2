"""The worked example: long above, flat below. Never here: the host's own promises."""

from decimal import Decimal

from nodes.domain.market import BUY, SELL, Bar, Side
from nodes.domain.orders import Fill
from nodes.strategy.ema_cross import EmaCross
from nodes.strategy.host import Host
from nodes.strategy.sdk import Submit

BTC = "BTC-USDT.SYNTHETIC"
PARAMS = {"instrument": BTC, "interval": "1s", "quantity": "0.01", "fast": 2, "slow": 4}


def bar(n: int, close: int) -> Bar:
    price, one = Decimal(close), Decimal(1)
    return Bar(BTC, "1s", n, n + 1, price, price, price, price, one, price, one, 1)


def test_it_buys_on_the_way_up_and_sells_on_the_way_down() -> None:
    host = Host(EmaCross, name="ema", epoch=1, account="paper", params=PARAMS)
    host.start(0)
    asked: list[tuple[int, Side, Decimal]] = []
    for n, close in enumerate([9, 8, 7, 6, 7, 9, 12, 14, 13, 9, 6, 4, 3]):
        for action in host.bar(bar(n, close), 0):
            assert isinstance(action, Submit)
            intent = action.intent
            asked.append((n, intent.side, intent.quantity))
            numbers = Decimal(close), intent.quantity, Decimal(0)
            names = "paper", str(n), intent.client_order_id, "", "ema", BTC, intent.side
            host.fill(Fill(*names, *numbers, "USDT", "TAKER"), 0, 0.0)
    assert [side for _, side, _ in asked] == [BUY, SELL]
    assert {quantity for _, _, quantity in asked} == {Decimal("0.01")}
    assert host.strategy.s.flips == 2
    assert host.ctx.position(BTC) == 0
