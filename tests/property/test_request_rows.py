"""Requests: the named failures and attacks, on both machines and a network between them."""

from mesh.protocol import envelope, outcomes, work
from mesh.protocol.control import Failure
from mesh.protocol.envelope import REP, REQ, Rpc
from mesh.protocol.peerlink import READY
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, Method
from tests.property.requestworld import (
    LIMITS,
    Client,
    RequestWorld,
    open_client,
    open_server,
)


def pair(queue_max: int = 3, **more: Method) -> tuple[RequestWorld, Client]:
    """Return a world with one node that asks, its session open."""
    world = RequestWorld(("risk",))
    world.server = open_server(1, LIMITS, **more)
    world.clients[0].asking = open_client(queue_max=queue_max)
    world.connect(world.clients[0])
    world.flow()
    assert world.clients[0].asking.state is READY
    return world, world.clients[0]


def keyed(method: str = "a.place", body: bytes = b"1", attempt: int = 1) -> Ask:
    return Ask(method, body, 2.0, KEYED, 500, b"k" * 16, attempt)


def told(client: Client, corr: int) -> tuple[str, str, bool]:
    """Return code, executed and again of a call that failed."""
    outcome = client.attempts[corr].outcome
    assert isinstance(outcome, outcomes.Failed)
    return outcome.failure.code, outcome.failure.executed, outcome.again


def replied(client: Client, corr: int) -> bool:
    return isinstance(client.attempts[corr].outcome, outcomes.Replied)


def finish(world: RequestWorld) -> None:
    """Let all handlers reply, and their replies come."""
    while world.handlers or world.stores:
        for handler in list(world.handlers.values()):
            world.reply(handler)
        while world.stores:
            world.store()
    world.flow()


def test_f30_drain_fails_no_safe_or_keyed_call() -> None:
    """What is in flight is finished, what comes later is told to go elsewhere, then BYE."""
    world, client = pair()
    running = [world.call(client, Ask("a.read", b"%d" % n, 2.0, SAFE)) for n in range(4)]
    waiting = world.call(client, Ask("a.read", b"9", 2.0, SAFE))
    world.flow()
    world.serve(world.server.drain("stop", 5_000))
    world.flow()
    late = world.call(client, keyed())
    assert [told(client, corr) for corr in (waiting, late)] == [("DRAINING", "no", True)] * 2
    finish(world)
    assert all(replied(client, corr) for corr in running)
    assert world.server.idle


def test_f59_peer_dies_after_receiving() -> None:
    """All in flight fails at once: keyed may be repeated, once may not."""
    world, client = pair()
    place, once = world.call(client, keyed()), world.call(client, Ask("a.once", b"2", 2.0, ONCE))
    read = world.call(client, Ask("a.read", b"3", 2.0, SAFE))
    world.flow()
    world.cut(client, arrived=0, server_knows=False)
    world.tell(client)
    assert told(client, place) == ("OUTCOME_UNKNOWN", "unknown", True)
    assert told(client, once) == ("OUTCOME_UNKNOWN", "unknown", False)
    assert told(client, read) == ("UNAVAILABLE", "unknown", True)


def test_f59_silent_peer_is_dead_within_five_seconds() -> None:
    world, client = pair()
    corr = world.call(client, Ask("a.once", b"1", 30.0, ONCE))
    world.wait(4.5)  # its process is stopped: the connection lives, no PONG comes
    assert told(client, corr) == ("OUTCOME_UNKNOWN", "unknown", False)
    assert client.closed


def test_f60_restarted_peer_executes_nothing_stale() -> None:
    """Neither what it had queued nor what the client had not sent yet."""
    world, client = pair()
    corrs = [world.call(client, Ask("a.once", b"%d" % n, 30.0, ONCE)) for n in range(6)]
    world.flow()
    world.restart_server(keep_disk=True)
    world.heal()
    assert world.effects == {}
    assert [told(client, corr)[0] for corr in corrs] == ["OUTCOME_UNKNOWN"] * 4 + [
        "UNAVAILABLE"
    ] * 2


def test_f60_what_an_unknown_session_refused_is_sent_again_what_it_had_is_not() -> None:
    """The monitor is late: the client learns of the restart from the new run's answer."""
    world, client = pair()
    before = world.call(client, Ask("a.once", b"1", 30.0, ONCE))
    world.carry_up(client)
    world.reply(next(iter(world.handlers.values())))
    world.restart_server(keep_disk=True)
    client.leftover.clear()
    world.connect(client)
    behind = world.call(client, Ask("a.once", b"2", 30.0, ONCE))
    world.carry_up(client)
    world.carry_down(client, leftover=False)
    assert told(client, before) == ("OUTCOME_UNKNOWN", "unknown", False)
    assert client.attempts[behind].outcome is None
    world.heal()
    assert replied(client, behind)
    assert world.effects == {b"1": 1, b"2": 1}


def test_f61_reply_lost_then_asked_again() -> None:
    world, client = pair()
    world.call(client, keyed())
    world.flow()
    world.reply(next(iter(world.handlers.values())))
    world.cut(client, arrived=0, server_knows=True)
    world.restart_server(keep_disk=True)  # and the server died as well
    world.connect(client)
    world.flow()
    again = world.call(client, keyed(attempt=2))
    world.flow()
    assert replied(client, again)
    assert world.effects == {b"1": 1}


def test_f61_same_key_twice_at_once_has_one_effect() -> None:
    world, client = pair()
    corrs = [world.call(client, keyed()) for _ in range(3)]
    world.flow()
    assert len(world.handlers) == 1
    finish(world)
    assert all(replied(client, corr) for corr in corrs)
    assert (world.effects, client.asking.inflight) == ({b"1": 1}, 0)


def test_f62_deadline_shorter_than_the_queue() -> None:
    """In the server's queue, then in the client's: neither is ever executed."""
    world, client = pair(queue_max=9)
    for number in range(4):
        world.call(client, Ask("a.read", b"%d" % number, 30.0, SAFE))
    waits_here = world.call(client, Ask("a.read", b"8", 0.05, SAFE))
    world.flow()
    world.wait(0.1)
    assert told(client, waits_here) == ("DEADLINE", "no", False)
    session = world.server.sessions.all()[0]
    late = Rpc(REQ, envelope.method_id("a.read"), 77, 7, b"9", 50)
    world.server.frame(session.peer, "risk", late, world.now)
    assert world.server.load == (4, 1)
    [answer] = world.server.tick(world.now + 0.05)
    assert isinstance(answer, work.Send)
    failure = envelope.decode_value(answer.rpc.body, Failure)
    assert (failure.code, failure.executed) == ("DEADLINE", "no")
    finish(world)
    assert set(world.effects) == {b"0", b"1", b"2", b"3"}


def test_f63_a_thousand_cancelled_calls_give_back_every_credit() -> None:
    world, client = pair(queue_max=1_000)
    corrs = [world.call(client, Ask("a.read", b"%d" % n, 30.0, SAFE)) for n in range(1_000)]
    world.flow()
    for corr in corrs:
        world.carry_out(client, client.asking.cancel(corr, world.now))
    assert [told(client, corr)[:2] for corr in corrs] == [
        ("CANCELLED", "unknown" if corr in client.sent else "no") for corr in corrs
    ]
    world.flow()
    assert all(handler.aborted for handler in world.handlers.values())
    for handler in list(world.handlers.values()):
        world.fail(handler, "unknown")
    world.heal()
    assert (client.asking.inflight, client.asking.queued, world.server.idle) == (0, 0, True)


def test_f66_dropped_replies_give_back_their_credit_within_five_seconds() -> None:
    world, client = pair()
    corrs = [world.call(client, Ask("a.wire", b"1", 30.0, KEYED, 500, b"k" * 16))]
    corrs += [world.call(client, Ask("a.read", b"%d" % n, 30.0, SAFE)) for n in range(2, 5)]
    world.flow()
    for handler in list(world.handlers.values()):
        world.reply(handler)
    while world.stores:
        world.store()
    assert client.connection is not None
    client.connection.down.clear()  # a fault of ours: frames vanish from a living pipe
    assert client.asking.inflight == 4
    for _ in range(3):
        world.wait(1.0)
        world.flow()
    assert (client.asking.inflight, client.asking.healed) == (0, 4)
    assert [told(client, corr)[2] for corr in corrs] == [True] * 4


def test_a19_replayed_request_gets_the_stored_answer() -> None:
    world, client = pair()
    corr = world.call(client, keyed())
    assert client.connection is not None
    frame = client.connection.up[0]
    finish(world)
    world.flow()
    finish(world)
    assert replied(client, corr)
    answers = world.server.frame(client.connection.peer, "risk", frame, world.now)
    assert [type(answer) for answer in answers] == [work.Send]
    assert world.effects == {b"1": 1}


def test_a24_no_time_left_is_never_sent() -> None:
    world, client = pair()
    past = world.call(client, Ask("a.read", b"1", 0.0, SAFE))
    assert told(client, past) == ("DEADLINE", "no", False)
    assert not client.sent & {past}
    world.call(client, Ask("a.read", b"2", 365 * 86_400.0, SAFE))
    world.call(client, Ask("a.read", b"3", None, SAFE))
    assert client.connection is not None
    assert [rpc.budget_ms for rpc in client.connection.up] == [60_000, 2_000]


def test_a25_late_unknown_and_doubled_replies_are_counted_and_dropped() -> None:
    world, client = pair()
    corr = world.call(client, Ask("a.read", b"1", 0.5, SAFE))
    world.flow()
    [handler] = world.handlers.values()
    world.wait(0.6)
    assert told(client, corr) == ("DEADLINE", "unknown", False)
    world.reply(handler)
    assert client.connection is not None
    client.connection.down.append(client.connection.down[-1])
    client.connection.down.append(Rpc(REP, 0, 999, 7))
    world.flow()
    assert client.asking.late == 3
    assert client.asking.inflight == 0


def test_a25_reply_to_a_dead_peer_is_counted_and_kept() -> None:
    world, client = pair()
    world.call(client, keyed())
    world.flow()
    world.cut(client, arrived=0, server_knows=True)
    finish(world)
    assert world.server.orphans == 1
    assert world.effects == {b"1": 1}


def test_i13_once_is_never_offered_again() -> None:
    world, client = pair()
    corrs = [world.call(client, Ask("a.once", b"%d" % n, 2.0, ONCE)) for n in range(9)]
    world.flow()
    world.cut(client, arrived=0, server_knows=True)
    world.tell(client)
    assert not any(told(client, corr)[2] for corr in corrs)


def test_reply_in_parts_flows_as_it_is_consumed() -> None:
    world, client = pair(listing=Method("a.list", streams=True))
    corr = world.call(client, Ask("a.list", b"1", 30.0, SAFE))
    world.flow()
    [handler] = world.handlers.values()
    number = handler.work.number
    for part in range(4):
        world.serve(world.server.part(number, b"%d" % part))
    assert not world.server.may_send(number)
    world.flow()
    world.carry_out(client, client.asking.consumed(corr))
    assert client.connection is not None
    credit = client.connection.up.popleft()
    peer = client.connection.peer
    [resume] = world.server.frame(peer, "risk", credit, world.now)
    assert isinstance(resume, work.Resume)
    world.serve(world.server.part(number, b"4"))
    finish(world)
    assert replied(client, corr)
