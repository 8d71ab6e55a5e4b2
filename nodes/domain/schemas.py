"""The number of every trading type on the wire: append only, never reused, never renumbered.

Never here: mesh types (their numbers are below 0x1000), behaviour.
"""

from typing import Final

from nodes.domain import accounts, decisions, instruments, market, orders, strategies

SCHEMAS: Final[dict[type, int]] = {
    market.Quote: 0x1001,
    market.Trade: 0x1002,
    market.BookSnapshot: 0x1003,
    market.BookDelta: 0x1004,
    market.Bar: 0x1005,
    market.FeedStatus: 0x1006,
    market.Quarantined: 0x1007,
    market.IndicatorValue: 0x1008,
    instruments.Instrument: 0x1009,
    orders.OrderIntent: 0x1010,
    orders.Order: 0x1011,
    orders.Fill: 0x1012,
    orders.OrderEvent: 0x1013,
    orders.VenueReport: 0x1014,
    orders.VenueOrder: 0x1015,
    accounts.Position: 0x1020,
    accounts.Balance: 0x1021,
    accounts.LedgerLine: 0x1022,
    decisions.Signal: 0x1030,
    decisions.RiskDecision: 0x1031,
    decisions.ApprovedIntent: 0x1032,
    decisions.Limits: 0x1033,
    decisions.Alert: 0x1034,
    strategies.StrategyStatus: 0x1035,
}
