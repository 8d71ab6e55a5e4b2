"""Who hears what: routes events of the mesh to sessions, keeps last values, sees gaps.

Never here: sockets, decoding of bytes.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import msgspec

from mesh.errors import MeshError
from mesh.protocol.mode import NORMAL, SystemMode
from mesh.protocol.topics import matches
from nodes.domain.plain import plain
from nodes.gateway.messages import (
    Event,
    Frame,
    Gap,
    Reply,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from nodes.gateway.session import GOING_AWAY, OPEN, Call, Close, Session

# Topics whose newest value is all that counts. The gateway hears them always, so that whoever
# subscribes gets a snapshot at once.
VALUES: Final = (
    "md.quote.",
    "md.depth.",
    "md.mark.",
    "md.status.",
    "md.instrument.",
    "ta.",
    "risk.state.",
    "acct.position.",
    "acct.balance.",
)
TOPICS_MAX: Final = 10_000  # heads, routes and values remembered
_WISH: Final = re.compile(r"[a-z!][^\x00-\x1f\x7f]{0,199}")


class News(msgspec.Struct, frozen=True, gc=False):
    """An event as it came from the mesh, payload still encoded. ts: ns UTC."""

    topic: str
    node: str
    epoch: int
    seq: int
    offset: int
    ts: int
    schema: int
    payload: bytes
    tombstone: bool = False


class Listen(msgspec.Struct, frozen=True):
    """Subscribe to *prefix* on the mesh."""

    prefix: str


class Forget(msgspec.Struct, frozen=True):
    """Drop the subscription to *prefix*."""

    prefix: str


Order: TypeAlias = tuple[Session, Call | Close]  # what the edge does for one client
MeshEffect: TypeAlias = Listen | Forget


@dataclass(slots=True)
class Hub:
    """The sessions of the gateway. decode: schema and payload to a typed value."""

    decode: Callable[[int, bytes], Any]
    mode: SystemMode = NORMAL
    mode_epoch: int = 0
    undecodable: int = 0
    sessions: set[Session] = field(default_factory=set)
    values: dict[str, News] = field(default_factory=dict)
    listening: Counter[str] = field(default_factory=Counter)
    _heads: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _routes: dict[str, tuple[Session, ...]] = field(default_factory=dict)

    # Clients.

    def open(self, session: Session) -> None:
        """Take in a new session."""
        session.mode, session.mode_epoch = self.mode, self.mode_epoch
        self.sessions.add(session)

    def leave(self, session: Session) -> list[MeshEffect]:
        """Drop a session whose connection has ended. Idempotent."""
        effects = self._unsubscribe(session, tuple(session.topics))
        self.sessions.discard(session)
        return effects

    def receive(
        self, session: Session, data: bytes, now: float, wall_ns: int
    ) -> tuple[list[Order], list[MeshEffect]]:
        """Take one message of a client; return what to do for it, and on the mesh."""
        orders: list[Order] = []
        effects: list[MeshEffect] = []
        for effect in session.receive(data, now, wall_ns):
            match effect:
                case Subscribe():
                    closes, listens = self._subscribe(session, effect, now)
                    orders += [(session, close) for close in closes]
                    effects += listens
                case Unsubscribe():
                    effects += self._unsubscribe(session, tuple(map(pattern, effect.topics)))
                    answer = session.send(Reply(effect.id, None), now)
                    orders += [(session, end) for end in ends(answer)]
                case Call() | Close():
                    orders.append((session, effect))
        return orders, effects

    def drain(self, now: float) -> list[Order]:
        """Say good-bye to everybody."""
        return [
            (session, end)
            for session in tuple(self.sessions)
            for end in ends(session.close(GOING_AWAY, "the gateway stops", now, 1_000))
        ]

    def tick(self, now: float) -> list[Order]:
        """Let every session look at the time."""
        return [(s, end) for s in tuple(self.sessions) for end in ends(s.tick(now))]

    # The mesh.

    def set_mode(self, mode: SystemMode, mode_epoch: int, now: float) -> list[Order]:
        """Take the mode now in force and tell everybody if it is new."""
        if (mode, mode_epoch) == (self.mode, self.mode_epoch):
            return []
        self.mode, self.mode_epoch = mode, mode_epoch
        return [
            (session, end)
            for session in tuple(self.sessions)
            for end in ends(session.set_mode(mode, mode_epoch, now))
        ]

    def publish(self, news: News, now: float) -> list[Order]:
        """Hand an event to whoever listens; a repeated or older one to nobody."""
        is_value = news.topic.startswith(VALUES)
        gap = self._advance(news, is_value=is_value)
        if gap is False:
            return []
        if is_value:
            self._remember(news)
        hearers = self._hearers(news.topic)
        if not hearers:
            return []
        orders: list[Order] = []
        if isinstance(gap, Gap):
            orders += [(s, end) for s in hearers for end in ends(s.send(gap, now))]
        frame = self._frame(news)
        if frame is None:
            return orders
        for session in hearers:
            closes = session.publish(news.topic, frame, now, value=is_value)
            orders += [(session, end) for end in ends(closes)]
        return orders

    def check(self) -> None:
        """Assert every invariant."""
        wanted: Counter[str] = Counter()
        for session in self.sessions:
            session.check()
            wanted.update(session.topics)
        assert self.listening == wanted
        assert len(self.values) <= TOPICS_MAX

    def _subscribe(
        self, session: Session, wish: Subscribe, now: float
    ) -> tuple[list[Close], list[MeshEffect]]:
        denied: list[str] = []
        effects: list[MeshEffect] = []
        closes: list[Close] = []
        for topic in wish.topics:
            wanted = pattern(topic)
            full = len(session.topics) >= session.settings.topics_max
            if not _WISH.fullmatch(topic) or (full and wanted not in session.topics):
                denied.append(topic[:200])
                continue
            if wanted not in session.topics:
                session.topics.add(wanted)
                self.listening[wanted] += 1
                if self.listening[wanted] == 1 and not wanted.startswith(VALUES):
                    effects.append(Listen(wanted))
            if wish.snapshot:
                closes += self._snapshot(session, wish, wanted, now)
        self._routes.clear()
        answer = Subscribed(wish.id, recovered=False, denied=tuple(denied))
        closes += ends(session.send(answer, now))
        return closes, effects

    def _unsubscribe(self, session: Session, patterns: tuple[str, ...]) -> list[MeshEffect]:
        effects: list[MeshEffect] = []
        for wanted in session.topics.intersection(patterns):
            session.topics.discard(wanted)
            self.listening[wanted] -= 1
            if not self.listening[wanted]:
                del self.listening[wanted]
                if not wanted.startswith(VALUES):
                    effects.append(Forget(wanted))
                    self._forget_heads(wanted)
        self._routes.clear()
        return effects

    def _snapshot(self, session: Session, wish: Subscribe, wanted: str, now: float) -> list[Close]:
        closes: list[Close] = []
        for topic, news in self.values.items():
            data = self._data(news) if matches(wanted, topic) else None
            if data is not None:
                closes += ends(session.send(Snapshot(wish.id, topic, news.seq, data), now))
        return closes

    def _advance(self, news: News, *, is_value: bool) -> Gap | bool:
        """Move the head of a topic: False for old news, a Gap if some is missing."""
        key = (news.node, news.topic)
        epoch, seq = self._heads.get(key, (0, 0))
        if (news.epoch, news.seq) <= (epoch, seq):
            return False
        if len(self._heads) >= TOPICS_MAX:
            self._heads.clear()  # costs at most a repeated event per overlapping subscription
        self._heads[key] = (news.epoch, news.seq)
        if is_value or news.epoch != epoch or news.seq == seq + 1:
            return True
        return Gap(news.topic, seq + 1, news.seq - 1)

    def _forget_heads(self, wanted: str) -> None:
        """Forget positions that stand still from now on: later they would look like gaps."""
        for key in [key for key in self._heads if matches(wanted, key[1])]:
            if not any(matches(other, key[1]) for other in self.listening):
                del self._heads[key]

    def _remember(self, news: News) -> None:
        if news.tombstone:
            self.values.pop(news.topic, None)
        elif news.topic in self.values or len(self.values) < TOPICS_MAX:
            self.values[news.topic] = news

    def _hearers(self, topic: str) -> tuple[Session, ...]:
        found = self._routes.get(topic)
        if found is None:
            if len(self._routes) >= TOPICS_MAX:
                self._routes.clear()
            found = tuple(
                session
                for session in self.sessions
                if session.state is OPEN and any(matches(p, topic) for p in session.topics)
            )
            self._routes[topic] = found
        return found

    def _frame(self, news: News) -> Frame | None:
        data = None if news.tombstone else self._data(news)
        if data is None and not news.tombstone:
            return None
        return Frame(Event(news.topic, news.epoch, news.seq, news.ts, data, news.offset))

    def _data(self, news: News) -> Any:
        try:
            return plain(self.decode(news.schema, news.payload))
        except (msgspec.MsgspecError, MeshError, LookupError):
            self.undecodable += 1
            return None


def pattern(topic: str) -> str:
    """Return the mesh's spelling of a client's topic: no dot at the end means exactly one."""
    return topic if topic.endswith(".") else topic + "\0"


def ends(effects: list[Any]) -> list[Close]:
    """Return the closes among *effects*."""
    return [effect for effect in effects if isinstance(effect, Close)]
