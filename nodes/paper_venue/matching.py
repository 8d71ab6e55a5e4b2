"""Matching: one instrument's displayed book, and our resting orders queued behind it.

A taker walks the displayed levels, one fill each, never better and never more than displayed;
what it took stays taken until the level changes. A resting order fills at its own price: by
prints through it, by prints at it once the queue ahead is gone, or by a book that crosses it.
The queue is risk-averse: cancels of others only clamp it to what is displayed.

Never here: money, ids, hidden liquidity, our impact beyond what we took.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from nodes.domain.market import BUY, SELL, BookSnapshot, Level, Quote, Side, Trade, TradeKind
from nodes.domain.numbers import EXACT, ZERO, add

Levels: TypeAlias = dict[Decimal, Decimal]  # price to quantity

sub = EXACT.subtract


class Match(NamedTuple):
    """A resting order's share of a print or a crossing; the price is the order's own."""

    client_order_id: str
    quantity: Decimal


@dataclass(slots=True)
class Resting:
    """An order in the queue. ahead: None until its level was seen."""

    client_order_id: str
    side: Side
    price: Decimal
    left: Decimal
    ahead: Decimal | None = None


@dataclass(slots=True)
class Book:
    """Displayed levels by side, what we took of them, and our own queue in order of arrival."""

    sides: dict[Side, Levels] = field(default_factory=lambda: {BUY: {}, SELL: {}})
    taken: dict[Side, Levels] = field(default_factory=lambda: {BUY: {}, SELL: {}})
    queue: dict[str, Resting] = field(default_factory=dict)
    quote: Quote | None = None

    @property
    def live(self) -> bool:
        """Say whether both sides are displayed."""
        return bool(self.sides[BUY] and self.sides[SELL])

    def on_depth(self, snapshot: BookSnapshot) -> list[Match]:
        """Take over a snapshot of the top, under a quote that is newer; return what it crosses."""
        self._display(dict(snapshot.bids), dict(snapshot.asks))
        if self.quote is not None and self.quote.update_id > snapshot.update_id:
            self._top(self.quote)
        return self._settle()

    def on_quote(self, quote: Quote) -> list[Match]:
        """Take over the best levels; deeper ones stay. Return what it crosses."""
        self.quote = quote
        self._top(quote)
        return self._settle()

    def on_trade(self, trade: Trade) -> list[Match]:
        """Return what a print gives to resting orders, best price and oldest first."""
        if trade.kind is not TradeKind.MARKET:
            return []
        matches, budget = [], trade.quantity
        for order in self._by_priority():
            through = _beyond(order.side, order.price, trade.price)
            at = order.price == trade.price and trade.aggressor not in (None, order.side)
            if not (through or at):
                continue
            if at:
                budget = self._pass_queue(order, budget)
            if quantity := min(budget, order.left):
                matches.append(Match(order.client_order_id, quantity))
                budget = sub(budget, quantity)
        return matches

    def clear(self) -> None:
        """Forget what is displayed: the feed is gone."""
        for side in (BUY, SELL):
            self.sides[side], self.taken[side] = {}, {}
        self.quote = None

    def walk(self, side: Side, quantity: Decimal, limit: Decimal) -> list[Level]:
        """Return the fills of a taker, best first; limit 0 is none. Takes nothing yet."""
        against = SELL if side is BUY else BUY
        fills: list[Level] = []
        for price in sorted(self.sides[against], reverse=against is BUY):
            if not quantity or (limit and _beyond(side, price, limit)):
                break
            if got := min(quantity, self._left_at(against, price)):
                fills.append((price, got))
                quantity = sub(quantity, got)
        return fills

    def take(self, side: Side, fills: list[Level]) -> None:
        """Remember what a taker of *side* took, until the levels change."""
        taken = self.taken[SELL if side is BUY else BUY]
        for price, quantity in fills:
            taken[price] = add(taken.get(price, ZERO), quantity)

    def rest(self, order: Resting) -> None:
        """Queue an order behind what is displayed at its price."""
        order.ahead = self._ahead(order)
        self.queue[order.client_order_id] = order

    def check(self) -> None:
        """Assert that the book is uncrossed and nothing was taken that was not there."""
        if self.live:
            assert max(self.sides[BUY]) < min(self.sides[SELL])
        for side, taken in self.taken.items():
            assert all(taken[price] <= self.sides[side][price] for price in taken)

    def _top(self, quote: Quote) -> None:
        bids = {p: q for p, q in self.sides[BUY].items() if p < quote.bid}
        asks = {p: q for p, q in self.sides[SELL].items() if p > quote.ask}
        self._display({quote.bid: quote.bid_size, **bids}, {quote.ask: quote.ask_size, **asks})

    def _display(self, bids: Levels, asks: Levels) -> None:
        for side, levels in ((BUY, bids), (SELL, asks)):
            before, taken = self.sides[side], self.taken[side]
            shown = {price: quantity for price, quantity in levels.items() if quantity}
            self.taken[side] = {p: q for p, q in taken.items() if shown.get(p) == before[p]}
            self.sides[side] = shown

    def _settle(self) -> list[Match]:
        """Clamp the queues to what is displayed and match what the book crosses."""
        matches = []
        for order in self._by_priority():
            displayed = self._ahead(order)
            if order.ahead is None or displayed is None:
                order.ahead = displayed if order.ahead is None else order.ahead
            else:
                order.ahead = min(order.ahead, displayed)
            fills = self.walk(order.side, order.left, order.price)
            if fills:
                self.take(order.side, fills)
                matches += [Match(order.client_order_id, quantity) for _, quantity in fills]
        return matches

    def _left_at(self, side: Side, price: Decimal) -> Decimal:
        return max(ZERO, sub(self.sides[side][price], self.taken[side].get(price, ZERO)))

    def _ahead(self, order: Resting) -> Decimal | None:
        """Return what is displayed at the order's price; None beyond what is displayed."""
        levels = self.sides[order.side]
        if order.price in levels:
            return levels[order.price]
        if not levels:
            return None
        worst = min(levels) if order.side is BUY else max(levels)
        return None if _beyond(order.side, worst, order.price) else ZERO

    def _pass_queue(self, order: Resting, budget: Decimal) -> Decimal:
        """Let the queue ahead of *order* have its share of a print; return what is left."""
        if order.ahead is None:
            return ZERO
        eaten = min(order.ahead, budget)
        order.ahead = sub(order.ahead, eaten)
        return sub(budget, eaten)

    def _by_priority(self) -> list[Resting]:
        buys = [order for order in self.queue.values() if order.side is BUY]
        sells = [order for order in self.queue.values() if order.side is SELL]
        buys.sort(key=lambda order: order.price, reverse=True)  # stable: arrival decides ties
        sells.sort(key=lambda order: order.price)
        return buys + sells


def _beyond(side: Side, price: Decimal, limit: Decimal) -> bool:
    """Say whether *price* is worse than *limit* for an order of *side*."""
    return price > limit if side is BUY else price < limit
