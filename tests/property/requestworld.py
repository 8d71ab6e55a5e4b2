"""A model of the request plane: both machines, connections that break, a server that dies.

Frames are never lost inside a living connection. A broken one loses what was on its way, and
each side learns of it later or by a send that fails; what had come can still be read.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Literal

from mesh.errors import MeshError
from mesh.protocol import envelope, outcomes, rpcs, work
from mesh.protocol.admission import OPEN, Admission, Limits
from mesh.protocol.answering import Answering
from mesh.protocol.asking import Asking
from mesh.protocol.control import Hello
from mesh.protocol.envelope import REQ, Rpc
from mesh.protocol.once import Key, Once, Row
from mesh.protocol.peerlink import DEAD, READY
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, Method
from mesh.protocol.sessions import Sessions
from mesh.protocol.work import Work

CLUSTER, SERVER = "test", "server"
METHODS = {
    envelope.method_id(method.name): method
    for method in (
        Method("a.read", SAFE),
        Method("a.place", KEYED),
        Method("a.wire", KEYED, marks=True),
        Method("a.once", ONCE),
        Method("a.cancel", KEYED, urgent=True),
    )
}
LIMITS = Limits(window=5, running_max=5, queue_max=3)


def open_server(epoch: int = 1, limits: Limits = LIMITS, **more: Method) -> Answering:
    """Return a server of METHODS and *more*, where every user is the node of that name."""
    methods = METHODS | {envelope.method_id(m.name): m for m in more.values()}
    sessions: Sessions[Work] = Sessions(
        CLUSTER, lambda user, node: user == node, lambda user: lambda method: user != "guest"
    )
    return Answering(Admission(SERVER, epoch, methods, sessions, limits), lambda: 0, Once())


def open_client(node: str = "risk", epoch: int = 7, queue_max: int = 3) -> Asking:
    """Return the client of node *node*."""
    hello = Hello(CLUSTER, node, 1, 1)
    return Asking(SERVER, hello, epoch, lambda: 0, Random(1).random, queue_max)


@dataclass(slots=True)
class Connection:
    """One ZMTP connection: two pipes, first in, first out."""

    peer: bytes
    up: deque[Rpc] = field(default_factory=deque)
    down: deque[Rpc] = field(default_factory=deque)


@dataclass(slots=True)
class Attempt:
    """One attempt of a call and how it ended."""

    ask: Ask
    deadline: float
    outcome: outcomes.Replied | outcomes.Failed | None = None

    @property
    def executed(self) -> str:
        """Return what its caller was told of the effect."""
        if isinstance(self.outcome, outcomes.Failed):
            return self.outcome.failure.executed
        return "" if self.outcome is None else "yes"


@dataclass(slots=True)
class Client:
    """One node that asks, and its socket."""

    node: str
    asking: Asking
    connection: Connection | None = None
    leftover: deque[Rpc] = field(default_factory=deque)  # of earlier connections
    told: deque[Literal["connected", "lost"]] = field(default_factory=deque)  # by the monitor
    attempts: dict[int, Attempt] = field(default_factory=dict)
    sent: set[int] = field(default_factory=set)
    closed: bool = False  # it has no socket


@dataclass(slots=True)
class Handler:
    """What executes a work. whose: the attempts it works for; resolves: it only finds out."""

    work: Work
    whose: set[tuple[str, int]]
    resolves: bool = False
    effect: bool = False
    aborted: bool = False


class RequestWorld:
    """The plane, stepped from outside; it judges what it sees."""

    def __init__(self, nodes: Iterable[str] = ("risk", "strategy")) -> None:
        self.now = 100.0
        self.epoch = 1
        self.server = open_server()
        self.clients = [Client(node, open_client(node)) for node in nodes]
        self.connections: dict[bytes, tuple[Client, Connection]] = {}  # all there ever were
        self.numbers = count(1)
        self.handlers: dict[int, Handler] = {}
        self.stores: deque[work.Store] = deque()
        self.disk: dict[Key, Row] = {}
        self.effects: dict[bytes, int] = {}  # body to times, kept with the disk
        self.ever: set[bytes] = set()  # bodies that had an effect, whatever became of the disk
        self.by_key: dict[Key, int] = {}
        self.worked_for: set[tuple[str, int]] = set()

    # The network.

    def connect(self, client: Client) -> None:
        """Let libzmq connect: the client's monitor tells of it later."""
        connection = Connection(b"%d" % next(self.numbers))
        client.connection = connection
        self.connections[connection.peer] = client, connection
        client.told.append("connected")

    def cut(self, client: Client, *, arrived: int, server_knows: bool) -> None:
        """Break a connection: what had come to the client stays, all else is lost."""
        connection, client.connection = client.connection, None
        assert connection is not None
        connection.up.clear()
        while len(connection.down) > arrived:
            connection.down.pop()
        client.leftover.extend(connection.down)
        connection.down.clear()
        client.told.append("lost")
        if server_knows:
            self.serve(self.server.gone(connection.peer, self.now))

    def tell(self, client: Client) -> None:
        """Let the monitor tell the client what happened to its socket."""
        if client.told.popleft() == "connected":
            self.carry_out(client, client.asking.connected(self.now))
            self.carry_out(client, client.asking.writable(self.now))
        else:
            self.carry_out(client, client.asking.lost())

    def carry_up(self, client: Client) -> None:
        """Bring the oldest frame to the server."""
        assert client.connection is not None
        rpc = client.connection.up.popleft()
        self.serve(self.server.frame(client.connection.peer, client.node, rpc, self.now))

    def carry_down(self, client: Client, *, leftover: bool) -> None:
        """Bring the oldest frame to the client."""
        assert leftover or client.connection is not None
        pipe = client.leftover if client.connection is None or leftover else client.connection.down
        self.carry_out(client, client.asking.frame(pipe.popleft(), self.now))

    # The client.

    def call(self, client: Client, ask: Ask) -> int:
        """Ask; return the number of the attempt."""
        corr, effects = client.asking.call(ask, self.now)
        client.attempts[corr] = Attempt(ask, self.now + rpcs.clamped_s(ask.budget_s))
        self.carry_out(client, effects)
        return corr

    def carry_out(self, client: Client, effects: Iterable[outcomes.Effect]) -> None:
        """Do what a client's machine wants."""
        for effect in effects:
            if isinstance(effect, outcomes.Send):
                self._send(client, effect.rpc)
            elif isinstance(effect, outcomes.Replied | outcomes.Failed):
                self._settle(client, effect)
            elif isinstance(effect, outcomes.Close):
                client.closed = True
                if client.connection is not None:
                    self.cut(client, arrived=0, server_knows=False)
                client.leftover.clear()
                client.told.clear()
            elif isinstance(effect, outcomes.Open):
                client.closed = False

    def _send(self, client: Client, rpc: Rpc) -> None:
        if client.connection is not None:
            client.connection.up.append(rpc)
            client.sent.add(rpc.corr)
        elif rpc.kind is REQ:
            self.carry_out(client, client.asking.bounced(rpc.corr))

    def _settle(self, client: Client, outcome: outcomes.Replied | outcomes.Failed) -> None:
        attempt = client.attempts[outcome.corr]
        assert attempt.outcome is None, "settled twice"
        attempt.outcome = outcome
        kind = attempt.ask.kind
        if isinstance(outcome, outcomes.Replied):
            assert outcome.body == b"r" + attempt.ask.body
            assert kind is SAFE or attempt.ask.body in self.ever, "a reply without effect"
        else:
            assert not (outcome.again and kind is ONCE)
            assert outcome.failure.executed in ("no", "unknown")
            self._check_no(client, outcome.corr)

    def _check_no(self, client: Client, corr: int) -> None:
        if client.attempts[corr].executed == "no":
            assert (client.node, corr) not in self.worked_for, "executed after all"

    # The server.

    def serve(self, effects: Iterable[work.Effect]) -> None:
        """Do what the server's machine wants."""
        refused = []
        for effect in effects:
            if not isinstance(effect, work.Send):
                self._do(effect)
            elif not self._reply(effect):
                refused.append(effect.peer)
        for peer in refused:  # not before: what that aborts must have begun
            self.serve(self.server.gone(peer, self.now))

    def _do(self, effect: work.Effect) -> None:
        if isinstance(effect, work.Execute | work.Resolve):
            self._begin(effect)
        elif isinstance(effect, work.Abort):
            self.handlers[effect.work.number].aborted = True
        elif isinstance(effect, work.Store):
            self.stores.append(effect)
        elif isinstance(effect, work.Forget):
            for key in effect.keys:
                self.disk.pop(key, None)

    def _reply(self, effect: work.Send) -> bool:
        client, connection = self.connections[effect.peer]
        if client.connection is connection:
            connection.down.append(effect.rpc)
            return True
        return False

    def _begin(self, effect: work.Execute | work.Resolve) -> None:
        resolves = isinstance(effect, work.Resolve)
        if isinstance(effect, work.Execute) and effect.mark is not None:
            self.disk[Key(effect.mark.node, effect.mark.idem)] = effect.mark
        whose = self.waiting_for(effect.work)
        self.handlers[effect.work.number] = Handler(effect.work, whose, resolves)
        assert len(self.handlers) + len(self.stores) <= LIMITS.running_max

    def waiting_for(self, item: Work) -> set[tuple[str, int]]:
        """Return the attempts that wait for a work."""
        return {(self.connections[peer][0].node, corr) for peer, corr in item.waiters}

    def have_effect(self, handler: Handler) -> None:
        """Let the effect of a handler happen."""
        item = handler.work
        handler.effect = True
        self.ever.add(item.body)
        self.effects[item.body] = self.effects.get(item.body, 0) + 1
        self.worked_for |= handler.whose | self.waiting_for(item)
        if item.method.kind is not SAFE:
            assert self.effects[item.body] == 1, "executed twice"
        if item.key is not None:
            self.by_key[item.key] = self.by_key.get(item.key, 0) + 1
            assert self.by_key[item.key] == 1, "two effects of one key"
        for client in self.clients:
            for corr in client.attempts:
                self._check_no(client, corr)

    def commit(self, handler: Handler) -> None:
        """Let the effect happen, in one transaction with its row unless it is one elsewhere."""
        self.have_effect(handler)
        number, body = handler.work.number, handler.work.body
        row = None if handler.work.method.marks else self.server.row(number, b"r" + body)
        if row is not None:
            self.disk[Key(row.node, row.idem)] = row

    def reply(self, handler: Handler) -> None:
        """Let a handler end well: effect and row in one transaction, or the row behind it."""
        item = handler.work
        del self.handlers[item.number]
        if not handler.effect:
            self.commit(handler)
        stored = not item.method.marks
        self.serve(self.server.done(item.number, b"r" + item.body, self.now, stored=stored))

    def resolve(self, handler: Handler, *, sure: bool) -> None:
        """Let the service say what became of a key."""
        item = handler.work
        assert item.key is not None
        del self.handlers[item.number]
        if not sure:
            unsure = rpcs.failure(MeshError, "nobody knows", "unknown")
            self.serve(self.server.failed(item.number, unsure, self.now))
        elif self.by_key.get(item.key):
            self.worked_for |= self.waiting_for(item)
            self.serve(self.server.done(item.number, b"r" + item.body, self.now))
        else:
            self.serve(self.server.absent(item.number, self.now))

    def fail(self, handler: Handler, executed: Literal["no", "unknown"]) -> None:
        """Let a handler end without a reply."""
        del self.handlers[handler.work.number]
        what = rpcs.failure(MeshError, "failed", executed)
        self.serve(self.server.failed(handler.work.number, what, self.now))

    def store(self) -> None:
        """Bring the oldest row to the disk."""
        effect = self.stores.popleft()
        self.disk[Key(effect.row.node, effect.row.idem)] = effect.row
        self.serve(self.server.stored(effect.work.number, self.now))

    def restart_server(self, *, keep_disk: bool) -> None:
        """Kill the server and start it again, with its disk or a new one."""
        for client in self.clients:
            if client.connection is not None:
                self.cut(client, arrived=1, server_knows=False)
        self.handlers.clear()
        self.stores.clear()
        self.epoch += 1
        self.server = open_server(self.epoch)
        if not keep_disk:
            self.disk.clear()
            self.by_key.clear()
            self.effects.clear()
            return
        for row in self.disk.values():
            self.server.once.load(row, self.now)

    # Time.

    def wait(self, seconds: float) -> None:
        """Let time pass, waking each machine when it wants."""
        end = self.now + seconds
        while (due := min(self._deadlines(), default=end)) < end:
            self.now = due
            self._tick()
        self.now = end
        self._tick()
        for client in self.clients:
            for attempt in client.attempts.values():
                assert attempt.outcome is not None or self.now < attempt.deadline

    def _deadlines(self) -> list[float]:
        found = [client.asking.next_deadline() for client in self.clients]
        found.append(self.server.next_deadline())
        return [at for at in found if at is not None and at > self.now]

    def _tick(self) -> None:
        self.serve(self.server.tick(self.now))
        for client in self.clients:
            self.carry_out(client, client.asking.tick(self.now))

    def flow(self, more: Callable[[], bool] = lambda: False) -> None:
        """Carry everything that is on its way, and what follows from it."""
        moved = True
        while moved:
            moved = more()
            for client in self.clients:
                while client.leftover or (client.connection and client.connection.down):
                    self.carry_down(client, leftover=bool(client.leftover))
                    moved = True
                while client.connection and client.connection.up:
                    self.carry_up(client)
                    moved = True
                if client.told and not moved:  # the monitor is slower than the pipes
                    self.tell(client)
                    moved = True

    def heal(self) -> None:
        """Let all connect, and every handler end, until nothing is under way."""
        if self.server.admission.state is not OPEN:
            self.flow(self._finish_one)
            self.restart_server(keep_disk=True)
        for _ in range(60):
            for client in self.clients:
                dead = client.asking.state is DEAD or client.closed
                if client.connection is None and not dead:
                    self.connect(client)
            self.flow(self._finish_one)
            if self._is_quiet():
                return
            self.wait(1.0)

    def _is_quiet(self) -> bool:
        return self.server.idle and all(
            client.asking.state is READY
            and not client.asking.inflight
            and all(attempt.outcome is not None for attempt in client.attempts.values())
            for client in self.clients
        )

    def _finish_one(self) -> bool:
        handler = next(iter(self.handlers.values()), None)
        if handler is not None and handler.resolves:
            self.resolve(handler, sure=True)
        elif handler is not None:
            if handler.aborted and not handler.effect:
                self.fail(handler, "unknown")
            else:
                self.reply(handler)
        elif self.stores:
            self.store()
        return handler is not None

    def check(self) -> None:
        """Check the machines."""
        self.server.check()
        for client in self.clients:
            client.asking.check()
            assert client.asking.queued <= 3
