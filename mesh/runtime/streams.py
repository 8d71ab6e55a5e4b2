"""DurableLog: the durable events of this node, from a caller's wish to the publisher.

On disk before anybody is told: a frame is sent, a caller answered, only after the commit.
What the component decided is in its memory before it is on disk, so whatever may tell of it
waits for settled(). Acks, dead letters and offsets alone are no decisions: nothing tells of them.

Never here: numbering (mesh.protocol.commits), SQL, reading other nodes' logs.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from mesh.errors import Invalid, LocalProtocolError, NotFound, StorageError, Unavailable
from mesh.protocol.commits import Applied, DeadLetter, Group, GroupCommit, Wish
from mesh.protocol.control import Ack, Fetch, FetchPage
from mesh.protocol.envelope import Event
from mesh.protocol.once import Key, Row
from mesh.protocol.outbound import TOPICS_MAX, Outbound
from mesh.storage.journal import Journal
from mesh.transport.pubsub import Publisher

DISK_RETRY_S: Final = 0.25
HANG_S: Final = 30.0  # of one write; nobody may wait for a disk for ever
LOOK_S: Final = 0.5  # between two looks at what the writer does by itself
OFFSET_MAX: Final = (1 << 63) - 1  # SQLite knows no larger number

Ticket: TypeAlias = asyncio.Future[int]


class DurableLog:
    """Own one journal.

    on_fatal: told once when the disk failed and the node must end. on_lost: told of each
    consumer whose next offset retention had to delete.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        commits: "GroupCommit[Ticket]",
        publisher: Publisher | None,
        on_fatal: Callable[[BaseException], None],
        on_lost: Callable[[str], None] = lambda consumer: None,
    ) -> None:
        self.journal, self._commits = journal, commits
        self._loop, self._publisher = loop, publisher
        self._on_fatal, self._on_lost = on_fatal, on_lost
        self.full = False  # the last group was refused for want of space
        self.lost = self.rejects = 0  # consumers that retention overtook; acks that cannot be
        self._failed = self._closed = False
        self._since: float | None = None  # a group is being written
        self._added = 0  # wishes so far
        self._undecided: dict[Ticket, int] = {}  # decisions not on disk, oldest first
        self._held: dict[str, tuple[int, Callable[[], None]]] = {}  # by topic, in order
        self._retry: asyncio.TimerHandle | None = None
        journal.start(self._from_writer)
        self._look_again = loop.call_later(LOOK_S, self._look)

    @property
    def outbound(self) -> Outbound:
        """Return what numbers the events."""
        return self._commits.outbound

    @property
    def pending(self) -> bool:
        """Say whether something decided is not on disk yet."""
        return bool(self._undecided)

    def counters(self) -> dict[str, float]:
        """Return what was counted so far, for the heartbeat."""
        return {"consumers_lost": self.lost, "ack_rejects": self.rejects}

    async def store(  # the parts of one transaction, each named by the caller
        self,
        events: tuple[Event, ...] = (),
        *,
        applied: tuple[Applied, ...] = (),
        dead: tuple[DeadLetter, ...] = (),
        acks: tuple[Applied, ...] = (),
        rows: tuple[Row, ...] = (),
        forgotten: tuple[Key, ...] = (),
        patient: bool = False,
        decided: bool = True,
    ) -> int:
        """Store all of it in one transaction, publish the events; return the last offset.

        decided: the component's memory already shows it, or will when this returns. Raises
        Unavailable (executed: no) when the disk is full, unless patient: then it waits for
        space; and once the log is closed. Cancelling the wait does not take the wish back.
        """
        wish = Wish(
            self._loop.create_future(), events, applied, dead, acks, rows, forgotten, patient
        )
        return await self.put(wish, decided=decided)

    def put(self, wish: "Wish[Ticket]", *, decided: bool = True) -> Ticket:
        """Let *wish* wait for its turn and return its ticket, which tells its end; see store."""
        if self._closed:
            raise Unavailable("the journal is closed: the node ends")
        self._commits.add(wish)
        self._added += 1
        if decided:
            self._undecided[wish.ticket] = self._added
        self._pump()
        return wish.ticket

    async def settled(self) -> None:
        """Return once all that was decided before is on disk."""
        if self.pending:
            await self.store(patient=True, decided=False)

    def when_settled(self, topic: str, act: Callable[[], None]) -> None:
        """Call *act* once all that was decided before is on disk; at once if it is.

        Of a topic only the newest is held, for of a last value only the newest matters. Raises
        LocalProtocolError for more topics than a node may have.
        """
        if not self.pending:
            act()
            return
        if self._held.pop(topic, None) is None and len(self._held) >= TOPICS_MAX:
            raise LocalProtocolError(f"more than {TOPICS_MAX} last values wait for the disk")
        self._held[topic] = self._added, act

    def fetch(self, ask: Fetch) -> FetchPage:
        """Return committed records of a range. Raises Invalid for a range that is none."""
        journal = self.journal
        if ask.log_id != journal.log_id:
            return FetchPage(journal.log_id, (), 0, journal.first, journal.last)
        if not 0 <= ask.after <= ask.to <= OFFSET_MAX:
            raise Invalid(f"no range: {ask.after} to {ask.to}")
        try:
            page = journal.page(ask.after, min(ask.to, self._commits.last), ask.prefixes)
        except NotFound:  # deleted, perhaps this very moment: first says so
            return FetchPage(journal.log_id, (), ask.after, journal.first, journal.last)
        return FetchPage(journal.log_id, page.frames, page.through, journal.first, journal.last)

    async def ack(self, consumer: str, ack: Ack) -> None:
        """Note how far *consumer* has applied this log; retention spares what it has not."""
        if ack.log_id != self.journal.log_id:
            return  # it learns of this log from the next HEAD
        if not 0 <= ack.offset <= self._commits.last:
            self.rejects += 1  # nobody can have applied what never was
            return
        entry = Applied(consumer, ack.log_id, ack.offset)
        await self.store(acks=(entry,), decided=False)

    def close(self) -> None:
        """Finish what is being written and close the file; what still waits never happened."""
        self._closed = True
        self._look_again.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self.journal.close()

    def _pump(self) -> None:
        if self._closed or self._retry is not None:
            return  # if the disk was full a moment ago: the timer goes on
        group = self._commits.group()
        if group is None:
            return
        if any(group):
            self._since = self._loop.time()
            self.journal.write(group)
        else:  # somebody only waits for what was before
            self._loop.call_soon(self._written, None)

    def _from_writer(self, group: Group, error: BaseException | None) -> None:
        """Carry the outcome from the writer's thread to the loop."""
        self._loop.call_soon_threadsafe(partial(self._written, error))

    def _written(self, error: BaseException | None) -> None:
        self._since = None
        if error is None:
            self._publish()
        elif isinstance(error, Unavailable):
            self._refuse(error)
        else:
            self._fail(error)
            return
        self._pump()

    def _fail(self, error: BaseException) -> None:
        if not self._failed:
            self._failed = True
            self._on_fatal(error)

    def _look(self) -> None:
        """Learn what the writer found and did without being asked; nothing else may happen."""
        journal = self.journal
        if journal.failure is not None:
            self._fail(journal.failure)
            return
        if self._since is not None and self._loop.time() - self._since > HANG_S:
            self._fail(StorageError(f"{journal.path}: still writing after {HANG_S:g} s"))
            return
        self._look_again = self._loop.call_later(LOOK_S, self._look)
        while journal.lost:
            self.lost += 1
            self._on_lost(journal.lost.popleft())
        if journal.first != self._commits.first:
            self._commits.retained(journal.first)

    def _publish(self) -> None:
        self.full = False
        outcome = self._commits.committed()
        if self._publisher is not None:
            for frame in outcome.frames:
                self._publisher.send(frame)
        for ticket, offset in outcome.tickets:
            self._undecided.pop(ticket, None)
            if not ticket.done():
                ticket.set_result(offset)
        self._release()

    def _release(self) -> None:
        """Do what waited for decisions that are on disk now, or were refused."""
        oldest = next(iter(self._undecided.values()), self._added + 1)
        while self._held:
            topic, (added, act) = next(iter(self._held.items()))
            if added >= oldest:
                return
            del self._held[topic]
            act()

    def _refuse(self, error: Unavailable) -> None:
        self.full = True
        for ticket in self._commits.refused():
            self._undecided.pop(ticket, None)
            if not ticket.done():
                ticket.set_exception(Unavailable(error.message, retry_after_s=DISK_RETRY_S))
        self._release()
        self._retry = self._loop.call_later(DISK_RETRY_S, self._again)

    def _again(self) -> None:
        self._retry = None
        # What is refused while the disk is full writes nothing, so nothing else would ever show
        # that there is space again. With nobody waiting the next one to write finds out.
        self.full = self._commits.queued > 0
        self._pump()
