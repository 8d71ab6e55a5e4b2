"""Requests: executed once at most, settled once and in time, whatever breaks or dies."""

from itertools import count

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh.protocol import outcomes
from mesh.protocol.envelope import NO_IDEM
from mesh.protocol.peerlink import DEAD
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask
from tests.property.requestworld import (
    Client,
    Handler,
    RequestWorld,
)
from tests.property.walks import run

KINDS = {"a.read": SAFE, "a.place": KEYED, "a.wire": KEYED, "a.once": ONCE, "a.cancel": KEYED}
methods = st.sampled_from((*sorted(KINDS), "a.wire", "a.place"))
which = st.integers(0, 9)
budgets = st.sampled_from((30.0, 2.0, 2.0, 0.05))
fates = st.sampled_from(("arrives", "arrives", "waits"))
OFTEN = st.sampled_from((True, True, True, False))


class RequestPromises(RuleBasedStateMachine):
    """Two nodes ask one server over connections that break; the server dies, its disk or not.

    The world judges: no effect twice, none behind an executed=no, no reply without effect,
    each attempt settled once and by its deadline.
    """

    @initialize()
    def new(self) -> None:
        self.world = RequestWorld()
        self.bodies, self.steps = count(1), 0
        for client in self.world.clients:
            self.world.connect(client)
        self.world.flow()

    def client(self, number: int) -> Client:
        return self.world.clients[number % len(self.world.clients)]

    def handler(self, number: int) -> Handler:
        handlers = list(self.world.handlers.values())
        return handlers[number % len(handlers)]

    def rare(self) -> bool:
        """Let what breaks everything happen in one of three steps."""
        return self.steps % 3 == 0

    # The clients.

    @rule(who=which, method=methods, budget_s=budgets, urgent=st.booleans(), fate=fates)
    def call(self, who: int, method: str, budget_s: float, urgent: bool, fate: str) -> None:
        number, kind = next(self.bodies), KINDS[method]
        idem = b"%016d" % number if kind is KEYED or (kind is ONCE and number % 2) else NO_IDEM
        prio = 50 if urgent else 500
        self.ask(self.client(who), Ask(method, b"%d" % number, budget_s, kind, prio, idem), fate)

    def ask(self, client: Client, ask: Ask, fate: str) -> None:
        self.world.call(client, ask)
        if fate == "arrives":
            while client.connection is not None and client.connection.up:
                self.world.carry_up(client)

    @precondition(lambda self: any(client.attempts for client in self.world.clients))
    @rule(who=which, number=which, budget_s=budgets, fate=fates)
    def ask_again_with_the_same_key(
        self, who: int, number: int, budget_s: float, fate: str
    ) -> None:
        """As a retry does, or somebody who does not know of the first."""
        client = self.client(who)
        asks = [a.ask for a in client.attempts.values() if a.ask.idem != NO_IDEM]
        asks = [ask for ask in asks if ask.kind is KEYED]
        if asks:
            last = asks[-1 - number % min(len(asks), 4)]
            again = Ask(
                last.method,
                last.body,
                budget_s,
                last.kind,
                last.prio,
                last.idem,
                last.attempt + 1,
            )
            self.ask(client, again, fate)

    @rule(who=which)
    def ask_for_something_else_with_a_used_key(self, who: int) -> None:
        client = self.client(who)
        used = [a.ask for a in client.attempts.values() if a.ask.kind is KEYED]
        if used:
            body = used[-1].body + b"x"
            self.world.call(client, Ask(used[-1].method, body, 2.0, KEYED, 500, used[-1].idem))

    @rule(who=which, number=which)
    def cancel(self, who: int, number: int) -> None:
        client = self.client(who)
        if client.attempts:
            corr = sorted(client.attempts)[-1 - number % len(client.attempts)]
            self.world.carry_out(client, client.asking.cancel(corr, self.world.now))

    # The network.

    @rule(who=which)
    def connect(self, who: int) -> None:
        client = self.client(who)
        if client.connection is None and not client.closed and client.asking.state is not DEAD:
            self.world.connect(client)

    @precondition(lambda self: self.rare())
    @rule(who=which, arrived=st.integers(0, 3), server_knows=st.booleans(), back=OFTEN)
    def cut(self, who: int, arrived: int, server_knows: bool, back: bool) -> None:
        client = self.client(who)
        if client.connection is not None:
            self.world.cut(client, arrived=arrived, server_knows=server_knows)
        if back:
            self.connect(who)

    @rule(who=which)
    def tell(self, who: int) -> None:
        client = self.client(who)
        if client.told:
            self.world.tell(client)

    @rule(who=which, frames=st.integers(1, 4))
    def carry_up(self, who: int, frames: int) -> None:
        client = self.client(who)
        for _ in range(frames):
            if client.connection is not None and client.connection.up:
                self.world.carry_up(client)

    @rule(who=which, frames=st.integers(1, 4), leftover=st.booleans())
    def carry_down(self, who: int, frames: int, leftover: bool) -> None:
        client = self.client(who)
        for _ in range(frames):
            pipe = client.leftover if leftover else client.connection and client.connection.down
            if pipe:
                self.world.carry_down(client, leftover=leftover)

    @rule()
    def carry_all(self) -> None:
        self.world.flow()

    # The server.

    @precondition(lambda self: self.world.handlers)
    @rule(number=which)
    def have_an_effect_elsewhere(self, number: int) -> None:
        handler = self.handler(number)
        if handler.work.method.marks and not handler.effect and not handler.resolves:
            self.world.have_effect(handler)

    @precondition(lambda self: self.world.handlers)
    @rule(number=which)
    def commit(self, number: int) -> None:
        handler = self.handler(number)
        if not handler.resolves:
            self.world.server.committed(handler.work.number)

    @precondition(lambda self: self.world.handlers)
    @rule(number=which, sure=st.booleans())
    def end_well(self, number: int, sure: bool) -> None:
        handler = self.handler(number)
        if handler.resolves:
            self.world.resolve(handler, sure=sure)
        else:
            self.world.reply(handler)

    @precondition(lambda self: self.world.handlers)
    @rule(number=which, executed=st.sampled_from(("no", "yes, but nobody knows", "unknown")))
    def end_badly(self, number: int, executed: str) -> None:
        handler = self.handler(number)
        if executed.startswith("yes") and not handler.effect and not handler.resolves:
            self.world.commit(handler)
        self.world.fail(handler, "no" if executed == "no" and not handler.effect else "unknown")

    @precondition(lambda self: self.world.stores)
    @rule()
    def store(self) -> None:
        self.world.store()

    @precondition(lambda self: self.rare())
    @rule(reason=st.sampled_from(("stop", "update")))
    def drain(self, reason: str) -> None:
        self.world.serve(self.world.server.drain(reason, 500))

    @precondition(lambda self: self.rare())
    @rule(keep_disk=OFTEN, back=OFTEN)
    def restart(self, keep_disk: bool, back: bool) -> None:
        self.world.restart_server(keep_disk=keep_disk)
        for who in range(len(self.world.clients) if back else 0):
            self.connect(who)

    @rule(seconds=st.sampled_from((0.01, 0.01, 0.6, 5.0)))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @invariant()
    def check(self) -> None:
        self.steps += 1
        self.world.check()

    def teardown(self) -> None:
        """Heal: all is settled, every credit is back, nobody works for nobody."""
        if not hasattr(self, "world"):
            return
        self.world.heal()
        self.world.check()
        assert self.world.server.idle
        for client in self.world.clients:
            assert all(attempt.outcome is not None for attempt in client.attempts.values())
            assert (client.asking.inflight, client.asking.queued) == (0, 0)
            corr = self.world.call(client, Ask("a.read", b"last", 2.0, SAFE))
            self.world.heal()
            assert isinstance(client.attempts[corr].outcome, outcomes.Replied)


def test_requests_are_executed_once_at_most_and_settled_once_in_time() -> None:
    run(RequestPromises, examples=100, steps=50)
