"""Events are delivered once, in order, or reported lost; heartbeats tell of every topic."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh.protocol import envelope, outbound, topics
from mesh.protocol.control import Head, Heartbeat
from mesh.protocol.envelope import Event
from mesh.protocol.outbound import Outbound
from mesh.protocol.sequence import DELIVER, Gap
from mesh.protocol.sync import (
    LIVE,
    Close,
    Effect,
    LinkSync,
    Live,
    Open,
    Probe,
    Subscribe,
    Unsubscribe,
)
from tests.property.walks import CAP_BYTES, FATES, ROUNDS_MAX, names, run


@dataclass
class Heard:
    """What a subscriber got of one topic of one run."""

    base: int | None = None  # sequences above it must arrive, or show as gaps
    anchored: bool = False  # something of it came since it was wanted
    delivered: list[int] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


class LinkPromises(RuleBasedStateMachine):
    """A publisher's Outbound, its restarts, a pipe that loses and repeats, a LinkSync.

    Sequences are delivered in order, once; what is published while the link is synced is
    delivered or reported lost, once.
    """

    @initialize()
    def new(self) -> None:
        self.tokens = count(1)
        self.now = 0.0
        self.epoch = 0
        self.down: deque[bytes] = deque()
        self.subscribed: set[str] = set()
        self.probe = b""
        self.heard: dict[tuple[int, str], Heard] = {}
        self.sync = LinkSync(self.tokens.__next__)
        self.restart()
        self.do(self.sync.want({"a.", "!hb\0"}, self.now))

    # The publisher.

    @rule()
    def restart(self) -> None:
        """libzmq reconnects, sends the subscriptions again, the probe last."""
        self.epoch += 1
        self.out = Outbound(7, self.epoch, CAP_BYTES)
        self.down.clear()
        self.answer_probe()

    @rule()
    def answer_probe(self) -> None:
        self.down.extend(self.out.answer(self.probe, lambda prefix: True))

    @rule(topic=names, fate=FATES, size=st.integers(1, 3))
    def publish(self, topic: str, fate: str, size: int) -> None:
        for _ in range(size):
            self.send(Event(topic, 0x1001, 0, 0, 0, b"\x01"), fate)

    @rule(fate=FATES)
    def beat(self, fate: str) -> None:
        beat = Heartbeat(
            *(1, "ready", "SAFE", 1, 1, 0, 0, 0, 0, 0.0, 0.0, 0, 0), heads=self.out.beacon()
        )
        payload = envelope.encode_value(beat)
        self.send(Event(topics.HEARTBEAT, 2, 0, 0, 0, payload), fate)

    def send(self, event: Event, fate: str) -> None:
        frame = self.out.frame(event)
        if any(topics.matches(prefix, event.topic) for prefix in self.subscribed):
            self.down.extend([frame] * ("lost", "sent", "sent twice").index(fate))

    # The subscriber.

    @precondition(lambda self: self.down)
    @rule()
    def receive(self) -> None:
        event = envelope.decode_event(self.down.popleft())
        if event.topic.startswith("\xff"):
            head = envelope.decode_value(event.payload, Head)
            self.do(self.sync.head(head, event.topic.encode("latin-1"), self.now))
            return
        if event.topic == topics.HEARTBEAT:
            beat = envelope.decode_value(event.payload, Heartbeat)
            for shown in self.sync.beacon(event.epoch, beat.heads):
                self.lost(shown)
        verdict, gap = self.sync.frame(event.epoch, event.topic, event.seq)
        if gap is not None:
            self.lost(gap)
        if verdict is DELIVER:
            heard = self.of(event.topic, event.epoch)
            heard.anchored = True
            heard.delivered.append(event.seq)

    @rule()
    def lose_what_is_on_its_way(self) -> None:
        self.down.clear()

    @rule(prefixes=st.sets(st.sampled_from(("a.", "b.", "a.x\0", "b.x\0")), min_size=1))
    def want(self, prefixes: set[str]) -> None:
        self.do(self.sync.want(prefixes, self.now))

    @rule(prefix=st.sampled_from(("a.", "b.", "a.x\0", "b.x\0")))
    def drop(self, prefix: str) -> None:
        self.do(self.sync.drop(prefix))
        if prefix in self.subscribed:
            self.subscribed.remove(prefix)
        for (_, topic), heard in self.heard.items():
            if not self.hears(topic):
                heard.base, heard.anchored, heard.gaps = None, False, []
                heard.delivered = heard.delivered[-1:]

    @rule()
    def again(self) -> None:
        self.do(self.sync.again(self.now))

    @rule(seconds=st.sampled_from((0.1, 0.7, 1.6, 40.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.sync.tick(self.now))

    @rule()
    def wait_until_due(self) -> None:
        due = self.sync.next_deadline()
        if due is None or due <= self.now:
            return
        self.now, before = due, (self.sync.state, self.sync.tries)
        alive = self.sync.tracker.frames != self.sync._frames
        effects = self.sync.tick(due)
        after = self.sync.next_deadline()
        assert effects or (self.sync.state, self.sync.tries) != before or alive
        assert after is None or after > due or Open() in effects
        self.do(effects)

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Gap):
                self.lost(effect)
            elif isinstance(effect, Live):
                self.settle(effect)
            elif isinstance(effect, Probe):
                assert effect.replaces == self.probe
                self.probe = effect.topic
                self.answer_probe()
            elif isinstance(effect, Open):
                self.down.clear()
                self.subscribed, self.probe = set(), b""
                self.do(self.sync.opened(self.now))
            elif isinstance(effect, Close):
                self.down.clear()
                self.subscribed, self.probe = set(), b""
            else:
                self.subscribe(effect)

    def subscribe(self, effect: Effect) -> None:
        if isinstance(effect, Subscribe):
            self.subscribed.add(effect.prefix)
        elif isinstance(effect, Unsubscribe):
            self.subscribed.discard(effect.prefix)

    def settle(self, live: Live) -> None:
        """From this HEAD on nothing may be missed in silence."""
        epoch = live.head.epoch
        for topic in ("a.x", "a.y", "b.x", topics.HEARTBEAT):
            heard = self.of(topic, epoch)
            if heard.base is None and self.hears(topic):
                heard.base = live.head.heads.get(topic, 0)
                heard.delivered = [seq for seq in heard.delivered if seq > heard.base]
                heard.gaps = [gap for gap in heard.gaps if gap.last > heard.base]

    def hears(self, topic: str) -> bool:
        return any(topics.matches(prefix, topic) for prefix in self.sync.prefixes)

    def of(self, topic: str, epoch: int) -> Heard:
        return self.heard.setdefault((epoch, topic), Heard())

    def lost(self, gap: Gap) -> None:
        assert self.hears(gap.topic)
        assert 1 <= gap.first <= gap.last <= self.out.heads[gap.topic]
        heard = self.of(gap.topic, self.sync.tracker.epoch)
        assert heard.anchored or heard.base is not None, "a gap before anything was promised"
        assert gap.first > (heard.base or 0)
        heard.gaps.append(gap)

    @invariant()
    def check(self) -> None:
        self.sync.check()
        self.sync.tracker.check()

    @invariant()
    def nothing_twice_and_in_order(self) -> None:
        for heard in self.heard.values():
            assert heard.delivered == sorted(set(heard.delivered))
            lost = [seq for gap in heard.gaps for seq in range(gap.first, gap.last + 1)]
            assert len(lost) == len(set(lost))
            assert not set(lost) & set(heard.delivered)

    def teardown(self) -> None:
        """Heal: the link becomes live, and heartbeats show whatever was lost."""
        if not hasattr(self, "sync"):
            return
        for _ in range(ROUNDS_MAX):
            self.beat("sent")
            while self.down:
                self.receive()
            self.wait(0.5)
        self.check()
        self.nothing_twice_and_in_order()
        assert self.sync.state is LIVE
        for topic, last in self.out.heads.items():
            heard = self.of(topic, self.epoch)
            if heard.base is not None and self.hears(topic):
                lost = {seq for gap in heard.gaps for seq in range(gap.first, gap.last + 1)}
                assert {*heard.delivered, *lost} >= set(range(heard.base + 1, last + 1))


def test_events_are_delivered_once_in_order_or_reported_lost() -> None:
    run(LinkPromises, examples=150, steps=50)


def rounds(out: Outbound, moving: list[str]) -> Iterator[dict[str, int]]:
    while True:
        for topic in moving:
            out.frame(Event(topic, 1, 0, 0, 0, b""))
        yield out.beacon()


@given(
    still=st.integers(0, 60),
    moving=st.integers(0, 60),
    length=st.integers(8, 120),
    heads_max=st.integers(4, 30),
)
@settings(max_examples=60, deadline=None)
def test_every_topic_is_told_again_and_again(
    still: int, moving: int, length: int, heads_max: int
) -> None:
    """However many move, no topic waits longer than its share of the beacons allows."""
    every = [f"t.{n}".ljust(length, "x") for n in range(still + moving)]
    out = Outbound(7, 3, CAP_BYTES)
    for topic in every:
        out.frame(Event(topic, 1, 0, 0, 0, b""))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outbound, "BEACON_HEADS", heads_max)
        beacons = rounds(out, every[still:])
        share = heads_max // 4  # of those that do not move
        for _ in range(3):
            told = set[str]()
            for _ in range(len(every) // share + 2):
                heads = next(beacons)
                assert len(heads) <= heads_max
                assert all(out.heads[topic] == seq for topic, seq in heads.items())
                told |= heads.keys()
            assert told == set(every)
