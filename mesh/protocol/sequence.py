"""Sequences: what a subscriber has of one publisher, what it missed, which run it hears.

Never here: payloads, sockets, repair.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

import msgspec

from mesh.protocol import topics


class Verdict(Enum):
    """What to do with a frame."""

    DELIVER = auto()
    EARLY = auto()  # of a run whose HEAD is still to come: that HEAD covers it
    DUPLICATE = auto()
    STALE = auto()  # of an older run of the publisher
    UNWANTED = auto()  # was on its way when its topic was dropped


DELIVER = Verdict.DELIVER
EARLY = Verdict.EARLY
DUPLICATE = Verdict.DUPLICATE
STALE = Verdict.STALE
UNWANTED = Verdict.UNWANTED


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
    settled: tuple[str, ...] | None = None  # while topics are added: the prefixes HEAD covered
    expected: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    duplicates: int = 0
    stale: int = 0
    missed: int = 0

    def head(self, epoch: int, heads: dict[str, int]) -> tuple[bool, list[Gap]]:
        """Learn a HEAD; return whether a new run began, and the gaps it shows."""
        if epoch < self.epoch or epoch < 1:
            self.stale += 1
            return False, []
        began = epoch > self.epoch or not self.synced
        if epoch > self.epoch:
            self._begin(epoch)
        if not self.synced:
            self.expected.clear()  # an EARLY frame may have overtaken this HEAD: a gap will tell
        gaps = []
        for topic, last in heads.items():
            known = self.expected.get(topic)
            first = known or (1 if self._is_settled(topic) else last + 1)
            if self.synced and last >= first:
                gaps.append(self._gap(topic, first, last))
            self.expected[topic] = max(known or 1, last + 1)
        self.synced, self.settled = True, None
        return began, gaps

    def beacon(self, epoch: int, heads: dict[str, int]) -> list[Gap]:
        """Learn heads that came behind all they count; return the gaps they show."""
        self.frames += 1
        if epoch != self.epoch or not self.synced:
            return []
        gaps = []
        for topic, last in heads.items():
            known = self.expected.get(topic)
            if known is None and not self._is_settled(topic):
                continue  # being added: its HEAD is on the way
            if last >= (first := known or 1):
                gaps.append(self._gap(topic, first, last))
                self.expected[topic] = last + 1
        return gaps

    def widen(self, settled: Iterable[str]) -> None:
        """Learn that topics are being added to the *settled* prefixes: until the next HEAD
        a topic that only the new ones hear has no baseline."""
        if self.settled is None:
            self.settled = tuple(settled)

    def is_next(self, epoch: int, topic: str, seq: int) -> bool:
        """Say whether a frame is just the one expected, and if so take it: the common case.

        Any other is untouched; frame() judges it.
        """
        if epoch != self.epoch or not self.synced or self.expected.get(topic) != seq:
            return False
        self.expected[topic] = seq + 1
        self.frames += 1
        return True

    def frame(self, epoch: int, topic: str, seq: int) -> tuple[Verdict, Gap | None]:
        """Judge one frame; the gap, if any, lies just before it."""
        self.frames += 1
        if epoch != self.epoch:
            if epoch < self.epoch:
                self.stale += 1
                return STALE, None
            self._begin(epoch)
        expected = self.expected.get(topic)
        if seq == expected:
            self.expected[topic] = seq + 1
            return DELIVER if self.synced else EARLY, None
        if expected is None:
            if not epoch:  # runs are counted from 1
                self.stale += 1
                return STALE, None
            expected = 1 if self.synced and self._is_settled(topic) else seq
        if seq < expected:
            self.duplicates += 1
            return DUPLICATE, None
        self.expected[topic] = seq + 1
        if not self.synced:
            return EARLY, None
        return DELIVER, None if seq == expected else self._gap(topic, expected, seq - 1)

    def forget(self, prefix: str, kept: Iterable[str] = ()) -> None:
        """Learn that *prefix* is heard no longer, though what *kept* hears still is."""
        kept = tuple(kept)
        for topic in [topic for topic in self.expected if topics.matches(prefix, topic)]:
            if not any(topics.matches(other, topic) for other in kept):
                del self.expected[topic]
        if self.settled is not None:
            self.settled = tuple(_still_heard(self.settled, kept))

    def check(self) -> None:
        """Assert every invariant."""
        assert all(expected >= 1 for expected in self.expected.values())
        assert self.epoch or not self.expected

    def _is_settled(self, topic: str) -> bool:
        return self.settled is None or any(topics.matches(p, topic) for p in self.settled)

    def _begin(self, epoch: int) -> None:
        self.epoch, self.synced, self.settled = epoch, False, None
        self.expected.clear()

    def _gap(self, topic: str, first: int, last: int) -> Gap:
        self.missed += last - first + 1
        return Gap(topic, first, last)


def _still_heard(settled: Iterable[str], kept: tuple[str, ...]) -> Iterator[str]:
    """Yield what of the *settled* prefixes is heard without a break by those that are *kept*."""
    for prefix in settled:
        if any(_covers(other, prefix) for other in kept):
            yield prefix
        else:
            yield from (other for other in kept if _covers(prefix, other))


def _covers(wide: str, narrow: str) -> bool:
    return narrow == wide or (not wide.endswith("\0") and narrow.startswith(wide))
