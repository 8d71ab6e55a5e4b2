"""Trading: whatever happens, no money appears, no fill is better than the book, none counts twice.

A random market and random orders drive the exchange; its reports drive the desk, some of them
twice, some late. Both are rebuilt from what they said.
"""

from decimal import Decimal
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.domain.accounts import Balance
from nodes.domain.instruments import Instrument
from nodes.domain.market import BUY, SELL, BookSnapshot, Quote, Trade
from nodes.domain.orders import (
    WORKING,
    OrderIntent,
    OrderKind,
    OrderState,
    TimeInForce,
    VenueReport,
)
from nodes.execution.blotter import evidence_of
from nodes.execution.desk import Desk
from nodes.paper_venue.account import Account
from nodes.paper_venue.exchange import Exchange, Fact

D = Decimal
BTC = "BTC-USDT.SYNTHETIC"
OPENING = {"USDT": D(5_000), "BTC": D(5)}
INSTRUMENT = Instrument(
    BTC, "BTCUSDT", "BTC", "USDT", D(1), D("0.1"), maker_fee=D("0.0002"), taker_fee=D("0.001")
)
STATES = {state: "OPEN" if state in WORKING else state.value for state in OrderState}
Action: TypeAlias = tuple[Any, ...]

ticks = st.integers(90, 110).map(D)
sizes = st.integers(1, 40).map(lambda n: D(n) / 10)
sides = st.sampled_from((BUY, SELL))
actions = st.one_of(
    st.tuples(st.just("depth"), st.integers(92, 108), st.lists(sizes, min_size=6, max_size=6)),
    st.tuples(st.just("quote"), st.integers(92, 108), sizes, sizes),
    st.tuples(st.just("trade"), ticks, sizes, sides),
    st.tuples(st.just("market"), sides, sizes),
    st.tuples(st.just("limit"), sides, sizes, ticks, st.sampled_from(TimeInForce)),
    st.tuples(st.just("cancel"), st.integers(1, 20)),
)


class Market:
    """One exchange, with what an outsider can see of it."""

    def __init__(self) -> None:
        self.exchange = Exchange(Account("paper"))
        self.journal: list[Fact] = [*self.exchange.open_account(OPENING)]
        self.journal += self.exchange.handle(INSTRUMENT, 0)
        self.intents: list[OrderIntent] = []

    def act(self, now: int, action: Action) -> None:
        made = self._act(now, action)
        self.journal += made
        self.exchange.check()

    def _act(self, now: int, action: Action) -> tuple[Fact, ...]:
        match action:
            case ("depth", mid, amounts):
                bids = tuple((D(mid - 1 - i), q) for i, q in enumerate(amounts[:3]))
                asks = tuple((D(mid + 1 + i), q) for i, q in enumerate(amounts[3:]))
                return self.exchange.handle(BookSnapshot(BTC, now, bids, asks), now)
            case ("quote", mid, bid_size, ask_size):
                quote = Quote(BTC, D(mid - 1), bid_size, D(mid + 1), ask_size, now)
                return self.exchange.handle(quote, now)
            case ("trade", price, quantity, aggressor):
                return self.exchange.handle(Trade(BTC, str(now), price, quantity, aggressor), now)
            case ("cancel", number):
                return self.exchange.cancel(f"s-1-{number}", now).facts
            case ("market", side, quantity):
                return self._place(now, side, OrderKind.MARKET, quantity, D(0), TimeInForce.IOC)
            case (_, side, quantity, price, tif):
                return self._place(now, side, OrderKind.LIMIT, quantity, price, tif)
            case _:
                raise AssertionError(action)

    def _place(self, now: int, side: Any, kind: OrderKind, *rest: Any) -> tuple[Fact, ...]:
        coid = f"s-1-{len(self.intents) + 1}"
        intent = OrderIntent(coid, "s", 1, "paper", BTC, side, kind, *rest)
        self.intents.append(intent)
        book = self.exchange.books.get(BTC)
        best = {s: levels.copy() for s, levels in book.sides.items()} if book else {}
        facts = self.exchange.place(intent, now).facts
        for fact in facts:  # a taker pays a displayed price, and never more than displayed
            if isinstance(fact, VenueReport) and fact.fill:
                against = best[SELL if side is BUY else BUY]
                assert fact.fill.quantity <= against.pop(fact.fill.price)
        return facts

    def reports(self) -> list[VenueReport]:
        return [fact for fact in self.journal if isinstance(fact, VenueReport)]


def run(script: list[Action]) -> Market:
    market = Market()
    for now, action in enumerate([("depth", 100, [D(1)] * 6), *script], 1):
        market.act(now, action)
    return market


scripts = st.lists(actions, max_size=40)


@settings(max_examples=60, deadline=None)
@given(scripts)
def test_money_is_conserved(script: list[Action]) -> None:
    market = run(script)
    base, quote = OPENING["BTC"], OPENING["USDT"]
    for report in market.reports():
        if fill := report.fill:
            sign = 1 if fill.side is BUY else -1
            base += sign * fill.quantity
            quote -= sign * fill.quantity * fill.price + fill.fee
    assert market.exchange.account.totals == {"BTC": base, "USDT": quote}


@settings(max_examples=60, deadline=None)
@given(scripts)
def test_no_fill_is_beyond_its_limit_or_its_quantity(script: list[Action]) -> None:
    market = run(script)
    for intent in market.intents:
        fills = market.exchange.orders[intent.client_order_id].fills
        assert sum(fill.quantity for fill in fills) <= intent.quantity
        if intent.kind is OrderKind.LIMIT:
            worse = [f for f in fills if (f.price - intent.price) * (1, -1)[f.side is SELL] > 0]
            assert not worse


@settings(max_examples=60, deadline=None)
@given(scripts)
def test_replayed_exchange_is_the_live_one(script: list[Action]) -> None:
    market = run(script)
    again = Exchange(Account("paper"))
    for fact in market.journal:
        again.apply(fact)
    again.check()
    assert again.orders == market.exchange.orders
    assert again.account == market.exchange.account


@settings(max_examples=60, deadline=None)
@given(scripts, st.randoms(use_true_random=False))
def test_desk_agrees_with_the_venue_whatever_comes_twice(script: list[Action], dice: Any) -> None:
    market = run(script)
    desk = Desk("paper")
    said = [*desk.opening(Balance("paper", ccy, total) for ccy, total in OPENING.items())]
    for intent in market.intents:
        said += desk.record(intent, 0).said
    told: list[VenueReport] = []
    for report in market.reports():
        told.append(report)
        for evidence in [report, *dice.sample(told, min(2, len(told)))]:
            if evidence.event != "ref" or evidence is report:
                said += desk.take(evidence_of(evidence), 1).said
        desk.check()
    for balance in desk.balances():
        assert balance.total == market.exchange.account.totals[balance.ccy]
    for coid, placed in market.exchange.orders.items():
        order = desk.blotter.orders[coid]
        assert (STATES[order.state], order.filled) == (placed.status, placed.filled)
    again = Desk("paper")
    for _, record in said:
        again.apply(record)
    assert (again.blotter.orders, again.ledger) == (desk.blotter.orders, desk.ledger)
