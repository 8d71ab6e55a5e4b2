"""Topics: dotted, general to particular; the spelling of subscriptions and probes.

Never here: what is said on a topic.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mesh.errors import LocalProtocolError
from mesh.protocol.envelope import TOPIC_MAX_BYTES

HEARTBEAT: Final = "!hb"
VIEW: Final = "!view"
MODE: Final = "!mode"
LOG: Final = "!log"
BREAKER: Final = "breaker."  # and its name

PROBE_MARK: Final = b"\xff"
PROBE_MAX_BYTES: Final = 255
_LISTED: Final = b"\x1e"  # before each prefix of a probe
_EXACT: Final = b"\x1f"  # stands for the NUL of an exact one
_TOPIC: Final = re.compile(r"[a-z!][^\x00-\x1f\x7f\ud800-\udfff]*")
_TOKEN: Final = re.compile(rb"[0-9a-f]{16}")


def check(topic: str) -> str:
    """Return *topic* if it may be published. Raises LocalProtocolError."""
    if not _TOPIC.fullmatch(topic) or len(topic.encode()) > TOPIC_MAX_BYTES:
        raise LocalProtocolError(f"not a topic: {topic[:60]!r}")
    return topic


def matches(prefix: str, topic: str) -> bool:
    """Say whether a subscription to *prefix* hears *topic*; a final NUL means exactly."""
    return topic == prefix[:-1] if prefix.endswith("\0") else topic.startswith(prefix)


def spellings(topic: str) -> Iterator[str]:
    """Yield every prefix that hears *topic*, the widest first: where thousands are held, looking
    each of these up is less work than matching them all."""
    yield from (topic[:end] for end in range(len(topic) + 1))
    yield topic + "\0"


def overlaps(one: str, other: str) -> bool:
    """Say whether two prefixes can hear a common topic."""
    return matches(one, other.rstrip("\0")) or matches(other, one.rstrip("\0"))


def longest(prefixes: dict[str, int], topic: str) -> int | None:
    """Return the value of the longest prefix of *topic* among *prefixes*, None without one."""
    found = max((p for p in prefixes if matches(p, topic)), key=len, default=None)
    return None if found is None else prefixes[found]


def probe(token: int, prefixes: Iterable[str] = ()) -> bytes:
    """Return the probe topic of a 64-bit *token* that asks for the heads of *prefixes*.

    NUL-free, and above any UTF-8, so sorted last. A list that would make it longer than
    255 bytes is left out: then all heads are asked for.
    """
    bare = PROBE_MARK + f"{token:016x}".encode()
    listed = bare + b"".join(
        _LISTED + prefix.encode().replace(b"\0", _EXACT) for prefix in sorted(prefixes)
    )
    return listed if len(listed) <= PROBE_MAX_BYTES else bare


def probed(topic: bytes) -> tuple[str, ...] | None:
    """Return the prefixes that probe *topic* lists, () for all. None: it is no probe."""
    if not topic.startswith(PROBE_MARK) or len(topic) > PROBE_MAX_BYTES or b"\0" in topic:
        return None
    token, *listed = topic[1:].split(_LISTED)
    if not _TOKEN.fullmatch(token):
        return None
    try:
        return tuple(prefix.replace(_EXACT, b"\0").decode() for prefix in listed)
    except UnicodeDecodeError:
        return None
