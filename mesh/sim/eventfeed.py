"""EventFeed: a simulated subscriber's EPHEMERAL events and last values of one publisher.

Never here: links, decisions; the machines take them.
"""

from typing import Final

from mesh.protocol import envelope, topics
from mesh.protocol.control import Snapshot, SnapshotPage
from mesh.protocol.envelope import Event
from mesh.protocol.lastvalue import LastValues
from mesh.protocol.sequence import Gap
from mesh.protocol.sync import Live
from mesh.sim.feed import Alarm, Ends, Feed
from mesh.sim.judges import Screen, heard

AGAIN_S: Final = 0.25
VALUES: Final = "lv."


class EventFeed(Feed):
    """Hear the events and last values of one publisher."""

    def __init__(self, ends: Ends, prefixes: set[str], nid: int) -> None:
        self.values = LastValues()
        self.screen = Screen(ends.process.name)
        self.owed: set[str] = set()  # prefixes whose snapshot waits for the next HEAD
        self.again: set[str] = set()  # prefixes to ask for soon
        self.asking = False
        self.soon = Alarm(ends.process, self._ask)
        super().__init__(ends, prefixes, nid)

    def want(self, prefixes: set[str]) -> None:
        """Hear *prefixes* too, their last values first."""
        self.owed |= {p for p in prefixes if topics.overlaps(p, VALUES)}
        super().want(prefixes)

    def drop(self, prefix: str) -> None:
        """Hear *prefix* no longer."""
        super().drop(prefix)
        self.values.forget(prefix, self.link.prefixes)
        self.screen.forget(self.link.prefixes)
        self.values.check()

    def on_event(self, event: Event) -> None:
        """Show a live value."""
        if not event.topic.startswith(VALUES) or not heard(self.link.prefixes, event.topic):
            return
        if self.values.live(event):
            self.screen.show(event.topic, event.epoch, event.seq)
        self.values.check()

    def on_live(self, live: Live) -> None:
        """Ask for the values that this HEAD is the base of."""
        if live.began:
            self.values.begin()
            self.owed |= {p for p in self.link.prefixes if topics.overlaps(p, VALUES)}
        self.again |= self.owed
        self.owed = set()
        self._ask()

    def on_gap(self, gap: Gap) -> None:
        """Doubt the value of the topic."""
        super().on_gap(gap)
        if gap.topic.startswith(VALUES):
            self.values.doubt(gap.topic, gap.last)
            self.again.add(gap.topic + "\0")
            self.soon.set(self.ends.now() + AGAIN_S)

    def holds(self) -> dict[str, tuple[int, int]]:
        """Return the values known, by epoch and sequence."""
        return {t: (e.epoch, e.seq) for t, e in sorted(self.values.values.items())}

    def _ask(self) -> None:
        if self.asking or not self.again or not self.link.tracker.synced:
            return
        prefixes, self.again = tuple(sorted(self.again)), set()
        self.asking = True
        self.values.ask()
        self._page(prefixes, "", self.link.tracker.epoch)

    def _page(self, prefixes: tuple[str, ...], after: str, run: int) -> None:
        body = envelope.encode_value(Snapshot(prefixes, after))
        self.ends.call(
            "snapshot", body, lambda reply, epoch: self._filled(prefixes, run, reply, epoch)
        )

    def _filled(
        self, prefixes: tuple[str, ...], run: int, reply: bytes | None, epoch: int
    ) -> None:
        # A snapshot counts only if one run gave all of it, and it is the run that is heard.
        if reply is None or not run == epoch == self.link.tracker.epoch:
            self._ended(prefixes, complete=False)
            return
        page: SnapshotPage = envelope.decode_value(reply, SnapshotPage)
        for frame in page.frames:
            event = envelope.decode_event(frame)
            if heard(self.link.prefixes, event.topic) and self.values.offer(event):
                self.screen.show(event.topic, event.epoch, event.seq)
        self.values.check()
        if page.after:
            self._page(prefixes, page.after, run)
        else:
            self._ended(prefixes, complete=True)

    def _ended(self, prefixes: tuple[str, ...], *, complete: bool) -> None:
        world = self.ends.process.world
        world.counters["snapshot" if complete else "snapshot torn"] += 1
        self.asking = False
        self.values.end(prefixes, complete=complete)
        self.values.check()
        if not complete:
            self.again |= {p for p in prefixes if p in self.link.prefixes or p.endswith("\0")}
        if self.again:
            self.soon.set(self.ends.now() + AGAIN_S)
