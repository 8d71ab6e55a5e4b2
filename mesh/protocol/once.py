"""Once: a request with a key has one effect, however often it is asked.

    IN_PROGRESS --answered--> ANSWERED --10 min--> forgotten
    IN_PROGRESS --refused before any effect--> forgotten
    IN_PROGRESS --doubted, or found on disk after a crash--> UNRESOLVED --asked--> IN_PROGRESS

A key is (node of the caller, 16 bytes): another run of the caller may ask again. The row of a
reply is stored in the transaction of its effect; so a key without a row has had no effect,
but for methods that act elsewhere too: theirs is marked on disk before they begin.

Never here: the disk, sessions, how a service finds out what happened.
"""

from dataclasses import dataclass, field
from enum import IntEnum, auto
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

KEEP_S: Final = 600.0  # a reply, at least, unless there are too many
ENTRIES_MAX: Final = 65_536
REPLIES_BYTES_MAX: Final = 16 * 1024 * 1024


class Standing(IntEnum):
    """Where a key stands."""

    IN_PROGRESS = auto()  # queued, running, or being stored
    ANSWERED = auto()
    UNRESOLVED = auto()  # it may have had its effect


class Turn(IntEnum):
    """What happened to a key."""

    ANSWER = auto()  # the effect and the reply are there
    DOUBT = auto()  # nobody can say whether the effect is
    ASK = auto()  # asked again: somebody must find out


IN_PROGRESS, ANSWERED, UNRESOLVED = Standing.IN_PROGRESS, Standing.ANSWERED, Standing.UNRESOLVED
ANSWER, DOUBT, ASK = Turn.ANSWER, Turn.DOUBT, Turn.ASK

# Exact: a walk in the tests visits every pair written here, and no other.
TRANSITIONS: Final = {
    IN_PROGRESS: {ANSWER: ANSWERED, DOUBT: UNRESOLVED},
    UNRESOLVED: {ASK: IN_PROGRESS},
    ANSWERED: dict[Turn, Standing](),
}


class Verdict(IntEnum):
    """What to do with a request that has a key."""

    FRESH = auto()  # execute it; its key is IN_PROGRESS now
    ATTACH = auto()  # it is being executed: wait for that
    STORED = auto()  # the reply is there
    RESOLVE = auto()  # ask the service what became of it; its key is IN_PROGRESS now
    CONFLICT = auto()  # the key was used for something else
    FULL = auto()  # too many keys are in progress


FRESH, ATTACH, STORED = Verdict.FRESH, Verdict.ATTACH, Verdict.STORED
RESOLVE, CONFLICT, FULL = Verdict.RESOLVE, Verdict.CONFLICT, Verdict.FULL


class Key(NamedTuple):
    """Whose request, and which."""

    node: str
    idem: bytes


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A key on disk, one row per (node, idem); the disk adds when. reply None: begun."""

    node: str
    idem: bytes
    digest: bytes
    reply: bytes | None = None


@dataclass(slots=True)
class _Entry:
    digest: bytes
    standing: Standing = IN_PROGRESS
    reply: bytes = b""
    since: float = 0.0  # when it was answered or doubted


@dataclass(slots=True)
class Once:
    """Decide for the keys of one server. now: monotonic seconds."""

    entries_max: int = ENTRIES_MAX
    bytes_max: int = REPLIES_BYTES_MAX
    early: int = 0  # replies forgotten before their time, for there were too many
    _entries: dict[Key, _Entry] = field(default_factory=dict)
    _settled: dict[Key, None] = field(default_factory=dict)  # answered or doubted, oldest first
    _bytes: int = 0
    _forgotten: list[Key] = field(default_factory=list)  # to be deleted from disk

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, row: Row, now: float) -> None:
        """Learn a row from disk, the oldest first, before anything is judged.

        It is kept as if it were new: its age by a wall clock would forget it early, and its
        effect be had twice, wherever that clock was set forward meanwhile. What no run lives
        long enough to forget ends by the limits.
        """
        key = Key(row.node, row.idem)
        standing = UNRESOLVED if row.reply is None else ANSWERED
        self._entries[key] = _Entry(row.digest, standing, row.reply or b"", now)
        self._settled[key] = None
        self._bytes += len(row.reply or b"")
        while len(self._entries) > self.entries_max or self._bytes > self.bytes_max:
            self._make_room(now)

    def judge(self, key: Key, method: int, body: bytes, now: float) -> Verdict:
        """Return what to do with a request; FRESH and RESOLVE end by answered() and its kin."""
        digest, entry = digest_of(method, body), self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self.entries_max and not self._make_room(now):
                return FULL
            self._entries[key] = _Entry(digest)
            return FRESH
        if entry.digest != digest:
            return CONFLICT
        if entry.standing is UNRESOLVED:
            self._settled.pop(key)
            entry.standing = TRANSITIONS[UNRESOLVED][ASK]
            return RESOLVE
        return STORED if entry.standing is ANSWERED else ATTACH

    def reply(self, key: Key) -> bytes:
        """Return the reply of a key that is STORED."""
        return self._entries[key].reply

    def row(self, key: Key, reply: bytes | None) -> Row:
        """Return what to store of *key* with its effect; reply None: before it begins."""
        return Row(key.node, key.idem, self._entries[key].digest, reply)

    def answered(self, key: Key, reply: bytes, now: float) -> None:
        """Learn that the effect of *key* and this reply are there to stay."""
        entry = self._settle(key, ANSWER, now)
        entry.reply = reply
        self._bytes += len(reply)
        while self._bytes > self.bytes_max and self._make_room(now):
            pass

    def doubted(self, key: Key, now: float) -> None:
        """Learn that nobody can say whether *key* had its effect."""
        self._settle(key, DOUBT, now)

    def refused(self, key: Key, *, marked: bool = False) -> None:
        """Learn that *key* had no effect: it may be asked anew. marked: a row says it began."""
        assert self._entries[key].standing is IN_PROGRESS
        del self._entries[key]
        if marked:
            self._forgotten.append(key)

    def tick(self, now: float) -> None:
        """Forget replies that are old enough."""
        while (at := self.next_deadline()) is not None and at <= now:
            self._forget(next(iter(self._settled)))

    def take_forgotten(self) -> tuple[Key, ...]:
        """Return the keys whose rows can be deleted from disk, each once."""
        found = tuple(self._forgotten)
        self._forgotten.clear()
        return found

    def next_deadline(self) -> float | None:
        """Return when tick() has something to do, None if never."""
        oldest = next(iter(self._settled), None)
        return None if oldest is None else self._entries[oldest].since + KEEP_S

    def check(self) -> None:
        """Assert every invariant."""
        settled = {k for k, entry in self._entries.items() if entry.standing is not IN_PROGRESS}
        assert settled == set(self._settled)
        assert self._bytes == sum(len(entry.reply) for entry in self._entries.values())
        assert all(e.standing is ANSWERED or not e.reply for e in self._entries.values())
        times = [self._entries[key].since for key in self._settled]
        assert times == sorted(times)

    def _settle(self, key: Key, turn: Turn, now: float) -> _Entry:
        entry = self._entries[key]
        entry.standing, entry.since = TRANSITIONS[entry.standing][turn], now
        self._settled[key] = None
        return entry

    def _make_room(self, now: float) -> bool:
        oldest = next(iter(self._settled), None)
        if oldest is None:
            return False
        self.early += now < self._entries[oldest].since + KEEP_S
        self._forget(oldest)
        return True

    def _forget(self, key: Key) -> None:
        del self._settled[key]
        self._bytes -= len(self._entries.pop(key).reply)
        self._forgotten.append(key)


def digest_of(method: int, body: bytes) -> bytes:
    """Return what tells the content of a request from another one's."""
    return blake2b(body, digest_size=16, salt=method.to_bytes(4, "little")).digest()
