"""RequestPlane: publishers serve, subscribers ask, over the network of their events.

Never here: machines, judges, the effects of faults.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from mesh.protocol.breaker import HALF_OPEN
from mesh.protocol.commits import Stored
from mesh.protocol.peerlink import READY
from mesh.sim import requestconfig as shape
from mesh.sim.caller import LAST_S, Caller
from mesh.sim.config import HORIZON_S
from mesh.sim.eventplane import EventPlane
from mesh.sim.faults import Fault
from mesh.sim.peer import Peer
from mesh.sim.publisher import Publisher
from mesh.sim.requestconfig import RequestConfig
from mesh.sim.requestinjection import RequestInjector
from mesh.sim.requestjudges import Deeds
from mesh.sim.requestlink import RequestLink
from mesh.sim.server import TOPIC, Server, decoded
from mesh.sim.subscriber import Subscriber
from mesh.sim.world import Violation, World

LAST_AT_S: Final = HORIZON_S - LAST_S - 0.5


class RequestPlane:
    """The requests of one run, on the nodes of *events*."""

    def __init__(self, world: World, config: RequestConfig, events: EventPlane) -> None:
        self.world, self.config, self.net = world, config, events.net
        self.deeds = Deeds()
        self.links: dict[tuple[str, str], RequestLink] = {}
        self.servers = {name: self._server(node) for name, node in events.publishers.items()}
        self.callers = {name: self._caller(node) for name, node in events.subscribers.items()}
        self.net.links.update(self.links)
        self.injector = RequestInjector(
            world, events.injector, self.links, self.servers, self.callers
        )

    def running(self) -> AbstractContextManager[None]:
        """Let the machines have the limits of this configuration."""
        return shape.limits(self.config)

    def schedule(self) -> tuple[Fault, ...]:
        """Return all that will go wrong with requests."""
        dice = self.world.dice("request faults")
        return shape.schedule(self.config, len(self.servers), len(self.callers), dice)

    def start(self) -> None:
        """Have the last calls made when all is well again."""
        self.world.at(LAST_AT_S, self._at_last)

    def apply(self, number: int, fault: Fault) -> None:
        """Let *fault* happen."""
        self.world.tell("FAULT", fault)
        self.world.note(repr(fault).encode())
        if self.injector.kinds[fault.kind](number, fault):
            self.world.effective(number, fault.kind)

    def heal(self) -> None:
        """End all that is still wrong."""
        self.injector.heal()

    def finish(self) -> None:
        """Judge what is left after the quiet time: nothing under way, every credit back."""
        for server in self.servers.values():
            if not server.answering.idle:
                raise Violation("busy", f"{server.name}: {server.answering.load}")
        for caller in self.callers.values():
            for peer in caller.peers.values():
                self._judge(peer)
            for call in caller.last:
                if call.reply is None:
                    raise Violation("unserved", f"{call.body!r}: {call.earlier}")

    def _judge(self, peer: Peer) -> None:
        who = f"{peer.caller.process.name}>{peer.name}"
        if peer.asking.state is not READY:
            raise Violation("unserved", f"{who} is {peer.asking.state.name}")
        if peer.asking.inflight or peer.asking.queued or peer.latency.inflight:
            raise Violation("credit", f"{who}: {peer.asking.inflight} are out")
        if not peer.breaker.ready(self.world.now) and peer.breaker.state is HALF_OPEN:
            raise Violation("wedged", f"{who}: a probe is out, and no call")

    def _at_last(self) -> None:
        for caller in self.callers.values():
            if caller.process.alive:
                caller.at_last()

    def _server(self, node: Publisher) -> Server:
        name = node.process.name
        dice, send = self.world.dice(f"server {name}"), partial(self._down, name)
        server = Server(node, self.config, self.deeds, dice, send)
        node.also.append(server.boot)
        node.disk.kept = self._keeping(node.disk.kept)
        return server

    def _keeping(
        self, kept: Callable[[str, tuple[Stored, ...]], None]
    ) -> Callable[[str, tuple[Stored, ...]], None]:
        def keep(log_id: str, records: tuple[Stored, ...]) -> None:
            kept(log_id, records)
            for record in records:
                if record.topic == TOPIC:
                    self.deeds.kept(log_id, decoded(record.frame)[0])

        return keep

    def _down(self, server: str, peer: bytes, frame: bytes) -> bool:
        name = peer.partition(b".")[0].decode()
        return self.links[server, name].send_down(peer, frame)

    def _caller(self, node: Subscriber) -> Caller:
        name = node.process.name
        links = {}
        for server in self.servers.values():
            link = RequestLink(
                self.net, node.process, server.node.process, server.take, self.config.hwm
            )
            self.links[server.name, name] = links[server.name] = link
        caller = Caller(
            node.process,
            self.config,
            self.deeds,
            self.world.dice(f"requests {name}"),
            self.world.dice(f"caller {name}"),
            links,
        )
        node.also.append(caller.boot)
        return caller
