"""Ledger: average cost, realized at flat equals the cash flow, money only by lines and fills."""

from decimal import Decimal

from nodes.domain.accounts import LedgerLine, Position
from nodes.domain.market import BUY, SELL, Side
from nodes.domain.orders import OPEN, Fill, Order, OrderIntent, OrderKind
from nodes.execution.ledger import Ledger, after_fill, currencies, reserve

D = Decimal
BTC = "BTC-USDT.BINANCE"
FLAT = Position("paper", "s", BTC)


def fill(side: Side, quantity: str, price: str, fee: str = "0", ccy: str = "USDT") -> Fill:
    return Fill(
        account="paper",
        fill_id=f"{side}{quantity}@{price}",
        client_order_id="s-1-1",
        venue_order_id="P1",
        strategy="s",
        instrument=BTC,
        side=side,
        price=Decimal(price),
        quantity=Decimal(quantity),
        fee=Decimal(fee),
        fee_ccy=ccy,
        liquidity="TAKER",
    )


def test_currencies_are_in_the_instrument_id() -> None:
    assert currencies("BTC-USDT.BINANCE") == ("BTC", "USDT")
    assert currencies("ETH-EUR-PERP.X") == ("ETH", "EUR")


def test_selling_part_realizes_its_share_of_the_cost() -> None:
    position = after_fill(after_fill(FLAT, fill(BUY, "2", "100")), fill(SELL, "1", "110"))
    assert (position.signed_quantity, position.cost, position.realized) == (D(1), D(100), D(10))


def test_fill_through_zero_closes_and_opens() -> None:
    position = after_fill(after_fill(FLAT, fill(BUY, "1", "100")), fill(SELL, "3", "90"))
    assert (position.signed_quantity, position.cost, position.realized) == (D(-2), D(-180), D(-10))


def test_short_gains_when_the_price_falls() -> None:
    position = after_fill(after_fill(FLAT, fill(SELL, "1", "100")), fill(BUY, "1", "90"))
    assert (position.signed_quantity, position.cost, position.realized) == (D(0), D(0), D(10))


def test_at_flat_realized_is_the_cash_flow_exactly() -> None:
    position = FLAT
    for step in (fill(BUY, "3", "100"), fill(SELL, "1", "33.33"), fill(SELL, "2", "0.01")):
        position = after_fill(position, step)
    assert position.realized == Decimal("33.33") + Decimal("0.02") - 300
    assert position.cost == 0


def test_quote_fee_is_kept_with_the_position_and_leaves_the_balance() -> None:
    ledger = Ledger()
    position = ledger.apply_fill(fill(BUY, "1", "100", fee="0.1"))
    assert position.fees_quote == Decimal("0.1")
    assert ledger.totals == {("paper", "BTC"): 1, ("paper", "USDT"): Decimal("-100.1")}
    assert ledger.held("paper", "s", BTC) == 1
    assert ledger.held("paper", "other", BTC) == 0


def test_line_counts_once() -> None:
    ledger = Ledger()
    amount, price = Decimal(50), Decimal(0)
    line = LedgerLine("paper", "", "TRANSFER", "", "USDT", amount, price, "opening-USDT")
    ledger.apply_line(line)
    ledger.apply_line(line)
    assert ledger.totals == {("paper", "USDT"): 50}


def test_working_orders_lock_what_they_need() -> None:
    def working(side: Side) -> Order:
        quantity, price = Decimal(3), Decimal(10)
        intent = OrderIntent("c", "s", 1, "paper", BTC, side, OrderKind.LIMIT, quantity, price)
        return Order(intent, OPEN, filled=Decimal(1))

    assert reserve(working(BUY)) == ("USDT", D(20))
    assert reserve(working(SELL)) == ("BTC", D(2))
    ledger = Ledger(totals={("paper", "USDT"): Decimal(100), ("x", "USDT"): Decimal(1)})
    (balance,) = ledger.balances("paper", [working(BUY)])
    assert (balance.total, balance.locked) == (D(100), D(20))
