"""Account: money moves by fills alone, and reserves are never promised twice."""

from decimal import Decimal

from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, SELL
from nodes.domain.orders import Fill
from nodes.paper_venue.account import Account, fee_of, reserve_of

D = Decimal
BTC = "BTC-USDT.BINANCE"
RATE = D("0.001")
INSTRUMENT = Instrument(
    BTC, "BTCUSDT", "BTC", "USDT", D("0.01"), D("0.01"), maker_fee=D(0), taker_fee=RATE
)


def test_fee_is_exact_or_below() -> None:
    assert fee_of(D(100), RATE) == D("0.1")
    assert fee_of(D("1e-10"), D("1.5e-8")) == D("1e-18")
    assert fee_of(D(100), D("-0.001")) == D("-0.1")


def test_buy_reserves_quote_and_fee_sell_reserves_base() -> None:
    assert reserve_of(INSTRUMENT, BUY, D(2), D(100)) == ("USDT", D("200.2"))
    assert reserve_of(INSTRUMENT, SELL, D(2), D(100)) == ("BTC", D(2))


def test_reserve_lowers_what_is_free_until_released() -> None:
    account = Account("paper", {"USDT": D(100)})
    account.hold("c", ("USDT", D(30)))
    assert account.free("USDT") == 70
    assert account.balances()[0].locked == 30
    account.check()
    account.hold("c", ("", D(0)))
    assert account.free("USDT") == 100
    assert account.free("ETH") == 0


def test_fill_moves_base_quote_and_fee() -> None:
    account = Account("paper", {"USDT": D(100), "BTC": D(0)})
    fill = Fill("paper", "P1-1", "c", "P1", "s", BTC, BUY, D(10), D(2), D("0.02"), "USDT", "TAKER")
    account.settle(fill, "BTC", "USDT")
    assert account.totals == {"USDT": D("79.98"), "BTC": D(2)}
