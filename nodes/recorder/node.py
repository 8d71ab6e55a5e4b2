"""The recorder on the mesh: durable events into the database, history out of it.

The database may be away: events then wait in the journals of their publishers, and one
thread tries again and again. Where a journal is taken up stands in the database, written
together with its rows.

Never here: SQL.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, TypeVar

import msgspec

from mesh.errors import Invalid, StorageError, Unavailable
from mesh.protocol.control import EPHEMERAL, ModeChange
from mesh.runtime.component import Component, EventMeta, event, request
from nodes.domain.decisions import RiskDecision
from nodes.domain.market import Bar
from nodes.domain.orders import Fill, OrderEvent
from nodes.domain.schemas import SCHEMAS
from nodes.recorder.batch import Batch
from nodes.recorder.postgres import PostgresStore
from nodes.recorder.settings import RecorderSettings
from nodes.recorder.sqlite import SqliteStore
from nodes.recorder.store import Origin, Row, Store, rows_of

RETRY_S = 0.5  # first wait after a failure; doubles up to retry_max_s
T = TypeVar("T")


class HistoryQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What recorder.history is asked."""

    what: str
    limit: int = 100
    cursor: str | None = None


class RecorderNode(Component):
    """Keeps history."""

    says: ClassVar = {"rec.lag": EPHEMERAL}
    schemas = SCHEMAS

    def __init__(self, settings: RecorderSettings) -> None:
        super().__init__(settings)
        self.wanted = settings
        self.batch = Batch(rows_max=settings.batch_rows_max, age_s=settings.batch_age_ms / 1_000)
        self.written: dict[Origin, int] = {}  # as the database has it
        self.changed = asyncio.Event()  # something waits
        self.room = asyncio.Event()  # something was taken
        self.database = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self.store: Store | None = None  # None: away
        self.writing = False  # a batch was taken and is not yet in the database

    async def on_start(self) -> None:
        """Open the database if it is there, and go on without if not.

        Waiting here is on purpose: journals are taken up only after it is known from where.
        """
        try:
            self.take_over(*self.database.submit(self.connect).result())
        except StorageError as error:
            self.log.warning("database_away", why=str(error))
        self.spawn(self.write_batches(), "write batches")

    async def on_stop(self) -> None:
        """Write what waits, once; the rest is replayed by the next run."""
        if self.store is not None and self.batch.offsets and not self.writing:
            rows, offsets = self.batch.take()
            try:
                await self.in_thread(lambda: self.opened().write(rows, offsets))
            except StorageError as error:
                self.log.warning("unwritten_at_stop", rows=len(rows), why=str(error))
        if self.store is not None:
            await self.in_thread(self.store.close)
        self.database.shutdown(wait=False)

    def applied_offset(self, node: str, log_id: str) -> int:
        """Return where the database stands; 0 while it is away, as twice is once."""
        return self.written.get((node, log_id), 0)

    @event("order.", durable=True, halt=True)
    async def on_order(self, change: OrderEvent, meta: EventMeta) -> None:
        """Keep the event, and the order as it stands after it."""
        await self.keep(change, meta)

    @event("fill.", durable=True, halt=True)
    async def on_fill(self, fill: Fill, meta: EventMeta) -> None:
        """Keep a fill."""
        await self.keep(fill, meta)

    @event("risk.decision.", durable=True)
    async def on_decision(self, decision: RiskDecision, meta: EventMeta) -> None:
        """Keep an approval or denial."""
        await self.keep(decision, meta)

    @event("md.bar.", durable=True)
    async def on_bar(self, bar: Bar, meta: EventMeta) -> None:
        """Keep a bar."""
        await self.keep(bar, meta)

    @event("sys.mode", durable=True)
    async def on_mode_change(self, change: ModeChange, meta: EventMeta) -> None:
        """Keep a change of mode."""
        await self.keep(change, meta)

    @request("recorder.history", timeout_s=5.0)
    async def history(self, query: dict[str, Any], caller: str) -> dict[str, Any]:
        """Return a page of history, newest first: items, and the cursor of the next page."""
        try:
            asked = msgspec.convert(query, HistoryQuery)
        except msgspec.ValidationError as error:
            raise Invalid(f"recorder.history: {error}") from None
        try:
            items, after = await self.in_thread(
                lambda: self.opened().page(asked.what, asked.limit, asked.cursor)
            )
        except StorageError as error:
            raise Unavailable(str(error)) from error
        return {"items": items, "next": after}

    async def keep(self, value: object, meta: EventMeta) -> None:
        """Add an event to the batch; wait while it is full."""
        while self.batch.full:
            self.room.clear()
            await self.room.wait()
        origin = meta.node, meta.log_id
        rows = rows_of(value, node=origin[0], log_id=origin[1], offset=meta.offset)
        self.batch.add(rows, origin, meta.offset, self.monotonic_s())
        self.changed.set()

    async def write_batches(self) -> None:
        """Write batches one after the other, each until it is written."""
        if self.store is None:
            await self.persist(self.open_store)
        while True:
            await self.changed.wait()
            due = self.batch.due_at() or 0.0
            await asyncio.sleep(max(0.0, due - self.monotonic_s()))
            self.changed.clear()
            self.writing, began = True, self.monotonic_s()
            rows, offsets = self.batch.take()
            self.room.set()
            await self.persist(partial(self.write, rows, offsets))
            self.writing = False
            self.emit(
                "rec.lag", {"rows": len(rows), "ms": round((self.monotonic_s() - began) * 1e3)}
            )

    async def write(self, rows: list[Row], offsets: dict[Origin, int]) -> None:
        """Write one batch, over a new connection if the last one failed."""
        if self.store is None:
            await self.open_store()
        try:
            await self.in_thread(lambda: self.opened().write(rows, offsets))
        except StorageError:
            store, self.store = self.opened(), None
            await self.in_thread(store.close)
            raise
        self.written.update(offsets)

    async def persist(self, work: Callable[[], Any]) -> None:
        """Do *work* until the database does it; one line in the log per failure."""
        wait_s = RETRY_S
        while True:
            try:
                await work()
            except StorageError as error:
                self.log.warning("database_away", why=str(error), retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, self.wanted.retry_max_s)
            else:
                return

    async def open_store(self) -> None:
        """Connect over the thread and learn where the database stands."""
        self.take_over(*await self.in_thread(self.connect))

    def take_over(self, store: Store, written: dict[Origin, int]) -> None:
        """Use *store* from now on."""
        self.store, self.written = store, written

    def connect(self) -> tuple[Store, dict[Origin, int]]:
        """Return an open, migrated database and where it stands; belongs to the thread."""
        url = self.wanted.database_url
        store: Store
        store = PostgresStore(url) if url else SqliteStore(self.paths.state / "recorder.sqlite3")
        try:
            store.open()
            store.migrate(self.now_ns())
            return store, store.offsets()
        except BaseException:  # whatever it was goes on; only the connection must not stay
            store.close()
            raise

    def opened(self) -> Store:
        """Return the database. Raises StorageError while it is away."""
        if self.store is None:
            raise StorageError("recorder database: away")
        return self.store

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run *work* in the database's one thread."""
        return await asyncio.get_running_loop().run_in_executor(self.database, work)
