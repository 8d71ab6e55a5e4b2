"""The event plane: its machines keep their promises whatever is lost, doubled, late or repeated.

Each machine runs beside a trivial model of what it serves, over links that lose and repeat.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mesh.protocol import catchup, commits, envelope, outbound, topics
from mesh.protocol.catchup import HALTED, SUBSCRIBED, CatchUp, Gone, Notice, Range, Reset
from mesh.protocol.commits import Group, GroupCommit, Wish
from mesh.protocol.control import Head, Heartbeat, LogIndex, StreamHead
from mesh.protocol.envelope import TOMBSTONE, Event
from mesh.protocol.lastvalue import LastValues
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

CAP_BYTES = 16 * 1024
ROUNDS_MAX = 200  # of a healed world, after which it must have converged
names = st.sampled_from(("a.x", "a.y", "b.x"))
FATES = st.sampled_from(("lost", "sent", "sent", "sent", "sent twice"))


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int = 50) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# An index, an offset for its record, a heartbeat's stream, a HEAD with the run that sent it.
Sent: TypeAlias = LogIndex | int | StreamHead | tuple[int, StreamHead]


class CatchUpPromises(RuleBasedStateMachine):
    """A journal of topics, a pipe that loses and repeats, fetches that fail or answer late.

    The consumer hears "a."; whatever happens it applies exactly the offsets of those topics,
    in order, once, but for what retention took and what it was told of.
    """

    @initialize()
    def new(self) -> None:
        self.log_id, self.topics, self.first = "j1", list[str](), 1
        self.pipe: deque[Sent] = deque()
        self.asked: list[Range] = []
        self.now = 0.0
        self.run = self.heard_run = 0  # runs of the owner: the present, the one whose HEAD came
        self.store = ("j1", 0)  # the consumer's disk
        self.excused = 0  # offsets up to here that retention took, as we were told
        self.taken: int | None = None
        self.begin_consumer()

    def begin_consumer(self) -> None:
        self.consumer: CatchUp[str] = CatchUp(("a.",))
        self.consumer.begin(*self.store)
        self.heard_run, self.taken = 0, None
        self.asked.clear()

    # The owner.

    @rule(group=st.lists(names, min_size=1, max_size=5), fates=st.lists(FATES, min_size=6))
    def store_group(self, group: list[str], fates: list[str]) -> None:
        first = len(self.topics) + 1
        self.topics += group
        frames: list[Sent] = [LogIndex(self.log_id, first, tuple(group))]
        frames += [
            offset for offset, topic in enumerate(group, first) if topics.matches("a.", topic)
        ]
        for frame, fate in zip(frames, fates, strict=False):
            self.pipe.extend([frame] * ("lost", "sent", "sent twice").index(fate))

    @rule()
    def beat(self) -> None:
        self.pipe.append(self.stream())

    @rule()
    def answer_probe(self) -> None:
        self.pipe.append((self.run, self.stream()))

    @rule(ahead=st.integers(0, 4))
    def retain(self, ahead: int) -> None:
        self.first = min(self.first + ahead, len(self.topics) + 1)

    @rule()
    def restart(self) -> None:
        self.run += 1
        self.pipe.clear()

    @precondition(lambda self: self.log_id == "j1")
    @rule()
    def delete_the_journal(self) -> None:
        self.log_id, self.topics, self.first = "j2", [], 1
        self.restart()

    def stream(self) -> StreamHead:
        return StreamHead("owner", self.log_id, self.first, len(self.topics))

    # The link and the consumer.

    @precondition(lambda self: self.pipe)
    @rule()
    def receive(self) -> None:
        frame = self.pipe.popleft()
        if isinstance(frame, tuple):
            run, stream = frame
            began, self.heard_run = run + 1 != self.heard_run, run + 1
            self.told(self.consumer.head(stream, began=began))
        elif self.heard_run != self.run + 1:
            return  # EARLY: of a run whose HEAD is still to come
        elif isinstance(frame, LogIndex):
            self.consumer.index(frame.log_id, frame.first, frame.topics)
        elif isinstance(frame, StreamHead):
            self.consumer.beacon(frame)
        else:
            self.consumer.live(frame, self.topics[frame - 1])

    @rule()
    def lose_what_is_on_its_way(self) -> None:
        self.pipe.clear()

    @rule(seconds=st.sampled_from((0.1, 6.0)))
    def ask(self, seconds: float) -> None:
        self.now += seconds
        self.asked += self.consumer.asks(self.now)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), rows=st.integers(1, 6))
    def answer(self, which: int, rows: int) -> None:
        asked = self.asked.pop(which % len(self.asked))
        if asked.log_id != self.log_id:
            self.consumer.failed(asked, self.now, 0.5)
            return
        through = min(asked.to, asked.after + rows, len(self.topics))
        if asked.after + 1 < self.first:
            through = asked.after
        found = [
            (offset, self.topics[offset - 1])
            for offset in range(asked.after + 1, through + 1)
            if self.topics[offset - 1].startswith("a.")
        ]
        self.told(self.consumer.page(asked, through, found, self.first))

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), dice=st.floats(0, 1))
    def fail(self, which: int, dice: float) -> None:
        self.consumer.failed(self.asked.pop(which % len(self.asked)), self.now, dice)

    @precondition(lambda self: self.taken is None)
    @rule()
    def take(self) -> None:
        taken = self.consumer.take()
        if taken is not None:
            self.taken = taken[0]

    @precondition(lambda self: self.taken is not None)
    @rule()
    def apply(self) -> None:
        offset, self.taken = self.taken, None
        assert offset is not None
        if self.consumer.taken:  # else the journal was reset while the handler worked
            self.applied(offset)
        self.consumer.done(offset)

    @rule()
    def confirm(self) -> None:
        log_id, confirmed = self.consumer.log_id, self.consumer.confirm()
        assert confirmed >= self.store[1] or log_id != self.store[0]
        if log_id == self.store[0]:
            assert not self.wanted(self.store[1], confirmed)  # nothing unapplied is confirmed
            self.store = (log_id, confirmed)

    @rule()
    def crash(self) -> None:
        self.begin_consumer()

    def told(self, notices: list[Notice]) -> None:
        for notice in notices:
            if isinstance(notice, Reset):
                self.store, self.excused = (notice.now, 0), 0
            elif isinstance(notice, Gone):
                # What was handed over before the hole is still to come; the hole is excused.
                self.excused = max(self.excused, notice.first - 1)
            else:
                pytest.fail(f"the owner never loses what it has stored: {notice}")

    def wanted(self, after: int, to: int) -> list[int]:
        """Return the offsets behind *after*, up to *to*, that the consumer must apply."""
        return [
            offset
            for offset in range(max(after, self.excused) + 1, to + 1)
            if self.log_id == self.store[0] and self.topics[offset - 1].startswith("a.")
        ]

    def applied(self, offset: int) -> None:
        log_id, before = self.store
        assert offset > before, "applied twice"
        if log_id == self.log_id:
            assert self.topics[offset - 1].startswith("a.")
            assert not self.wanted(before, offset - 1), "skipped"
        self.store = (log_id, offset)

    @invariant()
    def check(self) -> None:
        self.consumer.check()
        assert self.consumer.stage is not HALTED

    def teardown(self) -> None:
        """Heal: the owner answers, nothing is lost; the consumer has it all in a while."""
        if not hasattr(self, "consumer"):
            return
        self.pipe.clear()
        self.asked.clear()  # what was under way is lost, and stalls
        self.answer_probe()
        for _ in range(ROUNDS_MAX):
            while self.pipe:
                self.receive()
            self.ask(6.0)
            while self.asked:
                self.answer(0, 3)
            while self.taken is not None or self.consumer.ready:
                self.take()
                if self.taken is None:
                    break
                self.apply()
            self.check()
        assert self.consumer.stage is not SUBSCRIBED
        assert not self.wanted(self.store[1], len(self.topics))
        assert (self.consumer.lag, self.consumer.confirm()) == (0, len(self.topics))


def test_journal_is_applied_once_in_order_without_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"RANGE": 3, "WINDOW": 3, "READY_MAX": 4, "BUFFER_MAX": 4}
    for name, limit in limits.items():
        monkeypatch.setattr(catchup, name, limit)
    run(CatchUpPromises, examples=150, steps=60)


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


class CommitPromises(RuleBasedStateMachine):
    """Wishes come while groups are written, stored or refused; the model is a list of records."""

    @initialize()
    def new(self) -> None:
        self.commits: GroupCommit[int] = GroupCommit(Outbound(7, 3, 4096), "owner", "j", 1, 0)
        self.tickets = count()
        self.wishes: dict[int, Wish[int]] = {}  # neither stored nor refused
        self.order: list[int] = []
        self.group: Group | None = None
        self.disk: list[tuple[int, str, int]] = []
        self.published: list[tuple[int, str, int]] = []
        self.seqs: dict[str, int] = {}
        self.due: deque[tuple[int, str]] = deque()  # named by an index, not published yet

    @rule(events=st.lists(names, max_size=4), patient=st.booleans())
    def add(self, events: list[str], patient: bool) -> None:
        ticket = next(self.tickets)
        made = tuple(Event(topic, 0x1001, 0, 0, 0, b"\x01") for topic in events)
        self.wishes[ticket] = Wish(ticket, made, patient=patient)
        self.order.append(ticket)
        self.commits.add(self.wishes[ticket])

    @rule()
    def begin(self) -> None:
        group = self.commits.group()
        assert group is None or self.group is None
        self.group = group or self.group

    @precondition(lambda self: self.group is not None)
    @rule()
    def commit(self) -> None:
        assert self.group is not None
        for record in self.group.records:
            event = envelope.decode_event(record.frame)
            assert (record.offset, record.topic) == (event.offset, event.topic)
            assert event.offset == len(self.disk) + 1
            self.seqs[event.topic] = self.seqs.get(event.topic, 0) + 1
            assert event.seq == self.seqs[event.topic]
            self.disk.append((event.offset, event.topic, event.seq))
        self.group = None
        outcome = self.commits.committed()
        for frame in outcome.frames:
            self.publish(envelope.decode_event(frame))
        assert not self.due
        assert self.published == self.disk
        self.settle(outcome.tickets)

    def settle(self, tickets: list[tuple[int, int]]) -> None:
        """Each in its turn, with the offset of its last record."""
        assert [ticket for ticket, _ in tickets] == self.order[: len(tickets)]
        del self.order[: len(tickets)]
        stored = len(self.disk) - sum(len(self.wishes[ticket].events) for ticket, _ in tickets)
        for ticket, offset in tickets:
            stored += len(self.wishes.pop(ticket).events)
            assert offset == stored
        assert stored == len(self.disk)

    def publish(self, event: Event) -> None:
        if event.topic == topics.LOG:
            index = envelope.decode_value(event.payload, LogIndex)
            assert not self.due
            self.due.extend(enumerate(index.topics, index.first))
            return
        assert self.due.popleft() == (event.offset, event.topic)
        self.published.append((event.offset, event.topic, event.seq))

    @precondition(lambda self: self.group is not None)
    @rule()
    def refuse(self) -> None:
        self.group = None
        refused = self.commits.refused()
        assert all(not self.wishes[ticket].patient for ticket in refused)
        for ticket in refused:
            del self.wishes[ticket]
            self.order.remove(ticket)

    @rule(offsets=st.integers(0, 3))
    def retain(self, offsets: int) -> None:
        self.commits.retained(min(self.commits.first + offsets, self.commits.last + 1))

    @invariant()
    def check(self) -> None:
        self.commits.check()
        heads = {t: s for t, s in self.commits.outbound.heads.items() if t != topics.LOG}
        assert heads == self.seqs  # nothing that is not stored is known to anybody
        [stream] = self.commits.outbound.streams
        assert (stream.first, stream.last) == (self.commits.first, len(self.disk))

    def teardown(self) -> None:
        if not hasattr(self, "commits"):
            return
        for _ in range(ROUNDS_MAX):
            self.begin()
            if self.group is not None:
                self.commit()
        assert not self.wishes


def test_durable_events_are_stored_then_published_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits, "GROUP_RECORDS", 5)
    monkeypatch.setattr(commits, "INDEX_BYTES", 40)
    run(CommitPromises, examples=120)


@dataclass
class Ask:
    """A snapshot under way: of which prefixes, and what it will bring, once it is made."""

    prefixes: tuple[str, ...]
    epoch: int = 0
    values: list[Event] | None = None


class LastValuePromises(RuleBasedStateMachine):
    """Values and tombstones over a pipe that loses; snapshots made some time, here another."""

    @initialize()
    def new(self) -> None:
        self.epoch, self.heard = 0, 0
        self.pipe: deque[Event] = deque()
        self.asks: list[Ask] = []
        self.again: set[str] = set()
        self.last = LastValues()
        self.expected: dict[str, int] = {}
        self.shown: dict[str, tuple[int, int]] = {}
        self.restart()
        self.hear_head()

    @rule()
    def restart(self) -> None:
        self.epoch += 1
        self.values: dict[str, Event] = {}
        self.seqs: dict[str, int] = {}
        self.pipe.clear()

    @rule(topic=names, ended=st.booleans(), fate=st.sampled_from(("lost", "sent", "sent")))
    def publish(self, topic: str, ended: bool, fate: str) -> None:
        seq = self.seqs[topic] = self.seqs.get(topic, 0) + 1
        event = Event(topic, 1, 2, self.epoch, seq, b"", TOMBSTONE if ended else 0)
        if ended:
            self.values.pop(topic, None)
        else:
            self.values[topic] = event
        if fate == "sent":
            self.pipe.append(event)

    @precondition(lambda self: self.pipe and self.heard == self.epoch)
    @rule()
    def receive(self) -> None:
        event = self.pipe.popleft()
        self.reach(event.topic, event.seq - 1)
        self.expected[event.topic] = event.seq + 1
        if self.last.live(event):
            self.show(event)

    @precondition(lambda self: not self.pipe and self.heard == self.epoch)
    @rule()
    def beat(self) -> None:
        for topic, last in self.seqs.items():
            self.reach(topic, last)

    def reach(self, topic: str, last: int) -> None:
        """Learn that all up to *last* should have come."""
        if last >= self.expected.get(topic, 1):
            self.last.doubt(topic, last)
            self.again.add(topic + "\0")
            self.expected[topic] = last + 1

    @precondition(lambda self: self.heard != self.epoch)
    @rule()
    def hear_head(self) -> None:
        self.heard = self.epoch
        self.pipe.clear()  # EARLY: this HEAD covers it
        self.expected = {topic: seq + 1 for topic, seq in self.seqs.items()}
        self.last.begin()
        self.ask("")

    def ask(self, *prefixes: str) -> None:
        self.last.ask()
        self.asks.append(Ask(prefixes))

    @precondition(lambda self: self.again and self.heard == self.epoch)
    @rule()
    def ask_for_what_is_in_doubt(self) -> None:
        wanted, self.again = sorted(self.again), set()
        self.ask(*wanted)

    @precondition(lambda self: self.last.stale and not self.last.asking)
    @rule()
    def tick(self) -> None:
        self.ask(*(topic + "\0" for topic in sorted(self.last.stale)))

    @precondition(lambda self: any(ask.values is None for ask in self.asks))
    @rule(which=st.integers(0, 9))
    def make_snapshot(self, which: int) -> None:
        waiting = [ask for ask in self.asks if ask.values is None]
        ask = waiting[which % len(waiting)]
        ask.epoch = self.epoch
        ask.values = [
            event
            for topic, event in sorted(self.values.items())
            if any(topics.matches(prefix, topic) for prefix in ask.prefixes)
        ]

    @precondition(lambda self: any(ask.values is not None for ask in self.asks))
    @rule(which=st.integers(0, 9), torn=st.booleans())
    def take_snapshot(self, which: int, torn: bool) -> None:
        made = [ask for ask in self.asks if ask.values is not None]
        ask = made[which % len(made)]
        self.asks.remove(ask)
        complete = not torn and ask.epoch == self.heard
        values = ask.values or []
        for event in values[: None if complete else len(values) // 2]:
            if event.epoch == self.heard and self.last.offer(event):
                self.show(event)
        for event in self.last.end(ask.prefixes, complete=complete):
            self.shown.pop(event.topic, None)
        if not complete:
            self.again.update(ask.prefixes)

    def answer_all(self) -> None:
        while self.asks:
            if any(ask.values is None for ask in self.asks):
                self.make_snapshot(0)
            self.take_snapshot(0, torn=False)

    def show(self, event: Event) -> None:
        at = (event.epoch, event.seq)
        assert self.shown.get(event.topic, (0, 0)) < at, "an older value after a newer one"
        self.shown[event.topic] = at

    @invariant()
    def check(self) -> None:
        self.last.check()
        assert self.last.asking == len(self.asks)

    def teardown(self) -> None:
        if not hasattr(self, "last"):
            return
        if self.heard != self.epoch:
            self.hear_head()
        while self.pipe:
            self.receive()
        for _ in range(ROUNDS_MAX):
            self.beat()
            if self.again:
                self.ask_for_what_is_in_doubt()
            elif self.last.stale and not self.last.asking:
                self.tick()
            self.answer_all()
        assert not self.last.stale
        held = {topic: (e.epoch, e.seq) for topic, e in self.last.values.items()}
        assert held == {topic: (e.epoch, e.seq) for topic, e in self.values.items()}


def test_newest_value_in_the_end_and_never_an_older_one_after_it() -> None:
    run(LastValuePromises, examples=200)


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
