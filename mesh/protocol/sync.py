"""LinkSync: one subscriber's link to one publisher's plane: subscribe, probe, live, doubt, again.

    IDLE --want, opened--> SYNCING --HEAD--> LIVE --silence--> UNSURE --HEAD or frame--> LIVE
    SYNCING, UNSURE --2 s--> the same with a new probe (3 tries) --> BAD --backoff--> SYNCING
    any --HEAD or frame of a higher epoch--> frames wait; LIVE at its HEAD
    any --HEAD of a lower epoch--> counted, ignored;  HEAD without a common wire--> BAD

A HEAD comes by itself whenever libzmq has reconnected, for the probe is a subscription.

Never here: sockets, payloads, what to do about a gap.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

import msgspec

from mesh.protocol import topics
from mesh.protocol.control import Head
from mesh.protocol.envelope import WIRE
from mesh.protocol.sequence import UNWANTED, Gap, SequenceTracker, Verdict

HEAD_TIMEOUT_S: Final = 2.0
TRIES: Final = 3
SILENT_S: Final = 1.5  # three heartbeats
BAD_S: Final = 1.0
BAD_S_MAX: Final = 30.0


class LinkState(Enum):
    """Where a link stands."""

    IDLE = auto()  # nothing is wanted of it
    SYNCING = auto()  # probed; frames are not to be trusted before the HEAD
    LIVE = auto()
    UNSURE = auto()  # silent; frames pass, their sequences guard
    BAD = auto()  # closed; a new socket after a while


IDLE = LinkState.IDLE
SYNCING = LinkState.SYNCING
LIVE = LinkState.LIVE
UNSURE = LinkState.UNSURE
BAD = LinkState.BAD


class Subscribe(msgspec.Struct, frozen=True):
    """Subscribe the socket to prefix."""

    prefix: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """Undo it."""

    prefix: str


class Probe(msgspec.Struct, frozen=True):
    """Subscribe to topic, behind all other subscriptions, and drop the probe it replaces."""

    topic: bytes
    replaces: bytes


class Close(msgspec.Struct, frozen=True):
    """Close the socket; libzmq may have given it up. Call opened() when an Open was done."""

    why: str


class Open(msgspec.Struct, frozen=True):
    """Make a new socket, connect it, call opened()."""


class Live(msgspec.Struct, frozen=True):
    """The HEAD is complete: what it does not cover arrives or shows as a gap.

    began: nothing of this run of the publisher was heard before.
    """

    head: Head
    began: bool


Effect: TypeAlias = Subscribe | Unsubscribe | Probe | Close | Open | Live | Gap


@dataclass(slots=True)
class LinkSync:
    """Decide for one link. token gives 64 random bits; now is monotonic seconds.

    Carry out the effects in their order. tick() is due at next_deadline().
    """

    token: Callable[[], int]
    state: LinkState = IDLE
    prefixes: set[str] = field(default_factory=set)
    tracker: SequenceTracker = field(default_factory=SequenceTracker)
    denied: tuple[str, ...] = ()
    probe: bytes = b""
    waiting: bool = False  # for the HEAD of the probe
    tries: int = 0
    bad: int = 0  # times in a row
    _since: float = 0.0  # of the probe, of the last sign of life, of the closing
    _frames: int = 0  # the tracker's count at the last tick
    _heads: dict[str, int] = field(default_factory=dict)  # pages of a HEAD so far
    _page: int = 0
    _run: int = 0  # whose pages they are

    def want(self, prefixes: set[str], now: float) -> list[Effect]:
        """Hear *prefixes* too; an open link probes anew, for HEAD tells from where on."""
        added = sorted(prefixes - self.prefixes)
        if not added:
            return []
        before = tuple(self.prefixes)
        self.prefixes.update(added)
        if self.state is IDLE:
            return [Open()]
        self.tracker.widen(before)
        if self.state is BAD:
            return []
        return [*(Subscribe(prefix) for prefix in added), self._probe(now)]

    def drop(self, prefix: str) -> list[Effect]:
        """Hear *prefix* no longer."""
        if prefix not in self.prefixes:
            return []
        self.prefixes.remove(prefix)
        self.tracker.forget(prefix, self.prefixes)
        return [] if self.state in (IDLE, BAD) else [Unsubscribe(prefix)]

    def opened(self, now: float) -> list[Effect]:
        """Learn that a new socket is there, connected and without subscriptions."""
        self.state, self.tries, self.probe = SYNCING, 0, b""
        return [*(Subscribe(prefix) for prefix in sorted(self.prefixes)), self._probe(now)]

    def moved(self) -> list[Effect]:
        """Learn that the publisher is elsewhere now, or has another key: the socket is no use."""
        return [] if self.state is IDLE else [Open()]

    def again(self, now: float) -> list[Effect]:
        """Ask for a HEAD once more; for an owner who wants to know."""
        return [] if self.state in (IDLE, BAD) else [self._probe(now)]

    def head(self, head: Head, probe: bytes, now: float) -> list[Effect]:
        """Learn one page of a HEAD that came on topic *probe*."""
        if head.epoch < self.tracker.epoch or head.epoch < 1:
            self.tracker.stale += 1
            return []
        if probe != self.probe or self.state in (IDLE, BAD):
            return []  # of a probe replaced meanwhile
        if not head.wire_min <= WIRE <= head.wire_max:
            return self._give_up(f"wire {head.wire_min}-{head.wire_max} there, {WIRE} here", now)
        if head.page == 0:
            self._heads, self._page, self._run = {}, 0, head.epoch
        if head.page != self._page or head.epoch != self._run:
            return []  # a page was lost: the probe times out and asks again
        self._page += 1
        self._heads.update(head.heads)
        return self._complete(head, now) if self._page == head.pages else []

    def frame(self, epoch: int, topic: str, seq: int) -> tuple[Verdict, Gap | None]:
        """Judge one frame; deliver it only if the verdict is DELIVER."""
        if topic not in self.tracker.expected and not self._hears(topic):
            self.tracker.frames += 1
            return UNWANTED, None
        return self.tracker.frame(epoch, topic, seq)

    def beacon(self, epoch: int, heads: dict[str, int]) -> list[Gap]:
        """Learn a heartbeat's heads, which came behind every frame they count."""
        return self.tracker.beacon(epoch, {t: s for t, s in heads.items() if self._hears(t)})

    def tick(self, now: float) -> list[Effect]:
        """Doubt a silent link, probe again, give it up, or open it anew."""
        alive, self._frames = self.tracker.frames != self._frames, self.tracker.frames
        if self.state is BAD:
            return [Open()] if now >= self._since + self._pause_s() else []
        if self.state is IDLE:
            return []
        if alive and not self.waiting:
            return self._alive(now)
        if now < self._since + self._patience_s():  # as next_deadline() rounds it
            return []
        if self.state is LIVE and not self.waiting:
            self.state, self._since = UNSURE, now
            return []
        self.tries += 1
        if self.tries >= TRIES:
            return self._give_up(f"no HEAD after {TRIES} probes", now)
        return [self._probe(now)]

    def _alive(self, now: float) -> list[Effect]:
        self._since = now
        if self.tracker.synced:
            self.state = LIVE
            return []
        self.state = SYNCING  # a new run is heard, but not its HEAD
        return [self._probe(now)]

    def next_deadline(self) -> float | None:
        """Return when tick() has something to do at the latest, None if never."""
        if self.state is IDLE:
            return None
        return self._since + (self._pause_s() if self.state is BAD else self._patience_s())

    def check(self) -> None:
        """Assert every invariant."""
        assert self.tries < TRIES
        assert (self.state in (IDLE, BAD)) or self.probe
        assert self.state is not LIVE or self.tracker.epoch > 0

    def _complete(self, head: Head, now: float) -> list[Effect]:
        self.denied, self._since = head.denied, now
        began, gaps = self.tracker.head(
            head.epoch, {t: s for t, s in self._heads.items() if self._hears(t)}
        )
        self.state, self.waiting, self.tries, self.bad = LIVE, False, 0, 0
        self._heads, self._page = {}, 0
        return [*gaps, Live(head, began)]

    def _probe(self, now: float) -> Probe:
        replaces, self.probe = self.probe, topics.probe(self.token(), self.prefixes)
        self.waiting, self._since = True, now
        self._heads, self._page = {}, 0
        return Probe(self.probe, replaces)

    def _give_up(self, why: str, now: float) -> list[Effect]:
        self.state, self.tries, self.waiting, self.probe = BAD, 0, False, b""
        self.bad += 1
        self._since = now
        return [Close(why)]

    def _patience_s(self) -> float:
        return HEAD_TIMEOUT_S if self.waiting or self.state is not LIVE else SILENT_S

    def _pause_s(self) -> float:
        return float(min(BAD_S * 2 ** min(self.bad - 1, 10), BAD_S_MAX))

    def _hears(self, topic: str) -> bool:
        return any(
            prefix in self.prefixes and prefix not in self.denied
            for prefix in topics.spellings(topic)
        )
