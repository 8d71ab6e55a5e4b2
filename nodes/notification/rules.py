"""Events to alerts: which matter, how much, and how often one may say so.

The same alert is said once per window; beyond a rate only critical ones pass, and the next
one tells how many did not.

Never here: delivery, clocks.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from mesh.protocol.control import ModeChange
from mesh.protocol.mode import EMERGENCY, NORMAL, parse_mode
from nodes.domain.decisions import Alert, RiskDecision
from nodes.domain.market import FeedState, FeedStatus
from nodes.domain.numbers import canon
from nodes.domain.orders import Fill

INFO: Final = "info"
WARNING: Final = "warning"
CRITICAL: Final = "critical"
SEVERITIES: Final = (INFO, WARNING, CRITICAL)

LIVE = FeedState.LIVE
DOWN = FeedState.DOWN
QUIET: Final = frozenset({FeedState.SYNCING, FeedState.RESYNCING})  # they pass by themselves
ENDED: Final = "END"  # a recording was played to its end, as it should
KEYS_MAX: Final = 4_096  # remembered for de-duplication


def alert_of(event: object) -> tuple[str, Alert] | None:
    """Return the alert an event deserves and the key that makes two of them the same."""
    match event:
        case Fill():
            size = f"{event.side} {canon(event.quantity)} {event.instrument}"
            body = f"{size} at {canon(event.price)}, fee {canon(event.fee)} {event.fee_ccy}"
            key = f"fill {event.account} {event.instrument} {event.fill_id}"
            return key, Alert(INFO, f"{event.strategy} filled", body, event.ts_event)
        case ModeChange():
            return _of_mode(event)
        case RiskDecision(approved=False):
            title = f"{event.strategy} denied: {event.code}"
            key = f"denied {event.strategy} {event.code}"
            return key, Alert(WARNING, title, event.detail, event.ts_decided)
        case FeedStatus() if event.state not in QUIET:
            return _of_feed(event)
    return None


def _of_mode(event: ModeChange) -> tuple[str, Alert]:
    mode = parse_mode(event.mode)
    severity = INFO if mode is NORMAL else CRITICAL if mode is EMERGENCY else WARNING
    body = f"{event.reason} (by {event.by})"
    key = f"mode {event.term} {event.mode_epoch}"
    return key, Alert(severity, f"mode {mode}", body, event.since)


def _of_feed(event: FeedStatus) -> tuple[str, Alert]:
    well = event.state is LIVE or event.reason == ENDED
    severity = INFO if well else CRITICAL if event.state is DOWN else WARNING
    title = f"{event.instrument} {event.channel} {event.state}"
    return title, Alert(severity, title, event.reason, event.since)


@dataclass(slots=True)
class Rules:
    """Decide what is said; *now* is monotonic seconds everywhere."""

    severity_min: str
    repeat_s: float  # the same alert again only after this
    per_minute_max: int
    muted_until: float = 0.0
    suppressed: int = 0  # by the rate, since the last one that passed
    dropped: int = 0  # in all, for whatever reason
    _bad_feeds: set[tuple[str, str]] = field(default_factory=set)
    _said: dict[str, float] = field(default_factory=dict)
    _times: deque[float] = field(default_factory=deque)

    def handle(self, event: object, now: float) -> Alert | None:
        """Return the alert to deliver, or None."""
        found = alert_of(event)
        if found is None or (isinstance(event, FeedStatus) and self._was_never_bad(event)):
            return None
        key, alert = found
        if not self._wanted(alert.severity, now) or self._repeated(key, now):
            self.dropped += 1
            return None
        if alert.severity != CRITICAL and not self._within_rate(now):
            self.suppressed += 1
            self.dropped += 1
            return None
        self._times.append(now)
        if self.suppressed:
            body = f"{alert.body} (+{self.suppressed} not sent)".strip()
            alert = Alert(alert.severity, alert.title, body, alert.ts_event)
            self.suppressed = 0
        return alert

    def mute(self, seconds: float, now: float) -> None:
        """Say nothing but critical for so long; 0 ends it."""
        self.muted_until = now + seconds

    def _was_never_bad(self, status: FeedStatus) -> bool:
        """Say whether a feed is only as it should be; LIVE is news after trouble alone."""
        feed = status.instrument, status.channel
        if status.state is not LIVE:
            self._bad_feeds.add(feed)
            return False
        known = feed in self._bad_feeds
        self._bad_feeds.discard(feed)
        return not known

    def _wanted(self, severity: str, now: float) -> bool:
        if severity == CRITICAL:
            return True
        loud = SEVERITIES.index(severity) >= SEVERITIES.index(self.severity_min)
        return loud and now >= self.muted_until

    def _repeated(self, key: str, now: float) -> bool:
        said = self._said.get(key)
        if said is not None and now - said < self.repeat_s:
            return True
        self._said.pop(key, None)  # to the end: oldest first
        self._said[key] = now
        if len(self._said) > KEYS_MAX:
            del self._said[next(iter(self._said))]
        return False

    def _within_rate(self, now: float) -> bool:
        while self._times and now - self._times[0] >= 60.0:
            self._times.popleft()
        return len(self._times) < self.per_minute_max
