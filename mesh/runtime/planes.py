"""Planes: the bound sockets of one run of a node, its authenticator and its durable log.

Never here: what is published, who is connected to.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mesh.clock import monotonic_s, wall_ns
from mesh.protocol.access import Access, SubscriptionGuard
from mesh.protocol.admission import Admission
from mesh.protocol.answering import Answering
from mesh.protocol.commits import GroupCommit
from mesh.protocol.outbound import Outbound
from mesh.protocol.topics import HEARTBEAT
from mesh.runtime.serving import Serving
from mesh.runtime.settings import Paths
from mesh.runtime.streams import DurableLog, Ticket
from mesh.storage.journal import Journal, Retention
from mesh.transport.pubsub import DURABLE_CAP_BYTES, EVENT_CAP_BYTES, Publisher
from mesh.transport.responder import Responder
from mesh.transport.sockets import Socket, Sockets, bound_address

JOURNALS: Final = "journals"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node binds. listen: tcp://<address>:* for other hosts, advertised under another
    name if given; empty for none."""

    ipc: dict[str, str]
    listen: str = ""
    advertise: str = ""


def open_journal(paths: Paths, node: str, keep: Retention) -> Journal:
    """Open the journal of *node*, made if need be. Raises StorageError."""
    place = paths.state / JOURNALS
    place.mkdir(parents=True, exist_ok=True)
    return Journal(place / f"{node}.sqlite3", keep=keep)


class Planes:
    """Open what a run of a node binds; close it with :meth:`close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        addresses: Addresses,
        access: Access,
        *,
        nid: int,
        epoch: int,
    ) -> None:
        self._loop, self._sockets, self._addresses = loop, sockets, addresses
        self._access, self._nid, self._epoch = access, nid, epoch
        self.tcp: dict[str, str] = {}  # plane to the address that other hosts use
        self._ports: dict[str, str] = {}  # plane to where it is bound
        self.events = self._publisher("e", durable=False)
        self.durable: Publisher | None = None
        self.log: DurableLog | None = None
        self._responder: Responder | None = None

    @property
    def events_out(self) -> int:
        """Return how many events were published, heartbeats left out."""
        sent = [p.outbound.heads for p in (self.events, self.durable) if p is not None]
        return sum(sum(heads.values()) - heads.get(HEARTBEAT, 0) for heads in sent)

    def publish_durable(self) -> None:
        """Bind the plane of durable events."""
        self.durable = self._publisher("d", durable=True)

    def open_log(
        self,
        journal: Journal,
        name: str,
        on_fatal: Callable[[BaseException], None],
        on_lost: Callable[[str], None],
    ) -> DurableLog:
        """Own *journal*; its events go out on the durable plane, if there is one."""
        outbound = (
            self.durable.outbound
            if self.durable is not None
            else Outbound(self._nid, self._epoch, DURABLE_CAP_BYTES)
        )
        commits: GroupCommit[Ticket] = GroupCommit(
            outbound, name, journal.log_id, journal.first, journal.last
        )
        self.log = DurableLog(self._loop, journal, commits, self.durable, on_fatal, on_lost)
        return self.log

    def respond(self, admission: Admission, serving: Serving) -> Responder:
        """Bind the plane of requests: from now on they come. The last run's keys are known."""
        answering = Answering(admission, wall_ns)
        if self.log is not None:
            now = monotonic_s()
            for row in self.log.journal.rows():
                answering.once.load(row, now)
        self._responder = Responder(
            self._loop, self._bound("r"), answering, serving.serve, serving.answer
        )
        return self._responder

    def rebind(self) -> None:
        """Cut every peer off: who may still come in connects again. A key was revoked."""
        for plane, publisher in (("e", self.events), ("d", self.durable)):
            if publisher is not None:
                publisher.close()
                publisher.rebind(self._bound(plane))
        if self._responder is not None:
            self._responder.hang_up()
            self._responder.rebind(self._bound("r"))

    def close(self) -> None:
        """Close everything. Closing twice is fine."""
        if self._responder is not None:
            self._responder.close()
        if self.log is not None:
            self.log.close()  # publishes what it finishes, and the last values that waited for it
        self.events.close()
        if self.durable is not None:
            self.durable.close()

    def _publisher(self, plane: str, *, durable: bool) -> Publisher:
        cap = DURABLE_CAP_BYTES if durable else EVENT_CAP_BYTES
        return Publisher(
            self._loop,
            self._bound(plane),
            Outbound(self._nid, self._epoch, cap),
            SubscriptionGuard(self._access),
            durable=durable,
        )

    def _bound(self, plane: str) -> Socket:
        """Return the plane's socket, bound; at the same TCP port as before, if there was one."""
        places, sockets = self._addresses, self._sockets
        ipc, tcp = places.ipc[plane], self._ports.get(plane) or places.listen or None
        if plane == "r":
            sock = sockets.responder(ipc, tcp=tcp)
        else:
            sock = sockets.publisher(ipc, durable=plane == "d", tcp=tcp)
        if tcp is not None:
            bound = bound_address(sock)
            self._ports[plane] = bound
            host, _, port = bound.removeprefix("tcp://").rpartition(":")
            self.tcp[plane] = f"tcp://{places.advertise or host}:{port}"
        return sock
