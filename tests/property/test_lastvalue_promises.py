"""The newest value in the end, and never an older one after a newer one."""

from collections import deque
from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh.protocol import topics
from mesh.protocol.envelope import TOMBSTONE, Event
from mesh.protocol.lastvalue import LastValues
from tests.property.walks import ROUNDS_MAX, names, run


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
