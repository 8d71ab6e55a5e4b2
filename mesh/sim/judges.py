"""Judges: what was promised, held against what happened, with the truth of the other end.

Ear judges the sequences that one subscriber hears of one publisher; Screen the last values it
shows; Truth is what the journals hold, and Reader what a consumer applies of one of them.

Never here: machines under test; a node's opinion is no evidence.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mesh.protocol import topics
from mesh.protocol.catchup import Ahead, Gone, Notice, Reset
from mesh.protocol.sequence import Gap
from mesh.sim.world import Violation


def heard(prefixes: Iterable[str], topic: str) -> bool:
    """Say whether one of *prefixes* hears *topic*."""
    return any(topics.matches(prefix, topic) for prefix in prefixes)


def inside(prefix: str, other: str) -> bool:
    """Say whether all that *prefix* hears is heard by *other*."""
    return prefix == other or (not other.endswith("\0") and prefix.startswith(other))


@dataclass(slots=True)
class Ear:
    """From its HEAD on a subscriber gets every event of a covered topic, or a Gap over it."""

    name: str
    epoch: int = 0
    covered: tuple[str, ...] = ()
    due: dict[str, int] = field(default_factory=dict)  # topic to the sequence that must come

    def head(self, epoch: int, heads: dict[str, int], prefixes: Iterable[str]) -> None:
        """Learn that the link is LIVE with *prefixes*, and what the publisher answered."""
        if epoch < self.epoch:
            raise Violation("old-epoch", f"{self.name}: HEAD of {epoch} after {self.epoch}")
        if epoch > self.epoch:
            self.epoch, self.covered = epoch, ()
            self.due.clear()
        wanted = tuple(prefixes)
        for topic, last in heads.items():
            if heard(wanted, topic) and self._due(topic) is None:
                self.due[topic] = last + 1
        self.covered = wanted

    def gap(self, gap: Gap) -> None:
        """Learn what the subscriber was told to have missed."""
        due = self._due(gap.topic)
        if due is None or gap.first < due:
            raise Violation("false-gap", f"{self.name}: {gap}, {due} is due")
        if gap.first > due:
            raise Violation("hole", f"{self.name}: {gap}, {due} is due")
        self.due[gap.topic] = gap.last + 1

    def delivered(self, epoch: int, topic: str, seq: int) -> None:
        """Learn what the subscriber was handed."""
        if epoch < self.epoch:
            raise Violation("old-epoch", f"{self.name}: {topic} {seq} of {epoch}")
        if epoch > self.epoch:
            raise Violation("early", f"{self.name}: {topic} {seq} before the HEAD of its run")
        due = self._due(topic)
        if due is not None and seq < due:
            raise Violation("twice", f"{self.name}: {topic} {seq}, {due} is due")
        if due is not None and seq > due:
            raise Violation("hole", f"{self.name}: {topic} {seq} without a gap, {due} is due")
        self.due[topic] = seq + 1

    def narrowed(self, prefixes: Iterable[str]) -> None:
        """Learn that only *prefixes* are wanted now."""
        kept = tuple(prefixes)
        pairs = [(known, still) for known in self.covered for still in kept]
        both = [known if inside(known, still) else still for known, still in pairs]
        meet = [inside(known, still) or inside(still, known) for known, still in pairs]
        self.covered = tuple(prefix for prefix, met in zip(both, meet, strict=True) if met)
        for topic in [topic for topic in self.due if not heard(kept, topic)]:
            del self.due[topic]

    def end(self, epoch: int, heads: dict[str, int], prefixes: Iterable[str]) -> None:
        """Judge after a quiet time what the publisher's run *epoch* said."""
        if self.epoch != epoch or not all(
            any(inside(prefix, known) for known in self.covered) for prefix in prefixes
        ):
            raise Violation("not-live", f"{self.name}: hears {self.epoch}, {epoch} speaks")
        for topic, last in heads.items():
            due = self._due(topic)
            if due is not None and due != last + 1:
                raise Violation("tail", f"{self.name}: {topic} ends at {last}, {due} is due")

    def _due(self, topic: str) -> int | None:
        due = self.due.get(topic)
        return 1 if due is None and heard(self.covered, topic) else due


@dataclass(slots=True)
class Screen:
    """A subscriber shows the newest value per topic in the end, never older after newer."""

    name: str
    shown: dict[str, tuple[int, int]] = field(default_factory=dict)

    def show(self, topic: str, epoch: int, seq: int) -> None:
        """Learn that a value or its end was shown."""
        known = self.shown.get(topic, (0, 0))
        if (epoch, seq) < known:
            raise Violation("older-value", f"{self.name}: {topic} {epoch, seq} after {known}")
        self.shown[topic] = (epoch, seq)

    def forget(self, prefixes: Iterable[str]) -> None:
        """Learn that only *prefixes* are wanted now."""
        kept = tuple(prefixes)
        for topic in [topic for topic in self.shown if not heard(kept, topic)]:
            del self.shown[topic]

    def end(self, holds: dict[str, tuple[int, int]], truth: dict[str, tuple[int, int]]) -> None:
        """Judge what is held after a quiet time against what the publisher holds."""
        if holds != truth:
            wrong = sorted(set(holds.items()) ^ set(truth.items()))
            raise Violation("last-value", f"{self.name}: differs in {wrong[:4]}")


@dataclass(slots=True)
class Truth:
    """What the journals held, and what their owners said to be stored."""

    logs: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    firsts: dict[str, int] = field(default_factory=dict)
    said: dict[str, int] = field(default_factory=dict)  # newest offset acknowledged
    cuts: dict[str, int] = field(default_factory=dict)  # logs put back: where the copy ends

    def kept(self, log_id: str, records: Iterable[tuple[str, bytes]]) -> None:
        """Learn that records are on disk."""
        self.logs.setdefault(log_id, []).extend(records)

    def acknowledged(self, log_id: str, last: int) -> None:
        """Learn that a caller was told that all up to *last* is stored."""
        if last > len(self.logs.get(log_id, ())):
            raise Violation("ack-before-commit", f"{log_id}: {last} is not on disk")
        self.said[log_id] = max(last, self.said.get(log_id, 0))

    def recovered(self, log_id: str, last: int) -> None:
        """Learn how far a journal reaches after a crash."""
        if last < self.said.get(log_id, 0):
            raise Violation("lost", f"{log_id}: ends at {last} of {self.said[log_id]}")

    def retained(self, log_id: str, first: int) -> None:
        """Learn that offsets below *first* are gone."""
        self.firsts[log_id] = first

    def restored(self, log_id: str, last: int) -> None:
        """Learn that an old copy was put in place; nothing more may be written to it."""
        self.cuts[log_id] = min(last, self.cuts.get(log_id, last))
        self.said[log_id] = min(last, self.said.get(log_id, 0))


@dataclass(slots=True)
class Reader:
    """A consumer applies each record of its topics once, in order, or is told why not."""

    name: str
    prefixes: tuple[str, ...]
    truth: Truth
    log_id: str = ""
    done: int = 0
    gone: list[tuple[int, int]] = field(default_factory=list)  # offsets lost by notice
    halted: bool = False

    def resume(self, log_id: str, done: int, effects: list[int] | None = None) -> None:
        """Learn where a new run begins; effects: the offsets whose effects are stored."""
        if log_id != self.log_id:
            self.gone.clear()
        self.log_id, self.done, self.halted = log_id, done, False
        if effects is not None:
            self.stored(effects)

    def apply(self, log_id: str, offset: int, topic: str, payload: bytes) -> None:
        """Learn that a record is applied."""
        log = self.truth.logs.get(log_id, [])
        if log_id != self.log_id or not 0 < offset <= len(log):
            raise Violation("phantom", f"{self.name}: {log_id} {offset} is not on disk")
        if log[offset - 1] != (topic, payload):
            raise Violation("phantom", f"{self.name}: {log_id} {offset} is another record")
        if offset <= self.done:
            raise Violation("twice", f"{self.name}: {offset} after {self.done}")
        self.passed(offset - 1)
        self.done = offset

    def passed(self, offset: int) -> None:
        """Learn that the consumer thinks that nothing is left up to *offset*."""
        log = self.truth.logs.get(self.log_id, [])
        for skipped in range(self.done + 1, min(offset, len(log)) + 1):
            if heard(self.prefixes, log[skipped - 1][0]) and not self._is_gone(skipped):
                raise Violation("skipped", f"{self.name}: {self.log_id} {skipped}")
        self.done = max(self.done, offset)

    def notice(self, notice: Notice) -> None:
        """Learn what the consumer was told about its stream."""
        if isinstance(notice, Reset):
            if notice.was == notice.now:
                raise Violation("false-notice", f"{self.name}: {notice}")
            self.resume(notice.now, 0)
        elif isinstance(notice, Gone):
            if notice.first > self.truth.firsts.get(self.log_id, 1):
                raise Violation("false-notice", f"{self.name}: {notice}")
            self.gone.append((notice.after + 1, notice.first - 1))
        elif isinstance(notice, Ahead):
            if notice.known <= notice.last:
                raise Violation("false-notice", f"{self.name}: {notice}")
            self.halted = True

    def stored(self, effects: list[int]) -> None:
        """Judge the effects on disk against the offset stored with them."""
        if effects != sorted(set(effects)):
            raise Violation("twice", f"{self.name}: effects {effects[-5:]}")
        if effects and effects[-1] > self.done:
            raise Violation("torn", f"{self.name}: effect {effects[-1]}, offset {self.done}")
        have = set(effects)
        for offset, (topic, _) in enumerate(self.truth.logs.get(self.log_id, ()), 1):
            if offset > self.done:
                break
            if offset not in have and heard(self.prefixes, topic) and not self._is_gone(offset):
                raise Violation("torn", f"{self.name}: {self.log_id} {offset} has no effect")

    def end(self, log_id: str) -> None:
        """Judge after a quiet time: all is applied, or the stream was halted with its reason."""
        if self.halted:
            return
        if log_id != self.log_id:
            raise Violation("behind", f"{self.name}: knows {self.log_id}, not {log_id}")
        last = self.truth.cuts.get(log_id, len(self.truth.logs.get(log_id, ())))
        if self.done > last:
            raise Violation("silent", f"{self.name}: knows {self.done} of {log_id}, it has {last}")
        for offset in range(self.done + 1, last + 1):
            topic = self.truth.logs[log_id][offset - 1][0]
            if heard(self.prefixes, topic) and not self._is_gone(offset):
                raise Violation("behind", f"{self.name}: {log_id} {offset} of {last} is missing")

    def _is_gone(self, offset: int) -> bool:
        return any(first <= offset <= last for first, last in self.gone)
