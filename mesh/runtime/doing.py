"""Doing: which request the code that runs now is the answer to, and what it has stored of it.

It travels in the context, like the deadline; tasks of the process that outlive a request begin
without one.

Never here: deciding, the wire, SQL.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from mesh.errors import Unavailable
from mesh.protocol import envelope
from mesh.protocol.answering import Answering
from mesh.protocol.cause import Cause, root_trace
from mesh.protocol.commits import Applied
from mesh.protocol.envelope import Event
from mesh.protocol.work import Work
from mesh.runtime.streams import DurableLog

NO_REPLY: Final = object()


@dataclass(slots=True)
class Doing:
    """A request in the hands of its handler. reply: encoded, in the transaction of the effect.

    nid: of this node.
    """

    work: Work
    nid: int
    recalls: bool = False  # the handler's own records stand for the key
    reply: bytes | None = None
    began: bool = False
    dropped: bool = False  # aborted

    @property
    def stores(self) -> bool:
        """Say whether a commit takes the key along."""
        return self.work.key is not None and not self.recalls

    def follows(self) -> Cause:
        """Return the cause of what is done because of this request."""
        work, before = self.work, self.work.cause
        asked = work.caller.nid, work.caller.epoch, work.corr, work.method.name
        if before is None:  # nobody knows when it entered the mesh
            return Cause(root_trace(*asked, self.nid), *asked)
        return Cause(before.trace, *asked, before.ts_recv)


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
    before = doing.work.committed, doing.reply
    if doing.reply is None and reply is not NO_REPLY:
        doing.reply = envelope.encode_value(reply)
    row = answering.row(doing.work.number, doing.reply)
    answering.committed(doing.work.number)  # what the disk was handed cannot be taken back
    try:
        rows = () if row is None else (row,)
        return await log.store(events, applied=applied, rows=rows, patient=patient)
    except Unavailable:  # nothing of it is stored
        doing.work.committed, doing.reply = before
        raise
