"""Topics: dotted, general to particular; the spelling of subscriptions and probes.

Never here: what is said on a topic.
"""

import re
from typing import Final

from mesh.errors import LocalProtocolError
from mesh.protocol.envelope import TOPIC_MAX_BYTES

HEARTBEAT: Final = "!hb"
VIEW: Final = "!view"
MODE: Final = "!mode"

PROBE_MARK: Final = b"\xff"
_TOPIC: Final = re.compile(r"[a-z!][^\x00-\x1f\x7f]*")


def check(topic: str) -> str:
    """Return *topic* if it may be published. Raises LocalProtocolError."""
    if not _TOPIC.fullmatch(topic) or len(topic.encode()) > TOPIC_MAX_BYTES:
        raise LocalProtocolError(f"not a topic: {topic[:60]!r}")
    return topic


def matches(prefix: str, topic: str) -> bool:
    """Say whether a subscription to *prefix* hears *topic*; a final NUL means exactly."""
    return topic == prefix[:-1] if prefix.endswith("\0") else topic.startswith(prefix)


def overlaps(one: str, other: str) -> bool:
    """Say whether two prefixes can hear a common topic."""
    one, other = one.rstrip("\0"), other.rstrip("\0")
    return one.startswith(other) or other.startswith(one)


def longest(prefixes: dict[str, int], topic: str) -> int | None:
    """Return the value of the longest prefix of *topic* among *prefixes*, None without one."""
    found = max((p for p in prefixes if matches(p, topic)), key=len, default=None)
    return None if found is None else prefixes[found]


def probe(token: int) -> bytes:
    """Return the probe topic of a 64-bit *token*: NUL-free, above any UTF-8, so sorted last."""
    return PROBE_MARK + f"{token:016x}".encode()
