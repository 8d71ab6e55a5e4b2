"""Sequences: what a subscriber has of one publisher, what it missed, which run it hears.

Never here: payloads, sockets, repair.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec


class Verdict(Enum):
    """What to do with a frame."""

    DELIVER = auto()
    DUPLICATE = auto()
    STALE = auto()  # of an older run of the publisher


DELIVER = Verdict.DELIVER
DUPLICATE = Verdict.DUPLICATE
STALE = Verdict.STALE


class Gap(msgspec.Struct, frozen=True):
    """Sequences first..last of a topic were published and not received."""

    topic: str
    first: int
    last: int


@dataclass(slots=True)
class SequenceTracker:
    """Judge the frames of one publisher by (epoch, topic, seq).

    Until its first HEAD a publisher's frames set the baseline; afterwards every hole is
    reported once. A topic that HEAD does not name starts at 1.
    """

    epoch: int = 0
    synced: bool = False  # a HEAD of this run was heard
    widened: bool = False  # topics were added; those not met before have no baseline yet
    expected: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    stale: int = 0
    missed: int = 0

    def head(self, epoch: int, heads: dict[str, int]) -> tuple[bool, list[Gap]]:
        """Learn a HEAD; return whether a new run began, and the gaps it shows."""
        if epoch < self.epoch:
            self.stale += 1
            return False, []
        began = epoch > self.epoch or not self.synced
        if epoch > self.epoch:
            self._begin(epoch)
        gaps = []
        for topic, last in heads.items():
            known = self.expected.get(topic)
            first = known or (last + 1 if self.widened else 1)
            if self.synced and last >= first:
                gaps.append(self._gap(topic, first, last))
            self.expected[topic] = max(known or 1, last + 1)
        self.synced, self.widened = True, False
        return began, gaps

    def widen(self) -> None:
        """Learn that topics are being added: until the next HEAD the new ones are no gap."""
        self.widened = True

    def frame(self, epoch: int, topic: str, seq: int) -> tuple[Verdict, Gap | None]:
        """Judge one frame; the gap, if any, lies just before it."""
        if epoch != self.epoch:
            if epoch < self.epoch:
                self.stale += 1
                return STALE, None
            self._begin(epoch)
        expected = self.expected.get(topic, 1 if self.synced and not self.widened else seq)
        if seq < expected:
            self.duplicates += 1
            return DUPLICATE, None
        self.expected[topic] = seq + 1
        return DELIVER, None if seq == expected else self._gap(topic, expected, seq - 1)

    def forget(self, prefix: str) -> None:
        """Learn that topics with *prefix* are heard no longer."""
        for topic in [topic for topic in self.expected if topic.startswith(prefix)]:
            del self.expected[topic]

    def _begin(self, epoch: int) -> None:
        self.epoch, self.synced, self.widened = epoch, False, False
        self.expected.clear()

    def _gap(self, topic: str, first: int, last: int) -> Gap:
        self.missed += last - first + 1
        return Gap(topic, first, last)
