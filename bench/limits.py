"""The limits that a release is held to, and what a measurement says about them.

A ratio is to a row of the same run on the same machine, so that it means something anywhere.
Never here: measuring.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """figure of row *what*, or its ratio to row *to*, is at most or at least *bound*."""

    what: str
    figure: str
    holds: Callable[[float, float], bool]
    bound: float
    to: str = ""

    def judge(self, row: Row) -> Row:
        """Return the figure, its limit and whether it is kept."""
        figure = row["ratio_to"][self.to][self.figure] if self.to else row[self.figure]
        return {
            "figure": f"{self.figure} / {self.to}" if self.to else self.figure,
            "is": figure,
            "at_most" if self.holds is operator.le else "at_least": self.bound,
            "ok": self.holds(figure, self.bound),
        }


LIMITS: Final = (
    Limit("mesh", "p50_us", operator.le, 1.25, to="floor"),
    Limit("mesh", "per_s", operator.ge, 0.60, to="floor"),
    Limit("batch", "per_s", operator.ge, 200_000),
    Limit("durable publish", "p50_us", operator.le, 3.0, to="raw commit"),
    Limit("durable sustained", "per_s", operator.ge, 20_000),
    Limit("late joiner", "s", operator.le, 1.5),
    Limit("round trip", "p50_us", operator.le, 1.35, to="floor"),
    Limit("overload", "per_s", operator.ge, 0.8, to="capacity"),
    Limit("refusal", "p99_us", operator.le, 20_000),
    Limit("memory", "grown_mib", operator.le, 1.0),
    Limit("guard", "ns", operator.le, 1_000),
)


def judged(rows: list[Row]) -> list[Row]:
    """Return *rows*, each that has limits with them and with whether it keeps them all."""
    found = []
    for row in rows:
        limits = [limit.judge(row) for limit in LIMITS if limit.what == row["what"]]
        said = {"limits": limits, "ok": all(limit["ok"] for limit in limits)}
        found.append({**row, **said} if limits else row)
    return found
