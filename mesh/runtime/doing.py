"""Doing: which request the code that runs now is the answer to, and what it has stored of it.

It travels in the context, like the deadline; tasks of the process that outlive a request begin
without one.

Never here: deciding, the wire, SQL.
"""

import asyncio
from contextvars import ContextVar
from typing import Final

import msgspec

from mesh.protocol import envelope
from mesh.protocol.answering import Answering
from mesh.protocol.cause import Cause, root_trace
from mesh.protocol.commits import Applied, Wish
from mesh.protocol.envelope import Event
from mesh.protocol.rpcs import Caller
from mesh.protocol.work import Work
from mesh.runtime.streams import DurableLog, Ticket

NO_REPLY: Final = object()


class Doing(msgspec.Struct):
    """A request in the hands of its handler. reply: encoded, in the transaction of the effect.

    corr: of its caller. nid: of this node. before: what the request itself follows from. work:
    None for a plain one, of which nothing is remembered.
    """

    caller: Caller
    method: str
    corr: int
    nid: int
    before: Cause | None
    work: Work | None = None
    recalls: bool = False  # the handler's own records stand for the key
    reply: bytes | None = None
    began: bool = False
    ended: bool = False  # the handler; its answer may wait for the disk
    dropped: bool = False  # aborted

    @property
    def stores(self) -> bool:
        """Say whether a commit takes the key along."""
        return self.work is not None and self.work.key is not None and not self.recalls

    def follows(self) -> Cause:
        """Return the cause of what is done because of this request."""
        asked = self.caller.nid, self.caller.epoch, self.corr, self.method
        if self.before is None:  # nobody knows when it entered the mesh
            return Cause(root_trace(*asked, self.nid), *asked)
        return Cause(self.before.trace, *asked, self.before.ts_recv)


current: Final[ContextVar[Doing | None]] = ContextVar("doing", default=None)


async def store_with_row(
    answering: Answering,
    log: DurableLog,
    doing: Doing,
    reply: object,
    events: tuple[Event, ...],
    applied: tuple[Applied, ...],
    patient: bool,
) -> int:
    """Store events and what they mean for the request in one transaction; see DurableLog.store.

    reply: NO_REPLY leaves a mark that the effect may be incomplete. The first one counts.
    """
    work = doing.work
    assert work is not None, "a plain request has no key"
    before = work.committed, doing.reply
    told = doing.reply
    if told is None and reply is not NO_REPLY:
        told = envelope.encode_value(reply)
    row = answering.row(work.number, told)
    ticket: Ticket = asyncio.get_running_loop().create_future()
    rows = () if row is None else (row,)
    log.put(Wish(ticket, events, applied, rows=rows, patient=patient))
    doing.reply = told
    answering.committed(work.number)  # what the disk was handed cannot be taken back

    def end(ticket: Ticket) -> None:
        if not ticket.cancelled() and ticket.exception() is not None:  # nothing of it is stored
            work.committed, doing.reply = before

    ticket.add_done_callback(end)
    return await asyncio.shield(ticket)  # a handler that is cut learns of the refusal all the same
