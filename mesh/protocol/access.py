"""Access: who may hear, say and call what, by role; and how many subscriptions a user may hold.

A user is what the authenticator made of a peer: a node's name, `local:<uid>` for a person at
this host, `anonymous`. A grant ending in a dot is a subtree; any other is one topic or method.

Never here: how a user is known, sockets, files.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Self

import msgspec

from mesh.errors import ConfigError, LocalProtocolError
from mesh.protocol import topics

ANONYMOUS: Final = "anonymous"
LOCAL: Final = "local:"
CLI: Final = "cli"  # the role of people at this host
GUEST: Final = "guest"  # the role of nodes without one of their own
ACCESS_FILE: Final = "config/access.toml"

SUBSCRIPTIONS_MAX: Final = 10_000  # topics of one user at one publisher
SUBSCRIPTION_MAX_BYTES: Final = 255  # a topic has 200, a probe 255
SUBSCRIPTIONS_PER_S: Final = 1_000  # sustained; a reconnection sends all at once, hence the burst
USERS_MAX: Final = 1_024  # remembered by a guard

_METHOD: Final = re.compile(r"[a-z_]+(\.[a-z_]+)*\.?", re.ASCII)


class Grants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one role may do."""

    sub: tuple[str, ...] = ()
    pub: tuple[str, ...] = ()
    call: tuple[str, ...] = ()

    def may_hear(self, prefix: str) -> bool:
        """Say whether all that a subscription to *prefix* hears is granted."""
        return any(covers(grant, prefix) for grant in self.sub)

    def may_say(self, topic: str) -> bool:
        """Say whether *topic*, or all below it if it ends in a dot, may be published."""
        return any(covers(grant, topic) for grant in self.pub)

    def may_call(self, method: str) -> bool:
        """Say whether *method* may be called."""
        return any(covers(grant, method) for grant in self.call)

    def __or__(self, other: "Grants") -> "Grants":
        return Grants(self.sub + other.sub, self.pub + other.pub, self.call + other.call)


NOTHING: Final = Grants()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roles: dict[str, Grants]
    every: Grants = NOTHING


@dataclass(frozen=True, slots=True)
class Access:
    """The grants of every role; assigned: roles of nodes that do not follow from their names."""

    roles: Mapping[str, Grants]
    assigned: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, source: str = ACCESS_FILE) -> Self:
        """Return the access that a file describes. Raises ConfigError naming file and fault."""
        try:
            file = msgspec.convert(tomllib.loads(text), _File)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{source}: {error}") from None
        for name in (GUEST, CLI):
            if name not in file.roles:
                raise ConfigError(f"{source}: no table [roles.{name}]")
        for name, grants in (("every", file.every), *file.roles.items()):
            _check_grants(grants, f"{source}: {name}")
        return cls({name: file.every | grants for name, grants in file.roles.items()})

    def assign(self, roles: Mapping[str, str]) -> "Access":
        """Return this access with *roles* by node. Raises ConfigError for an unknown role."""
        for node, role in roles.items():
            if role not in self.roles or role == CLI:
                raise ConfigError(f"node {node}: no role {role!r} in {ACCESS_FILE}")
        return Access(self.roles, dict(roles))

    def role_of(self, user: str) -> str | None:
        """Return the role of *user*, None for one without any."""
        if not user or user == ANONYMOUS:
            return None
        if user.startswith(LOCAL):
            return CLI
        role = self.assigned.get(user) or user.partition(".")[0]
        return role if role in self.roles and role != CLI else GUEST

    def of(self, user: str) -> Grants:
        """Return the grants of *user*; keep them for a session, for they do not change."""
        role = self.role_of(user)
        return NOTHING if role is None else self.roles.get(role, NOTHING)

    def may_hear(self, user: str, prefix: str) -> bool:
        """Say whether *user* may subscribe to *prefix*; a final NUL means exactly."""
        return self.of(user).may_hear(prefix)

    def may_say(self, node: str, topic: str) -> bool:
        """Say whether *node* may publish *topic*, or all below it if it ends in a dot."""
        return self.of(node).may_say(topic)

    def may_call(self, user: str, method: str) -> bool:
        """Say whether *user* may call *method*."""
        return self.of(user).may_call(method)


def is_node(user: str, node: str) -> bool:
    """Say whether *user* may greet as *node*: a node as itself, a person as the command line."""
    if user.startswith(LOCAL):
        return node.startswith(CLI + ".")
    return user == node and user not in ("", ANONYMOUS)


def covers(grant: str, prefix: str) -> bool:
    """Say whether *grant* holds all of *prefix*: `md.` neither `md`, `mdx.` nor the empty one.

    The empty grant holds everything but a bare `!`. One topic is granted to a subscription
    with and without the final NUL, for handlers are bound without.
    """
    if not grant:
        return prefix != "!"
    if grant.endswith("."):
        return prefix.startswith(grant)
    return prefix in (grant, grant + "\0")


def _check_grants(grants: Grants, where: str) -> None:
    for grant in (*grants.sub, *grants.pub):
        if grant and not _is_topic_grant(grant):
            raise ConfigError(f"{where}: {grant!r} is no topic; end a subtree in a dot")
    for grant in grants.call:
        if not _METHOD.fullmatch(grant) or "." not in grant:
            raise ConfigError(f"{where}: {grant!r} is no method; end a service in a dot")


def _is_topic_grant(grant: str) -> bool:
    """A single word is a subtree whose dot was forgotten; as a prefix it would grant too much."""
    try:
        topics.check(grant)
    except LocalProtocolError:
        return False
    return "." in grant or (grant.startswith("!") and grant != "!")


class Ruling(Enum):
    """What a publisher does with one subscription frame, before it reads the next."""

    GRANT = auto()  # install it: setsockopt(SUBSCRIBE)
    ANSWER = auto()  # a probe: install it and publish HEAD on it
    END = auto()  # setsockopt(UNSUBSCRIBE)
    DENY = auto()  # not granted to this user: nothing
    IGNORE = auto()  # malformed, too long, too many or too fast: nothing


GRANT = Ruling.GRANT
ANSWER = Ruling.ANSWER
END = Ruling.END
DENY = Ruling.DENY
IGNORE = Ruling.IGNORE


@dataclass(slots=True)
class _User:
    held: int = 0  # distinct topics
    tokens: float = float(SUBSCRIPTIONS_MAX)
    at: float = 0.0


@dataclass(slots=True)
class SubscriptionGuard:
    """Judge each subscription frame of one publisher; bounded per user. now: monotonic seconds.

    When a peer goes, libzmq ends its subscriptions without saying whose they were. Then the
    user with the most connections on that topic is taken: the cap is a guard, no account.
    """

    access: Access
    denied: int = 0
    ignored: int = 0
    _topics: dict[bytes, dict[str, int]] = field(default_factory=dict)  # to connections by user
    _users: dict[str, _User] = field(default_factory=dict)

    def judge(self, user: str, frame: bytes, now: float) -> Ruling:
        """Return what to do with *frame*, which begins with 1 (subscribe) or 0 (unsubscribe)."""
        verb, topic = frame[:1], frame[1:]
        if verb == b"\0":
            self._end(user, topic)
            return END
        if verb != b"\1" or len(topic) > SUBSCRIPTION_MAX_BYTES or not self._paid(user, now):
            self.ignored += 1
            return IGNORE
        ruling = self._ruling(user, topic)
        if ruling is DENY:
            self.denied += 1
        elif not self._hold(user, topic):
            self.ignored += 1
            return IGNORE
        return ruling

    def reset(self) -> None:
        """Forget what is held: the socket was replaced, nobody will end it. Rates stay."""
        self._topics.clear()
        for state in self._users.values():
            state.held = 0

    def held(self, user: str) -> int:
        """Return how many distinct topics *user* holds."""
        return self._users[user].held if user in self._users else 0

    def check(self) -> None:
        """Assert every invariant."""
        held: dict[str, int] = {}
        for users in self._topics.values():
            assert users
            assert all(count > 0 for count in users.values())
            for user in users:
                held[user] = held.get(user, 0) + 1
        assert held == {user: state.held for user, state in self._users.items() if state.held}
        assert all(count <= SUBSCRIPTIONS_MAX for count in held.values())

    def _ruling(self, user: str, topic: bytes) -> Ruling:
        grants = self.access.of(user)
        if not grants.sub:
            return DENY
        if topic.startswith(topics.PROBE_MARK):  # a shorter one would hear others' HEADs
            return DENY if topics.probed(topic) is None else ANSWER
        try:
            return GRANT if grants.may_hear(topic.decode()) else DENY
        except UnicodeDecodeError:
            return DENY

    def _paid(self, user: str, now: float) -> bool:
        state = self._users.get(user)
        if state is None:
            if len(self._users) >= USERS_MAX and not self._forget():
                return False
            state = self._users[user] = _User(at=now)
        earned = (now - state.at) * SUBSCRIPTIONS_PER_S
        state.tokens = min(state.tokens + earned, float(SUBSCRIPTIONS_MAX))
        state.at = now
        if not state.tokens >= 1.0:
            return False
        state.tokens -= 1.0
        return True

    def _forget(self) -> bool:
        """Forget the users that hold nothing; say whether that made room."""
        self._users = {user: state for user, state in self._users.items() if state.held}
        return len(self._users) < USERS_MAX

    def _hold(self, user: str, topic: bytes) -> bool:
        state, users = self._users[user], self._topics.get(topic, {})
        if user not in users:
            if state.held >= SUBSCRIPTIONS_MAX:
                return False
            state.held += 1
        self._topics.setdefault(topic, users)[user] = users.get(user, 0) + 1
        return True

    def _end(self, user: str, topic: bytes) -> None:
        users = self._topics.get(topic)
        if users is None:
            return
        whose = user or max(users, key=lambda name: users[name])
        if whose not in users:
            return
        users[whose] -= 1
        if not users[whose]:
            del users[whose]
            self._users[whose].held -= 1
        if not users:
            del self._topics[topic]
