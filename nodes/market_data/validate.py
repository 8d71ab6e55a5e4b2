"""Validate: order within one (instrument, channel); what breaks it is refused with a reason.

Across channels event times often run backwards: that is legal and not looked at.

Never here: repair, books (they check their own sequence).
"""

from mesh.errors import Invalid
from nodes.domain.market import Quote, Trade
from nodes.market_data.parsers.binance import Message


class Validator:
    """Remembers the last id and event time of each channel; counts holes in trade ids."""

    def __init__(self) -> None:
        self.trade_gaps: dict[str, int] = {}
        self._ids: dict[tuple[str, type], int] = {}
        self._sent: dict[tuple[str, type], int] = {}

    def check(self, message: Message) -> str:
        """Return why the message must be refused, or an empty string."""
        value = message.value
        if isinstance(value, Trade):
            return self._check_trade(value, message.sent)
        if isinstance(value, Quote):
            return self._check_quote(value, message.sent)
        return ""

    def _check_trade(self, trade: Trade, sent: int) -> str:
        key = (trade.instrument, Trade)
        number = _trade_number(trade)
        last = self._ids.get(key)
        if last is not None and number <= last:
            return "DUPLICATE" if number == last else "ID_BACK"
        if sent < self._sent.get(key, 0):
            return "TS_BACK"
        if last is not None and number > last + 1:
            self.trade_gaps[trade.instrument] = self.trade_gaps.get(trade.instrument, 0) + 1
        self._ids[key], self._sent[key] = number, sent
        return ""

    def _check_quote(self, quote: Quote, sent: int) -> str:
        key = (quote.instrument, Quote)
        if quote.update_id < self._ids.get(key, 0):
            return "ID_BACK"
        if sent < self._sent.get(key, 0):
            return "TS_BACK"
        self._ids[key], self._sent[key] = quote.update_id, sent
        return ""


def _trade_number(trade: Trade) -> int:
    if not trade.trade_id.isdecimal():
        raise Invalid(f"trade id {trade.trade_id[:40]!r} is no number")
    return int(trade.trade_id)
