"""Judges of requests: what became of every call, held against what happened on the disks.

Deeds judges effects, from what the disks hold; Desk what one run of a caller is told; Gate one
breaker; Spread which instances are chosen.

Never here: machines under test; a node's opinion is no evidence.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mesh.protocol.balancing import Candidate
from mesh.protocol.once import Key
from mesh.protocol.rpcs import ONCE, MethodClass
from mesh.sim.world import Violation

LATE_S: Final = 0.05  # a timer may be so late
PROBE_S: Final = 1.0  # a probe may answer so long after its deadline
RETRIES: Final = 10  # at once; and one for ten first calls
JITTER: Final = 0.2


class Who(NamedTuple):
    """One attempt of a call: whose, and whom it asks."""

    server: str
    node: str
    epoch: int
    corr: int


class Deed(NamedTuple):
    """What a write to a disk does: the effect of a body, for whom; key: None without one."""

    body: bytes
    key: Key | None
    whose: frozenset[Who]
    effect: bool
    reply: bytes | None


@dataclass(slots=True)
class Deeds:
    """Effects, replies and promises that there was and will be none."""

    numbers: int = 0
    meant: dict[int, Deed] = field(default_factory=dict)  # by number: what a write will do
    ever: set[bytes] = field(default_factory=set)  # bodies that had an effect
    done: dict[str, set[Key]] = field(default_factory=dict)  # by log: keys with an effect there
    rows: dict[str, dict[Key, bytes | None]] = field(default_factory=dict)  # by log: their reply
    replies: dict[Key, set[bytes]] = field(default_factory=dict)  # that were ever stored
    elsewhere: dict[Key, tuple[str, bytes]] = field(
        default_factory=dict
    )  # under the mark of a log
    worked_for: set[Who] = field(default_factory=set)
    told_no: set[Who] = field(default_factory=set)
    handed: dict[Who, float] = field(default_factory=dict)  # until when a server may begin it

    def mean(self, deed: Deed) -> int:
        """Learn what is handed to a disk; return its number there."""
        self.numbers += 1
        self.meant[self.numbers] = deed
        return self.numbers

    def kept(self, log_id: str, number: int) -> None:
        """Learn that a write is on disk."""
        deed = self.meant.pop(number)
        if deed.effect:
            self._effect(log_id, deed)
        if deed.key is not None:
            self._row(log_id, deed.key, deed.reply)

    def acted(self, log_id: str, key: Key, body: bytes, reply: bytes, whose: set[Who]) -> None:
        """Learn of an effect elsewhere: its mark must be on disk, and it must be the first."""
        if key not in self.rows.get(log_id, ()):
            raise Violation("unmarked", f"{key} acts without its mark in {log_id}")
        earlier = self.elsewhere.get(key)
        if earlier is not None and earlier[0] == log_id:
            raise Violation("twice", f"{key} has two effects elsewhere")
        self.elsewhere[key] = log_id, reply
        self._worked(body, whose)

    def taken(self, who: Who, until: float) -> None:
        """Learn that a server was handed a request that may begin until then."""
        self.handed[who] = until

    def begins(self, waiters: set[Who], now: float) -> None:
        """Learn that a handler begins; somebody must wait for it, in time."""
        until = max((self.handed[who] for who in waiters), default=-1.0)
        if now > until + LATE_S:
            raise Violation("stale", f"a request of {sorted(waiters)} begins at {now:.3f}")

    def works_for(self, waiters: set[Who]) -> None:
        """Learn that an effect that is there serves these too."""
        self.worked_for |= waiters
        self._check(waiters)

    def told(self, who: Who, executed: str) -> None:
        """Learn what a caller is told of an attempt that has no reply."""
        if executed == "no":
            self.told_no.add(who)
            self._check({who})

    def over(self, whose: Iterable[Who], executed: str) -> None:
        """Learn what a caller is told in the end of a call of so many attempts."""
        for who in whose:
            self.told(who, executed)

    def replied(self, key: Key | None, body: bytes, reply: bytes) -> None:
        """Learn the reply to a keyed or once request: its effect must be there, and stored."""
        if key is None:
            if body not in self.ever:
                raise Violation("no-effect", f"{body!r} is answered without an effect")
        elif reply not in self.replies.get(key, ()):
            raise Violation("unstored", f"{reply!r} of {key} runs ahead of the disk")

    def _effect(self, log_id: str, deed: Deed) -> None:
        if deed.key is None and deed.body in self.ever:
            raise Violation("twice", f"{deed.body!r} has two effects")
        if deed.key is not None:
            done = self.done.setdefault(log_id, set())
            if deed.key in done:
                raise Violation("twice", f"{deed.key} has two effects in {log_id}")
            done.add(deed.key)
        self._worked(deed.body, deed.whose)

    def _row(self, log_id: str, key: Key, reply: bytes | None) -> None:
        rows = self.rows.setdefault(log_id, {})
        before = rows.get(key)
        if before is not None and before != reply:
            raise Violation("two-replies", f"{key}: {before!r}, then {reply!r}")
        rows[key] = reply
        if reply is not None:
            self.replies.setdefault(key, set()).add(reply)

    def _worked(self, body: bytes, whose: Iterable[Who]) -> None:
        self.ever.add(body)
        self.worked_for |= set(whose)
        self._check(whose)

    def _check(self, whose: Iterable[Who]) -> None:
        for who in whose:
            if who in self.told_no and who in self.worked_for:
                raise Violation("executed-no", f"{who} was executed after all")


@dataclass(slots=True)
class Desk:
    """One run of a caller: each attempt ends once, each call in time, retries in their budget."""

    name: str
    retries_max: int  # of a call
    firsts: int = 0
    retries: int = 0
    open: dict[tuple[str, int], bytes] = field(default_factory=dict)  # attempts, to their body

    def asked(self, target: str, corr: int, body: bytes, kind: MethodClass, tries: int) -> None:
        """Learn of an attempt. tries: those before it."""
        self.open[target, corr] = body
        if tries == 0:
            return
        if kind is ONCE:
            raise Violation("once-again", f"{self.name}: {body!r} is asked again")
        if tries > self.retries_max:
            raise Violation("retries", f"{self.name}: {body!r} is asked {tries + 1} times")

    def begun(self) -> None:
        """Learn of a call."""
        self.firsts += 1

    def retried(self) -> None:
        """Learn that a call is made again."""
        self.retries += 1
        if self.retries > RETRIES + self.firsts / 10:
            raise Violation("retry-budget", f"{self.name}: {self.retries} for {self.firsts} calls")

    def ended(self, target: str, corr: int, reply: bytes | None) -> None:
        """Learn the end of an attempt; reply: None without one."""
        body = self.open.pop((target, corr), None)
        if body is None:
            raise Violation("unasked", f"{self.name}: {target} ends {corr} once more")
        if reply is not None and not reply.startswith(b"r" + body):
            raise Violation("wrong-reply", f"{self.name}: {reply!r} to {body!r}")

    def inflight(self, target: str, now: int) -> None:
        """Learn how many of its attempts a balancer believes to be under way."""
        real = sum(name == target for name, _ in self.open)
        if real != now:
            raise Violation("load", f"{self.name}: {now} at {target}, {real} really")

    @staticmethod
    def credit(name: str, out: int, window: int) -> None:
        """Learn how many requests of a session are out when one is sent."""
        if out > window:
            raise Violation("credit", f"{name}: {out} are out, {window} may be")

    @staticmethod
    def whole(body: bytes, parts: list[bytes], count: int) -> None:
        """Learn the parts of a reply that has ended well: all, in order."""
        if parts != [b"%d" % number for number in range(count)]:
            raise Violation("parts", f"{body!r}: {parts} of {count}")

    @staticmethod
    def offered(body: bytes, kind: MethodClass, *, again: bool) -> None:
        """Learn whether another attempt is offered."""
        if again and kind is ONCE:
            raise Violation("once-again", f"{body!r} may be asked again, it is said")

    @staticmethod
    def due(what: object, *, ended: bool) -> None:
        """Learn whether a call whose deadline is over has ended."""
        if not ended:
            raise Violation("overdue", f"{what} has no outcome")


@dataclass(slots=True)
class Gate:
    """One breaker: while it is open nothing passes but the trickle, then one probe at a time."""

    name: str
    failures_max: int
    cooldown_s: float
    trickle_s: float
    row: int = 0
    openings: int = 0
    opened: float | None = None  # None: closed
    probe: int | None = None  # the permit of the probe that is out
    probe_until: float = 0.0
    trickled: float = -1e9
    forced: bool = False

    def passed(self, permit: int, now: float, deadline: float) -> None:
        """Learn that a call passes; permit 0: off the record."""
        if permit == 0:
            if now < self.trickled + self.trickle_s:
                raise Violation("breaker", f"{self.name}: it trickles too fast")
            self.trickled = now
            return
        if self.forced:
            raise Violation("breaker", f"{self.name}: a call passes though it is forced open")
        if self.opened is None:
            return
        if self.probe is not None and now < self.probe_until:
            raise Violation("breaker", f"{self.name}: a second probe")
        if self.probe is None and now < self.opened + self.cooldown_s * (1 - JITTER):
            raise Violation("breaker", f"{self.name}: a call passes after {now - self.opened} s")
        self.probe, self.probe_until = permit, max(deadline, now) + PROBE_S

    def ended(self, permit: int, now: float, *, succeeded: bool, counted: bool) -> None:
        """Learn how a call ended, and whether the breaker made something of it."""
        if not counted:
            return
        if self.opened is not None:
            if permit != self.probe or now >= self.probe_until:
                raise Violation("breaker", f"{self.name}: an old call decides")
            self.probe, self.row = None, 0
            self.opened = None if succeeded else now
            return
        self.row = 0 if succeeded else self.row + 1

    def stands(self, now: float, *, refuses: bool) -> None:
        """Learn where the breaker says to stand: at failures_max in a row it must refuse."""
        if refuses and self.opened is None:
            self.opened, self.row = now, 0
        if self.row >= self.failures_max and not refuses:
            raise Violation("breaker", f"{self.name}: {self.row} failures in a row")

    def released(self, now: float) -> None:
        """Learn that nobody holds it open any more: a probe may be made, if its time has come."""
        self.forced, self.probe = False, None
        self.opened = now - self.cooldown_s

    def returned(self, permit: int, now: float) -> None:
        """Learn that a call was cancelled: if it was the probe, another may be made."""
        if permit == self.probe:
            self.probe_until = now


@dataclass(slots=True)
class Spread:
    """The choice of instances: usable ones, never the worst of several, with a key the same."""

    homes: dict[bytes, dict[frozenset[str], str]] = field(default_factory=dict)

    def chosen(self, among: list[Candidate], chosen: str | None, affinity: bytes | None) -> None:
        """Learn a choice."""
        usable = {c.instance: c.cost for c in among if c.usable}
        if chosen is None or chosen not in usable:
            if chosen is not None or usable:
                raise Violation("choice", f"{chosen} of {among}")
            return
        if affinity is not None:
            self._moved(affinity, frozenset(usable), chosen)
            return
        others = [cost for name, cost in usable.items() if name != chosen]
        if others and usable[chosen] > max(others):
            raise Violation("choice", f"{chosen} is the worst of {among}")

    def _moved(self, affinity: bytes, among: frozenset[str], chosen: str) -> None:
        """A key leaves an instance only if that is lost, and comes back with it."""
        homes = self.homes.setdefault(affinity, {})
        for others, home in homes.items():
            stays = (home in among and others >= among) or (chosen in others and among >= others)
            if stays and home != chosen:
                raise Violation("choice", f"{affinity!r}: {chosen}, {home} before")
        homes[among] = chosen
