"""LastValues: what a subscriber holds of one publisher's LASTVALUE topics.

The newest value per topic in the end, never an older one after a newer one. Values of an
earlier run are stale until they are sent again or a snapshot leaves them out.

Never here: calls, sockets, who is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.protocol import topics
from mesh.protocol.envelope import TOMBSTONE, Event


@dataclass(slots=True)
class LastValues:
    """Merge live frames with snapshots, both already judged to be of the current run."""

    values: dict[str, Event] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    # Of the topics that moved while a snapshot is under way, for it may be older:
    gone: dict[str, int] = field(default_factory=dict)  # no value up to this is the newest
    unsure: set[str] = field(default_factory=set)  # what it leaves out may exist all the same
    asking: int = 0

    def begin(self) -> None:
        """Learn that a new run of the publisher began: nothing known is confirmed."""
        self.stale.update(self.values)
        self.gone.clear()
        if self.asking:
            self.unsure.update(self.values)

    def doubt(self, topic: str, last: int = 1 << 63) -> None:
        """Learn that events of *topic* up to *last* were lost: values below it are no more."""
        known = self.values.get(topic)
        if known is not None and known.seq < last:
            self.stale.add(topic)
        if self.asking:
            self.unsure.add(topic)
            if last < 1 << 63:
                self.gone[topic] = max(last - 1, self.gone.get(topic, 0))

    def live(self, event: Event) -> bool:
        """Take a live value or tombstone; return whether it is news: a snapshot may be newer."""
        topic, known = event.topic, self.values.get(event.topic)
        if known is not None and (known.epoch, known.seq) >= (event.epoch, event.seq):
            return False
        if event.flags & TOMBSTONE:
            self.values.pop(topic, None)
            if self.asking:
                self.gone[topic] = event.seq
        else:
            self.values[topic] = event
        if self.asking:
            self.unsure.add(topic)
        self.stale.discard(topic)
        return True

    def ask(self) -> None:
        """Learn that a snapshot is being asked for."""
        self.asking += 1

    def offer(self, event: Event) -> bool:
        """Take a value of a snapshot; return whether it is news."""
        topic, known = event.topic, self.values.get(event.topic)
        if event.seq <= self.gone.get(topic, 0):
            return False
        if known is not None and (known.epoch, known.seq) > (event.epoch, event.seq):
            return False
        news = known is None or (known.epoch, known.seq) != (event.epoch, event.seq)
        self.values[topic] = event
        self.stale.discard(topic)
        return news

    def end(self, prefixes: tuple[str, ...], *, complete: bool) -> list[Event]:
        """Learn that the snapshot is over; return the values that are no more.

        complete: it came whole, so a stale topic that it left out has been deleted, unless
        the topic moved meanwhile.
        """
        self.asking -= 1
        ended = []
        if complete:
            left_out = self.stale - self.unsure
            ended = sorted(t for t in left_out if any(topics.matches(p, t) for p in prefixes))
        if not self.asking:
            self.gone.clear()
            self.unsure.clear()
        self.stale.difference_update(ended)
        return [self.values.pop(topic) for topic in ended]

    def matching(self, prefix: str) -> list[Event]:
        """Return the values known under *prefix*."""
        return [event for topic, event in self.values.items() if topics.matches(prefix, topic)]

    def forget(self, prefix: str, kept: Iterable[str] = ()) -> None:
        """Learn that *prefix* is heard no longer, though what *kept* hears still is."""
        for topic in [topic for topic in self.values if topics.matches(prefix, topic)]:
            if not any(topics.matches(other, topic) for other in kept):
                del self.values[topic]
                self.stale.discard(topic)

    def check(self) -> None:
        """Assert every invariant."""
        assert self.stale <= set(self.values)
        assert self.asking >= 0
        assert all(not event.flags & TOMBSTONE for event in self.values.values())
