"""The exchange: requests and market data in, facts out, state from facts alone.

Facts (opening balances, instruments, accepted intents, reports) are applied as they are made
and journaled by the node before anybody is told; replaying them gives the same exchange, apart
from the displayed books, which come anew.

Never here: time of its own, the journal, the mesh.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, NamedTuple, TypeAlias

from mesh.errors import Conflict
from nodes.domain.accounts import Balance
from nodes.domain.instruments import Instrument, InstrumentStatus
from nodes.domain.market import BUY, BookSnapshot, FeedState, FeedStatus, Level, Quote, Trade
from nodes.domain.numbers import EXACT, ZERO, add, is_multiple, mul
from nodes.domain.orders import (
    Fill,
    OrderIntent,
    OrderKind,
    TimeInForce,
    VenueOrder,
    VenueReport,
)
from nodes.paper_venue.account import Account, Reserve, fee_of, reserve_of
from nodes.paper_venue.matching import Book, Match, Resting

Fact: TypeAlias = Balance | Instrument | OrderIntent | VenueReport

LIMIT = OrderKind.LIMIT
MARKET = OrderKind.MARKET
ENDS: Final = {"ref": "REJECTED", "exp": "EXPIRED", "cok": "CANCELED"}
DEAD: Final = (FeedState.DOWN, FeedState.HALTED)

sub = EXACT.subtract


class Answer(NamedTuple):
    """The reply to a request, and the facts to journal before it is sent."""

    report: VenueReport
    facts: tuple[Fact, ...] = ()


@dataclass(slots=True)
class Placed:
    """An order at this venue. status: NEW OPEN FILLED CANCELED EXPIRED REJECTED."""

    intent: OrderIntent
    venue_order_id: str
    status: str = "NEW"
    filled: Decimal = ZERO
    fills: list[Fill] = field(default_factory=list)
    answer: VenueReport | None = None  # the first report: ack or ref
    ending: VenueReport | None = None

    @property
    def left(self) -> Decimal:
        """Return the quantity still to be filled, in base."""
        return sub(self.intent.quantity, self.filled)


@dataclass(slots=True)
class Exchange:
    """One account against the displayed market. now: ns, told with every input."""

    account: Account
    instruments: dict[str, Instrument] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    orders: dict[str, Placed] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)  # made since the last collection

    # Inputs.

    def place(self, intent: OrderIntent, now: int) -> Answer:
        """Take or refuse an order; a known client_order_id gets its first answer again.

        Raises Conflict for a known id with other content.
        """
        coid = intent.client_order_id
        if (known := self.orders.get(coid)) is not None:
            if known.intent != intent or known.answer is None:
                raise Conflict(f"{coid} is known with other content")
            return Answer(known.answer)
        self._fact(intent)
        if refusal := self._refusal(intent):
            self._report("ref", coid, now, refusal)
        else:
            self._report("ack", coid, now)
            self._match_taker(self.orders[coid], now)
        answer = self.orders[coid].answer
        assert answer is not None
        return Answer(answer, self._collect())

    def cancel(self, coid: str, now: int) -> Answer:
        """Cancel what is open; repeated, it answers the same."""
        order = self.orders.get(coid)
        if order is not None and order.status == "OPEN":
            report = self._report("cok", coid, now)
            return Answer(report, self._collect())
        if order is not None and order.status == "CANCELED" and order.ending:
            return Answer(order.ending)
        oid, why = (order.venue_order_id, order.status) if order else ("", "UNKNOWN_ORDER")
        return Answer(VenueReport("cno", coid, oid, why, None, now))

    def order(self, coid: str, now: int) -> VenueOrder:
        """Return what this venue knows of an order, at its own time."""
        order = self.orders.get(coid)
        if order is None:
            return VenueOrder(False, "", "", ZERO, now)
        oid, fills = order.venue_order_id, tuple(order.fills)
        return VenueOrder(True, order.status, oid, order.filled, now, fills)

    def handle(self, event: object, now: int) -> tuple[Fact, ...]:
        """Learn from market data; return the facts that it made."""
        match event:
            case Instrument():
                if self.instruments.get(event.symbol) != event:
                    self._fact(event)
            case Quote():
                self._fill_all(event.instrument, self._book(event.instrument).on_quote(event), now)
            case BookSnapshot():
                self._fill_all(event.instrument, self._book(event.instrument).on_depth(event), now)
            case Trade():
                self._fill_all(event.instrument, self._book(event.instrument).on_trade(event), now)
            case FeedStatus():
                if event.channel == "book" and event.state in DEAD:
                    self._book(event.instrument).clear()
            case _:
                pass
        return self._collect()

    def open_account(self, balances: dict[str, Decimal]) -> tuple[Fact, ...]:
        """Give the account its first money."""
        for ccy, total in sorted(balances.items()):
            self._fact(Balance(self.account.name, ccy, total))
        return self._collect()

    # State from facts: live and at replay.

    def apply(self, fact: object) -> None:
        """Take over one fact."""
        match fact:
            case Balance():
                self.account.totals[fact.ccy] = fact.total
            case Instrument():
                self.instruments[fact.symbol] = fact
            case OrderIntent():
                oid = f"P{len(self.orders) + 1}"
                self.orders[fact.client_order_id] = Placed(fact, oid)
            case VenueReport():
                self._apply_report(fact)
            case _:
                pass

    def check(self) -> None:
        """Assert every invariant."""
        self.account.check()
        for book in self.books.values():
            book.check()
        for coid, order in self.orders.items():
            assert order.status != "NEW", "an order without an answer"
            assert ZERO <= order.filled <= order.intent.quantity
            queued = coid in self._book(order.intent.instrument).queue
            assert queued is (order.status == "OPEN")
            assert queued or coid not in self.account.reserves

    def _apply_report(self, report: VenueReport) -> None:
        order = self.orders[report.client_order_id]
        order.answer = order.answer or report
        book = self._book(order.intent.instrument)
        if report.event in ENDS:
            order.status, order.ending = ENDS[report.event], report
        elif report.event == "ack":
            order.status = "OPEN"
            intent = order.intent
            coid = intent.client_order_id
            book.rest(Resting(coid, intent.side, intent.price, intent.quantity))
        elif report.fill is not None:
            self._apply_fill(order, report.fill)
            book.queue[report.client_order_id].left = order.left
            order.status = "OPEN" if order.left else "FILLED"
        if order.status != "OPEN":
            book.queue.pop(report.client_order_id, None)
        self.account.hold(report.client_order_id, self._reserve(order))

    def _apply_fill(self, order: Placed, fill: Fill) -> None:
        instrument = self.instruments[fill.instrument]
        order.fills.append(fill)
        order.filled = add(order.filled, fill.quantity)
        self.account.settle(fill, instrument.base, instrument.quote)

    def _reserve(self, order: Placed) -> Reserve:
        intent = order.intent
        if order.status != "OPEN":
            return "", ZERO
        instrument = self.instruments[intent.instrument]
        return reserve_of(instrument, intent.side, order.left, intent.price)

    # Decisions.

    def _refusal(self, intent: OrderIntent) -> str:
        """Return why the venue refuses an order, or nothing."""
        instrument = self.instruments.get(intent.instrument)
        if instrument is None:
            return "SYMBOL"
        book = self._book(intent.instrument)
        if not book.live:
            return "NO_BOOK"
        if instrument.status is not InstrumentStatus.TRADING:
            return "STATUS"
        if intent.kind not in (MARKET, LIMIT):
            return "KIND"
        return _off_grid(intent, instrument) or self._unaffordable(intent, instrument, book)

    def _unaffordable(self, intent: OrderIntent, instrument: Instrument, book: Book) -> str:
        """Judge what depends on the book: notional, crossing, completeness, funds."""
        side, quantity = intent.side, intent.quantity
        fills = book.walk(side, quantity, intent.price)
        best = fills[0][0] if fills else ZERO
        price = intent.price or best
        if price and mul(price, quantity) < instrument.notional_min:
            return "NOTIONAL"
        if intent.post_only and fills:
            return "POST_ONLY"
        if intent.tif is TimeInForce.FOK and _total(fills) < quantity:
            return "FOK"
        if side is BUY and intent.kind is MARKET:
            needs = [reserve_of(instrument, side, got, at)[1] for at, got in fills]
            ccy, need = instrument.quote, _sum(needs)
        else:
            ccy, need = reserve_of(instrument, side, quantity, intent.price)
        return "" if need <= self.account.free(ccy) else "FUNDS"

    def _match_taker(self, order: Placed, now: int) -> None:
        intent = order.intent
        book = self._book(intent.instrument)
        fills = book.walk(intent.side, intent.quantity, intent.price)
        book.take(intent.side, fills)
        for price, quantity in fills:
            self._fill(order, price, quantity, "TAKER", now)
        rests = intent.kind is LIMIT and intent.tif is TimeInForce.GTC
        if order.left and not rests:
            self._report("exp", intent.client_order_id, now, "" if fills else "NO_LIQUIDITY")

    def _fill_all(self, instrument: str, matches: list[Match], now: int) -> None:
        for coid, quantity in matches:
            order = self.orders[coid]
            self._fill(order, order.intent.price, quantity, "MAKER", now)

    def _fill(
        self, order: Placed, price: Decimal, quantity: Decimal, liquidity: str, now: int
    ) -> None:
        intent = order.intent
        instrument = self.instruments[intent.instrument]
        rate = instrument.maker_fee if liquidity == "MAKER" else instrument.taker_fee
        fill = Fill(
            account=intent.account,
            fill_id=f"{order.venue_order_id}-{len(order.fills) + 1}",
            client_order_id=intent.client_order_id,
            venue_order_id=order.venue_order_id,
            strategy=intent.strategy,
            instrument=intent.instrument,
            side=intent.side,
            price=price,
            quantity=quantity,
            fee=fee_of(mul(price, quantity), rate),
            fee_ccy=instrument.quote,
            liquidity=liquidity,
            ts_event=now,
        )
        self._report("fill", intent.client_order_id, now, fill=fill)

    def _report(
        self, event: str, coid: str, now: int, reason: str = "", fill: Fill | None = None
    ) -> VenueReport:
        oid = "" if event == "ref" else self.orders[coid].venue_order_id
        report = VenueReport(event, coid, oid, reason, fill, now)
        self._fact(report)
        return report

    def _fact(self, fact: Fact) -> None:
        self.apply(fact)
        self.facts.append(fact)

    def _collect(self) -> tuple[Fact, ...]:
        facts, self.facts = tuple(self.facts), []
        return facts

    def _book(self, instrument: str) -> Book:
        return self.books.setdefault(instrument, Book())


def _off_grid(intent: OrderIntent, instrument: Instrument) -> str:
    if (intent.kind is LIMIT) is not (intent.price > 0):
        return "TICK"
    if not is_multiple(intent.price, instrument.tick):
        return "TICK"
    most = instrument.quantity_max or intent.quantity
    if not (max(instrument.quantity_min, ZERO) <= intent.quantity <= most):
        return "LOT"
    return "" if intent.quantity and is_multiple(intent.quantity, instrument.lot) else "LOT"


def _total(fills: list[Level]) -> Decimal:
    return _sum([quantity for _, quantity in fills])


def _sum(values: list[Decimal]) -> Decimal:
    total = ZERO
    for value in values:
        total = add(total, value)
    return total
