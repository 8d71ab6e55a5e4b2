"""The table of the nodes: what each hears, says and answers. Tests hold code and
supervisord.conf to it.

Never here: behaviour, settings.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One default node: its package and its part in the flow; topics are prefixes."""

    package: str
    hears: tuple[str, ...]
    says: tuple[str, ...]
    answers: tuple[str, ...]


TOPOLOGY: Final[dict[str, NodeRow]] = {
    "coordinator": NodeRow(
        "coordinator",
        ("!hb",),
        ("!mode", "!view", "sys.mode"),
        ("coordinator.status", "mesh.bye", "mesh.register", "mesh.set_mode"),
    ),
    "market_data": NodeRow(
        "market_data",
        (),
        (
            "md.book.",
            "md.depth.",
            "md.instrument.",
            "md.quarantine.",
            "md.quote.",
            "md.status.",
            "md.trade.",
        ),
        ("market_data.instruments", "market_data.replay", "market_data.snapshot"),
    ),
    "analysis": NodeRow(
        "analysis",
        ("md.quote.", "md.status.", "md.trade."),
        ("md.bar.", "ta."),
        ("analysis.history",),
    ),
    "strategy.ema": NodeRow(
        "strategy",
        ("acct.position.", "fill.", "md.bar.", "md.quote.", "order."),
        ("strat.",),
        ("strategy.pause", "strategy.resume", "strategy.status"),
    ),
    "risk": NodeRow(
        "risk",
        ("acct.position.", "md.instrument.", "md.quote.", "order."),
        ("risk.decision.", "risk.limits"),
        ("risk.limits", "risk.submit"),
    ),
    "execution": NodeRow(
        "execution",
        ("venue.report.",),
        ("acct.balance.", "acct.ledger.", "acct.position.", "fill.", "order."),
        (
            "execution.balances",
            "execution.cancel",
            "execution.fills",
            "execution.holdings",
            "execution.open_orders",
            "execution.order",
            "execution.orders",
            "execution.positions",
            "execution.submit",
        ),
    ),
    "paper_venue": NodeRow(
        "paper_venue",
        ("md.depth.", "md.instrument.", "md.quote.", "md.status.", "md.trade."),
        ("venue.instrument.", "venue.intent.", "venue.opening.", "venue.report."),
        ("venue.balances", "venue.cancel", "venue.order", "venue.place"),
    ),
    "recorder": NodeRow(
        "recorder",
        ("fill.", "md.bar.", "order.", "risk.decision.", "sys.mode"),
        ("rec.lag",),
        ("recorder.history",),
    ),
    "notification": NodeRow(
        "notification",
        ("fill.", "md.status.", "risk.decision.", "sys.mode"),
        ("alert.sent",),
        ("notification.mute", "notification.test"),
    ),
    "gateway": NodeRow("gateway", (), (), ()),
    "api": NodeRow("api", ("md.quote.",), (), ()),
}
