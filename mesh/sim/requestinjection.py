"""RequestInjector: what each kind of fault does to requests, their links, servers and callers.

Never here: when faults come, what they must not break.
"""

from collections.abc import Callable
from typing import Final

from mesh.sim.caller import Caller
from mesh.sim.faults import Fault
from mesh.sim.injection import CRASHED_S, Injector
from mesh.sim.network import Armed
from mesh.sim.requestlink import RequestLink
from mesh.sim.server import Server
from mesh.sim.world import World

STORM: Final = 15  # calls, for each n


class RequestInjector:
    """Let faults happen; those that found nothing to break do not count."""

    def __init__(
        self,
        world: World,
        injector: Injector,
        links: dict[tuple[str, str], RequestLink],
        servers: dict[str, Server],
        callers: dict[str, Caller],
    ) -> None:
        self.world, self.injector, self.links = world, injector, links
        self.servers, self.callers = servers, callers
        self.kinds: dict[str, Callable[[int, Fault], bool]] = {
            "call_lose": self._call_lose,
            "half_open": self._half_open,
            "hang_up": self._hang_up,
            "force": self._force,
            "drain": self._drain,
            "stall": self._stall,
            "fail": self._fail,
            "stuck": self._stuck,
            "wipe": self._wipe,
            "cancel": self._cancel,
            "storm": self._storm,
        }

    def heal(self) -> None:
        """End all that is still wrong with requests."""
        for link in self.links.values():
            link.mend()
        for server in self.servers.values():
            server.stalled_until = min(server.stalled_until, self.world.now)
            server.failing.clear()
            server.sticking.clear()

    def _call_lose(self, number: int, fault: Fault) -> bool:
        """Lose frames, though pipes are reliable: a ROUTER drops what it cannot pass on."""
        link = self.links.get((fault.who, fault.to))
        if link is not None:
            link.armed.append(Armed(number, fault.kind, fault.n))
        return False  # it counts when a frame is hit

    def _half_open(self, number: int, fault: Fault) -> bool:
        link = self.links.get((fault.who, fault.to))
        if link is None or not link.connected:
            return False
        link.fall_silent(2 * fault.for_s)
        return True

    def _hang_up(self, number: int, fault: Fault) -> bool:
        link = self.links.get((fault.who, fault.to))
        if link is None or not link.connected:
            return False
        link.disconnect()
        return True

    def _force(self, number: int, fault: Fault) -> bool:
        caller = self.callers.get(fault.to)
        if caller is None or not caller.process.alive or fault.who not in caller.peers:
            return False
        caller.force(fault.who, fault.for_s)
        return True

    def _drain(self, number: int, fault: Fault) -> bool:
        """Stop a server in order: it goes away, and another run of it comes."""
        server = self.servers.get(fault.who)
        if server is None or not server.node.process.alive:
            return False
        server.drain(fault.for_s)
        process = server.node.process
        process.at(self.world.now + fault.for_s, server.close)
        process.at(self.world.now + fault.for_s + 0.01, self._leave, fault.who)
        return True

    def _leave(self, name: str) -> None:
        self.injector.die(name, CRASHED_S)

    def _stall(self, number: int, fault: Fault) -> bool:
        if (server := self.servers.get(fault.who)) is not None:
            server.stalled_until, server.stalled_by = self.world.now + fault.for_s, number
        return False  # it counts when a handler is slow

    def _fail(self, number: int, fault: Fault) -> bool:
        if (server := self.servers.get(fault.who)) is not None:
            server.failing += [number] * fault.n
        return False

    def _stuck(self, number: int, fault: Fault) -> bool:
        if (server := self.servers.get(fault.who)) is not None:
            server.sticking += [number] * fault.n
        return False

    def _wipe(self, number: int, fault: Fault) -> bool:
        """Lose a server's disk, and with it the keys."""
        return fault.who in self.servers and self.injector.wipe(fault.who)

    def _cancel(self, number: int, fault: Fault) -> bool:
        caller = self.callers.get(fault.who)
        return caller is not None and caller.process.alive and caller.cancel(5 * fault.n) > 0

    def _storm(self, number: int, fault: Fault) -> bool:
        caller = self.callers.get(fault.who)
        if caller is None or not caller.process.alive:
            return False
        caller.storm(STORM * fault.n)
        return True
