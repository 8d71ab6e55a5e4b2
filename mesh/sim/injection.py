"""Injector: what each kind of fault does to the network, the disks and the processes.

Never here: when faults come, what they must not break.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from mesh.sim.disk import Disk
from mesh.sim.faults import Fault
from mesh.sim.network import Armed, Network, Pipe
from mesh.sim.process import Process
from mesh.sim.publisher import Publisher
from mesh.sim.subscriber import Subscriber
from mesh.sim.world import World

RECOVERY_S: Final = 0.05  # into a new run, when the second kill of kill_twice comes
CRASHED_S: Final = 0.3  # until a process that died of its disk is back


class Injector:
    """Let faults happen; those that found nothing to break do not count."""

    def __init__(
        self,
        world: World,
        net: Network,
        publishers: dict[str, Publisher],
        subscribers: dict[str, Subscriber],
    ) -> None:
        self.world, self.net = world, net
        self.publishers, self.subscribers = publishers, subscribers
        self.disks: dict[str, Disk] = {name: p.disk for name, p in publishers.items()}
        self.disks |= {name: s.disk for name, s in subscribers.items() if s.disk is not None}
        for name, disk in self.disks.items():
            disk.failed = partial(self.die, name, CRASHED_S)
        self.kinds: dict[str, Callable[[int, Fault], bool]] = {
            **dict.fromkeys(("lose", "double", "reorder"), self._arm_pipe),
            **dict.fromkeys(("rpc_lose", "rpc_double", "rpc_slow"), self._arm_route),
            "echo": self._echo,
            "mute": self._mute,
            "cut": self._cut,
            "flap": self._flap,
            "clog": self._clog,
            "partition": self._partition,
            "kill": self._kill,
            "kill_twice": self._kill_twice,
            "pause": self._pause,
            "slow": self._slow,
            "raise": self._raise,
            "step": self._step,
            "fsync": self._fsync,
            "full": self._full,
            "write_error": self._write_error,
            "retention": self._retention,
            "delete": self._delete,
            "backup": self._backup,
        }

    def apply(self, number: int, fault: Fault) -> None:
        """Let *fault* happen, if it names what is there."""
        self.world.tell("FAULT", fault)
        self.world.note(repr(fault).encode())
        if self.kinds[fault.kind](number, fault):
            self.world.effective(number, fault.kind)

    def heal(self) -> None:
        """End all that is still wrong."""
        now = self.world.now
        for pipe in self.net.pipes.values():
            pipe.armed.clear()
            pipe.cuts = pipe.mute = 0
            pipe.clog_until = min(pipe.clog_until, now)
            self.world.at(self.net.soon(), pipe.connect)
        for route in self.net.routes.values():
            route.armed.clear()
            route.cuts, route.clog_until = 0, min(route.clog_until, now)
        for disk in self.disks.values():
            disk.slow_until, disk.full_until, disk.failing = now, now, 0
        for name in (*self.publishers, *self.subscribers):
            process = self._process(name)
            if not process.alive:
                self._boot(name, process.run)
            process.blocked_until = min(process.blocked_until, now)
        for subscriber in self.subscribers.values():
            subscriber.raising.clear()

    def _process(self, name: str) -> Process:
        return (self.publishers.get(name) or self.subscribers[name]).process

    def _pipe(self, fault: Fault) -> Pipe | None:
        hearer, _, plane = fault.to.partition(".")
        return self.net.pipes.get((fault.who, hearer, plane or "e"))

    def _later(self, fault: Fault, call: Callable[..., object], *args: object) -> None:
        self.world.at(self.world.now + fault.for_s, call, *args)

    # The network.

    def _arm_pipe(self, number: int, fault: Fault) -> bool:
        if (pipe := self._pipe(fault)) is not None:
            pipe.armed.append(Armed(number, fault.kind, fault.n))
        return False  # it counts when a frame is hit

    def _arm_route(self, number: int, fault: Fault) -> bool:
        route = self.net.routes.get((fault.who, fault.to))
        if route is not None:
            route.armed.append(Armed(number, fault.kind, fault.n, fault.for_s))
        return False

    def _echo(self, number: int, fault: Fault) -> bool:
        pipe = self._pipe(fault)
        if pipe is None or not pipe.recent or not pipe.connected:
            return False
        for frame in list(pipe.recent)[: fault.n]:
            pipe.echo(frame)
        return True

    def _mute(self, number: int, fault: Fault) -> bool:
        if (pipe := self._pipe(fault)) is not None:
            pipe.mute = number + 1
            self._later(fault, self._unmute, pipe, number + 1)
        return False

    @staticmethod
    def _unmute(pipe: Pipe, by: int) -> None:
        if pipe.mute == by:
            pipe.mute = 0

    def _cut(self, number: int, fault: Fault) -> bool:
        if (fault.who, fault.to) not in self.net.routes:
            return False
        self.net.cut(fault.who, fault.to)
        self._later(fault, self.net.heal, fault.who, fault.to)
        return True

    def _flap(self, number: int, fault: Fault) -> bool:
        """Break a connection; libzmq connects anew at once."""
        pipes = [self.net.pipes.get((fault.who, fault.to, plane)) for plane in "ed"]
        hit = [pipe for pipe in pipes if pipe is not None and pipe.connected]
        for pipe in hit:
            pipe.disconnect()
        return bool(hit)

    def _clog(self, number: int, fault: Fault) -> bool:
        if (fault.who, fault.to) not in self.net.routes:
            return False
        self.net.clog(fault.who, fault.to, self.world.now + fault.for_s)
        return True

    def _partition(self, number: int, fault: Fault) -> bool:
        """Cut one set of nodes off from the others; n names the set, a bit per node."""
        names = [*self.publishers, *self.subscribers]
        side = {name for bit, name in enumerate(names) if fault.n >> bit & 1}
        pairs = [pair for pair in self.net.routes if (pair[0] in side) != (pair[1] in side)]
        for speaker, hearer in pairs:
            self.net.cut(speaker, hearer)
            self._later(fault, self.net.heal, speaker, hearer)
        return bool(pairs)

    # Processes.

    def _kill(self, number: int, fault: Fault) -> bool:
        return self.die(fault.who, fault.for_s)

    def _kill_twice(self, number: int, fault: Fault) -> bool:
        again_s = fault.for_s + RECOVERY_S
        self.world.at(self.world.now + again_s, self._crash, fault.who, 0.1)
        return self.die(fault.who, fault.for_s)

    def _crash(self, name: str, for_s: float = CRASHED_S) -> None:
        self.die(name, for_s)

    def die(self, name: str, for_s: float) -> bool:
        """Kill a process; it is back after a while."""
        process = self._process(name)
        if not process.alive:
            return False
        self.world.tell("DIES", name)
        process.die()
        self.net.gone(name)
        if name in self.disks:
            self.disks[name].crash()
        self.world.at(self.world.now + for_s, self._boot, name, process.run)
        return True

    def _boot(self, name: str, after: int) -> None:
        process = self._process(name)
        if process.alive or process.run != after:
            return
        self.world.tell("BOOTS", name)
        (self.publishers.get(name) or self.subscribers[name]).boot()

    def _pause(self, number: int, fault: Fault) -> bool:
        process = self._process(fault.who)
        process.block(fault.for_s)
        return process.alive

    def _slow(self, number: int, fault: Fault) -> bool:
        subscriber = self.subscribers[fault.who]
        subscriber.slow_until = self.world.now + fault.for_s
        return subscriber.process.alive

    def _raise(self, number: int, fault: Fault) -> bool:
        self.subscribers[fault.who].raising += [number] * fault.n
        return False  # it counts when a handler fails

    def _step(self, number: int, fault: Fault) -> bool:
        self._process(fault.who).wall_offset_ns += fault.n * 10**9
        return True

    # Disks.

    def _fsync(self, number: int, fault: Fault) -> bool:
        if (disk := self.disks.get(fault.who)) is not None:
            disk.slow_until, disk.slow_by = self.world.now + fault.for_s, number
        return False

    def _full(self, number: int, fault: Fault) -> bool:
        if (disk := self.disks.get(fault.who)) is not None:
            disk.full_until, disk.full_by = self.world.now + fault.for_s, number
        return False

    def _write_error(self, number: int, fault: Fault) -> bool:
        if (disk := self.disks.get(fault.who)) is not None:
            disk.failing = number + 1
        return False

    def _retention(self, number: int, fault: Fault) -> bool:
        """Delete by size, whoever still needs it; n per cent."""
        publisher = self.publishers[fault.who]
        disk = publisher.disk
        first = disk.first + (disk.last + 1 - disk.first) * min(fault.n, 100) // 100
        if not publisher.process.alive or first <= disk.first:
            return False
        publisher.retain(first)
        return True

    def _delete(self, number: int, fault: Fault) -> bool:
        return self.wipe(fault.who)

    def wipe(self, name: str) -> bool:
        """Lose a journal's file; the node begins a new one."""
        if not self.die(name, CRASHED_S):
            return False
        self.disks[name].delete()
        return True

    def _backup(self, number: int, fault: Fault) -> bool:
        """Put an old copy of the journal in place; n per cent of it."""
        disk = self.disks[fault.who]
        last = max(disk.first - 1, disk.last * fault.n // 100)
        if last >= disk.last or not self.die(fault.who, CRASHED_S):
            return False
        disk.restore(last)
        self.publishers[fault.who].truth.restored(disk.log_id, last)
        return True
