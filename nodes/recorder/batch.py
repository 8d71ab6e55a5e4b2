"""When to write: rows wait until they are many or old, and never are more than a bound.

Never here: SQL, clocks.
"""

from collections.abc import Iterable

from nodes.recorder.store import Origin, Row


class Batch:
    """Rows that wait for the database, with the offsets they stand for."""

    def __init__(self, *, rows_max: int, age_s: float) -> None:
        """rows_max: written at the latest when so many wait. age_s: or the first is so old."""
        self._rows_max = rows_max
        self._age_s = age_s
        self._since = 0.0
        self.rows: list[Row] = []
        self.offsets: dict[Origin, int] = {}

    @property
    def full(self) -> bool:
        """Say whether the one who brings rows must wait."""
        return len(self.rows) >= self._rows_max

    def add(self, rows: Iterable[Row], origin: Origin, offset: int, now: float) -> None:
        """Take the rows of one event in. now: monotonic seconds."""
        if not self.offsets:
            self._since = now
        self.rows.extend(rows)
        self.offsets[origin] = max(offset, self.offsets.get(origin, 0))

    def due_at(self) -> float | None:
        """Return when to write: monotonic seconds, 0 at once, None while nothing waits."""
        if not self.offsets:
            return None
        return 0.0 if self.full else self._since + self._age_s

    def take(self) -> tuple[list[Row], dict[Origin, int]]:
        """Hand everything over and begin anew."""
        taken = self.rows, self.offsets
        self.rows, self.offsets = [], {}
        return taken
