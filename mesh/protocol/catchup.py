"""Catch-up: a durable stream is applied in offset order, without holes, at least once.

    LIVE --HEAD beyond applied, gap--> FETCHING --page reaches the end--> LIVE

While FETCHING live frames are dropped: the fetch will bring them.

Never here: I/O, the journal, timers for retries.
"""

from dataclasses import dataclass, field

from mesh.protocol.sequence import DELIVER, SequenceTracker


@dataclass(slots=True)
class CatchUp:
    """Decide for one publisher's journal what to apply and when to fetch.

    applied: last offset whose effect is stored. Call :meth:`want` to see whether a fetch
    is due (after which offset), then hand the page to :meth:`page`.
    """

    log_id: str = ""
    applied: int = 0
    fetching: bool = False
    target: int = 0  # the newest offset known to exist
    sequences: SequenceTracker = field(default_factory=SequenceTracker)

    def head(self, epoch: int, heads: dict[str, int], log_id: str, last: int) -> bool:
        """Learn a HEAD; return True if the journal is not the one we were reading."""
        self.sequences.head(epoch, heads)
        reset = bool(self.log_id) and log_id != self.log_id
        if reset or not self.log_id:
            self.log_id = log_id
        if reset:
            self.applied = 0
        self.target = last if reset else max(self.target, last)
        self.fetching = self.target > self.applied
        return reset

    def live(self, epoch: int, topic: str, seq: int, offset: int) -> bool:
        """Return True if a live frame is to be applied now; otherwise a fetch brings it."""
        if offset <= self.applied:
            return False
        verdict, gap = self.sequences.frame(epoch, topic, seq)
        self.target = max(self.target, offset)
        if not self.sequences.synced:  # a new run whose HEAD is still to come
            self.fetching = bool(self.log_id)
            return False
        if verdict is not DELIVER or gap is not None or self.fetching or not self.log_id:
            self.fetching = self.fetching or gap is not None
            return False
        self.applied = offset
        return True

    def want(self) -> int | None:
        """Return the offset after which to fetch, None if live."""
        return self.applied if self.fetching else None

    def record(self, offset: int) -> bool:
        """Return True if a fetched record is to be applied now."""
        if offset <= self.applied:
            return False
        self.applied = offset
        return True

    def page(self, through: int, last: int) -> None:
        """Learn the end of a page: offsets up to *through* were looked at."""
        self.applied = max(self.applied, through)
        self.target = max(self.target, last)
        self.fetching = self.applied < self.target

    def check(self) -> None:
        """Assert every invariant."""
        assert self.fetching or self.applied >= self.target or not self.log_id
