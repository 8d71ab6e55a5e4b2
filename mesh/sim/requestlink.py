"""RequestLink: the socket of one caller to one server, and the connection that it has or not.

Pipes are first in, first out. A connection that breaks loses what is on its way; what has
arrived can still be read. The caller's monitor tells of connections, later and in order; the
server learns of a loss by a send that fails.

Never here: what frames mean.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from mesh.sim.network import Armed, Network
from mesh.sim.process import Process

MONITOR_S: Final = 0.02  # at most, until the caller is told of its socket
NOTICE_S: Final = 2.5  # at most, until a connection that carries nothing is given up


class Client(Protocol):
    """The calling end."""

    def take(self, frame: bytes) -> None: ...

    def told(self, *, connected: bool) -> None: ...

    def writable(self) -> None: ...


@dataclass(slots=True)
class Way:
    """One way into a process: what arrives is taken in order, while the process can."""

    process: Process
    take: Callable[[Any], None]
    queue: deque[tuple[float, Any]] = field(default_factory=deque)
    last: float = 0.0
    _waking: bool = False

    def put(self, arrival: float, item: object) -> None:
        """Let *item* arrive, behind what was put before."""
        self.last = max(self.last, arrival)
        self.queue.append((self.last, item))
        self._wake()

    def cut(self) -> None:
        """Lose what has not arrived."""
        now = self.process.world.now
        while self.queue and self.queue[-1][0] > now:
            self.queue.pop()
        self.last = now

    def _wake(self) -> None:
        if self.queue and not self._waking:
            self._waking = True
            world = self.process.world
            world.at(max(self.queue[0][0], world.now), self._drain)

    def _drain(self) -> None:
        self._waking = False
        process, world = self.process, self.process.world
        if not process.alive:
            self.queue.clear()
        while self.queue and self.queue[0][0] <= world.now:
            if process.blocked_until > world.now:
                self._waking = True
                world.at(process.blocked_until, self._drain)
                return
            self.take(self.queue.popleft()[1])  # which may close the socket
        self._wake()


class RequestLink:
    """The way of requests from one caller to one server and back."""

    def __init__(
        self,
        net: Network,
        caller: Process,
        server: Process,
        serve: Callable[[bytes, bytes], None],
        hwm: int,
    ) -> None:
        self.net, self.caller, self.server, self.hwm = net, caller, server, hwm
        self.client: Client | None = None  # None: no socket
        self.connected = False  # as far as the sockets know
        self.broken = False  # it carries nothing, and neither end knows
        self.number = 0  # of the connection, grows with each change
        self.cuts, self.clog_until = 0, 0.0
        self.armed: list[Armed] = []
        self.full = False
        self._serve = serve
        self.up = Way(server, self._risen)
        self.down = Way(caller, self._fallen)
        self.monitor = Way(caller, self._tell)

    @property
    def peer(self) -> bytes:
        """Return the routing id of the connection."""
        return b"%s.%d" % (self.caller.name.encode(), self.number)

    def open(self, client: Client) -> None:
        """Make the socket and connect it, some time."""
        self.client, self.full = client, False
        self.net.world.at(self.net.soon(), self.connect)

    def close(self) -> None:
        """Close the socket: what it has not sent or read is gone."""
        self.client, self.connected, self.broken = None, False, False
        self.number += 1
        self.up.cut()
        self.down.queue.clear()
        self.monitor.queue.clear()

    def send_up(self, frame: bytes) -> bool:
        """Send a frame to the server; False if the socket does not take it."""
        if not self.connected:
            return False
        if len(self.up.queue) >= self.hwm:
            self.full = True
            return False
        if not self._is_lost():
            self.up.put(max(self.net.arrival(), self.clog_until), (self.peer, frame))
        return True

    def send_down(self, peer: bytes, frame: bytes) -> bool:
        """Send a frame to the caller; False if *peer* is no connection any more."""
        if not self.connected or peer != self.peer:
            return False
        if not self._is_lost():
            self.down.put(max(self.net.arrival(), self.clog_until), frame)
        return True

    def connect(self) -> None:
        """Connect if both ends are there."""
        if self.connected or self.cuts or self.client is None:
            return
        if self.caller.alive and self.server.alive:
            self.connected, self.broken = True, False
            self.number += 1
            self._told(connected=True)

    def disconnect(self) -> None:
        """Break the connection; the socket makes another one."""
        if not self.connected:
            return
        self.connected = self.broken = False
        self.number += 1
        self.up.cut()
        self.down.cut()
        self._told(connected=False)
        self.net.world.at(self.net.soon(), self.connect)

    def fall_silent(self, for_s: float) -> None:
        """Carry nothing from now on; after a while the connection breaks."""
        if self.connected:
            self.broken = True
            self.up.cut()
            self.down.cut()
            world = self.net.world
            world.at(world.now + for_s, self._noticed, self.number)

    def cut(self) -> None:
        """Cut the two nodes off from each other."""
        self.cuts += 1
        self.fall_silent(NOTICE_S * self.net.dice.random())

    def heal(self) -> None:
        """Undo one cut()."""
        self.cuts = max(0, self.cuts - 1)
        self.net.world.at(self.net.soon(), self.connect)

    def mend(self) -> None:
        """Undo everything that is wrong."""
        self.cuts, self.clog_until = 0, min(self.clog_until, self.net.world.now)
        self.armed.clear()
        if self.broken:
            self.disconnect()
        self.net.world.at(self.net.soon(), self.connect)

    def gone(self, name: str) -> None:
        """Learn that a process has died."""
        if name == self.caller.name:
            self.close()
        elif name == self.server.name:
            self.up.queue.clear()
            self.disconnect()

    def back(self, name: str) -> None:
        """Learn that a process is there again."""
        if name == self.server.name:
            self.net.world.at(self.net.soon(), self.connect)

    def _noticed(self, number: int) -> None:
        if number == self.number:
            self.disconnect()

    def _is_lost(self) -> bool:
        if self.broken:
            return True
        if not self.armed:
            return False
        armed = self.armed[0]
        armed.n -= 1
        if armed.n <= 0:
            self.armed.pop(0)
        self.net.world.effective(armed.number, armed.kind)
        return True

    def _told(self, *, connected: bool) -> None:
        world = self.net.world
        self.monitor.put(world.now + MONITOR_S * self.net.dice.random(), connected)

    def _tell(self, connected: bool) -> None:  # an item of a Way
        if self.client is not None:
            self.client.told(connected=connected)

    def _risen(self, item: tuple[bytes, bytes]) -> None:
        self.net.world.note(item[1])
        if self.full and self.client is not None:
            self.full = False
            self.caller.at(self.net.world.now, self.client.writable)
        self._serve(*item)

    def _fallen(self, frame: bytes) -> None:
        self.net.world.note(frame)
        if self.client is not None:
            self.client.take(frame)
