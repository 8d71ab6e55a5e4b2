"""Answering: each request is answered once, by what is known of its effect."""

from collections.abc import Iterator
from typing import Any

import pytest

from mesh.errors import Conflict, LocalProtocolError, MeshError
from mesh.protocol import envelope, rpcs
from mesh.protocol.admission import CLOSED, Limits
from mesh.protocol.answering import Answering
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import ERR, HELLO, NO_IDEM, REP, REQ, WELCOME, Kind, Rpc
from mesh.protocol.once import Row, digest_of
from mesh.protocol.rpcs import KEYED, Method, failure
from mesh.protocol.work import Abort, Effect, Execute, Forget, Resolve, Send, Store, Work
from tests.property.requestworld import open_server

PEER, USER, EPOCH = b"1", "risk", 7
IDEM = b"k" * 16


@pytest.fixture
def server() -> Iterator[Answering]:
    server = open_server(limits=Limits(window=9, running_max=2, queue_max=2))
    greet(server)
    yield server
    server.check()


def greet(server: Answering, peer: bytes = PEER, user: str = USER) -> list[Effect]:
    body = envelope.encode_value(Hello("test", user, 1, 1))
    return server.frame(peer, user, Rpc(HELLO, 0, 0, EPOCH, body), 0.0)


def ask(server: Answering, corr: int, method: str = "a.read", **more: Any) -> list[Effect]:
    number, peer = envelope.method_id(method), more.pop("peer", PEER)
    user, now = more.pop("user", USER), more.pop("now", 0.0)
    more = {"body": b"x", "budget_ms": 1_000, **more}
    return server.frame(peer, user, Rpc(REQ, number, corr, EPOCH, **more), now)


def work_of(effects: list[Effect]) -> Work:
    [effect] = [e for e in effects if isinstance(e, Execute | Resolve)]
    return effect.work


def answers(effects: list[Effect]) -> list[tuple[int, Kind, str]]:
    """Return corr, kind and the code or reply of each frame sent."""
    found = []
    for effect in effects:
        if isinstance(effect, Send):
            rpc, text = effect.rpc, effect.rpc.body.decode("latin-1")
            if rpc.kind is ERR:
                told = envelope.decode_value(rpc.body, Failure)
                text = f"{told.code} {told.executed}"
            found.append((rpc.corr, rpc.kind, text))
    return found


def test_story(server: Answering) -> None:
    """Greeted, asked, executed, answered."""
    [welcome] = greet(server)
    assert isinstance(welcome, Send)
    assert welcome.rpc.kind is WELCOME
    work = work_of(ask(server, 1))
    assert (work.caller.node, work.method.name, work.body) == ("risk", "a.read", b"x")
    assert answers(server.done(work.number, b"reply", 0.1)) == [(1, REP, "reply")]
    assert server.idle


def test_who_did_not_greet_is_told_to(server: Answering) -> None:
    assert answers(ask(server, 1, peer=b"2")) == [(1, ERR, "UNKNOWN_SESSION no")]
    assert server.rejects == 1


def test_a7_a8_names_and_methods_are_checked(server: Answering) -> None:
    body = envelope.encode_value(Hello("test", "risk", 1, 1))
    forged = server.frame(b"2", "gateway", Rpc(HELLO, 0, 0, 9, body), 0.0)
    assert answers(forged) == [(0, ERR, "DENIED no")]
    greet(server, b"3", "guest")
    assert answers(ask(server, 1, peer=b"3", user="guest")) == [(1, ERR, "DENIED no")]


def test_number_used_twice_is_a_reject(server: Answering) -> None:
    ask(server, 1)
    assert (ask(server, 1), ask(server, 0), server.rejects) == ([], [], 2)


def test_queue_sheds_and_serves_by_urgency(server: Answering) -> None:
    running = [work_of(ask(server, corr)) for corr in (1, 2)]
    ask(server, 3)
    ask(server, 4, attempt=2)
    urgent = ask(server, 5, "a.cancel", prio=50, idem=IDEM)
    assert answers(urgent) == [(4, ERR, "OVERLOADED no")]
    effects = server.done(running[0].number, b"r", 0.1)
    assert [corr for corr, _, _ in answers(effects)] == [1, 5]
    assert work_of(effects).method.name == "a.cancel"


def test_expired_work_is_never_served_however_late_the_tick(server: Answering) -> None:
    first, _ = [work_of(ask(server, corr, budget_ms=60_000)) for corr in (1, 2)]
    ask(server, 3)
    effects = server.done(first.number, b"r", 1.0)
    assert answers(effects) == [(1, REP, "r"), (3, ERR, "DEADLINE no")]
    assert not [effect for effect in effects if isinstance(effect, Execute)]


def test_method_that_is_not_urgent_cannot_claim_to_be(server: Answering) -> None:
    assert work_of(ask(server, 1, prio=0)).prio == rpcs.URGENT


def test_silent_handler_is_told_when_time_is_up(server: Answering) -> None:
    work = work_of(ask(server, 1))
    [abort] = server.tick(1.0)
    assert isinstance(abort, Abort)
    assert server.tick(9.0) == []
    late = failure(MeshError, "stopped")
    assert answers(server.failed(work.number, late, 9.0)) == [(1, ERR, "INTERNAL unknown")]


def test_caller_that_goes_stops_safe_handlers_and_drops_what_waits(server: Answering) -> None:
    safe, keyed = work_of(ask(server, 1)), work_of(ask(server, 2, "a.place", idem=IDEM))
    ask(server, 3)
    [abort] = server.gone(PEER, 0.1)
    assert isinstance(abort, Abort)
    assert (abort.work, server.load) == (safe, (2, 0))
    assert server.done(keyed.number, b"r", 0.2, stored=True) == []
    assert server.orphans == 1
    greet(server)
    assert answers(ask(server, 4, "a.place", idem=IDEM)) == [(4, REP, "r")]


def test_cancel_is_void_behind_the_point_of_no_return(server: Answering) -> None:
    work = work_of(ask(server, 1))
    server.committed(work.number)
    cancel = Rpc(rpcs.CANCEL, 0, 1, EPOCH)
    assert server.frame(PEER, USER, cancel, 0.1) == []
    other = work_of(ask(server, 2))
    [abort] = server.frame(PEER, USER, Rpc(rpcs.CANCEL, 0, 2, EPOCH), 0.1)
    assert abort == Abort(other, "cancelled by the caller")
    ask(server, 3)
    effects = server.frame(PEER, USER, Rpc(rpcs.CANCEL, 0, 3, EPOCH), 0.1)
    assert answers(effects) == [(3, ERR, "CANCELLED no")]
    assert server.frame(PEER, USER, Rpc(rpcs.CANCEL, 0, 99, EPOCH), 0.1) == []


def test_one_of_several_waiters_leaves_alone(server: Answering) -> None:
    work = work_of(ask(server, 1, "a.place", idem=IDEM))
    assert answers(ask(server, 2, "a.place", idem=IDEM)) == [(2, rpcs.INPROG, "")]
    effects = server.frame(PEER, USER, Rpc(rpcs.CANCEL, 0, 1, EPOCH), 0.1)
    assert answers(effects) == [(1, ERR, "CANCELLED unknown")]
    assert answers(server.done(work.number, b"r", 0.2, stored=True)) == [(2, REP, "r")]


def test_no_answer_runs_ahead_of_the_disk(server: Answering) -> None:
    work = work_of(ask(server, 1, "a.place", idem=IDEM))
    [store] = server.done(work.number, b"r", 0.1)
    assert isinstance(store, Store)
    assert (store.row.reply, server.load) == (b"r", (1, 0))
    assert answers(server.stored(work.number, 0.2)) == [(1, REP, "r")]


def test_method_with_effects_elsewhere_is_marked_before_it_begins(server: Answering) -> None:
    [execute] = ask(server, 1, "a.wire", idem=IDEM)
    assert isinstance(execute, Execute)
    assert execute.mark == Row("risk", IDEM, digest_of(envelope.method_id("a.wire"), b"x"))
    effects = server.failed(execute.work.number, failure(Conflict, "no"), 0.1)
    assert Forget((("risk", IDEM),)) in effects  # type: ignore[arg-type]  # a Key is a tuple
    assert work_of(ask(server, 2, "a.wire", idem=IDEM)).resolves is False


def test_conflict_is_told(server: Answering) -> None:
    ask(server, 1, "a.place", idem=IDEM)
    effects = ask(server, 2, "a.place", idem=IDEM, body=b"y")
    assert answers(effects) == [(2, ERR, "CONFLICT no")]
    assert answers(ask(server, 3, "a.place", idem=NO_IDEM)) == [(3, ERR, "INVALID no")]


def crashed(server: Answering) -> None:
    digest = digest_of(envelope.method_id("a.wire"), b"x")
    server.once.load(Row("risk", IDEM, digest), 0.0)


def test_after_a_crash_the_service_says_what_became_of_it(server: Answering) -> None:
    crashed(server)
    work = work_of(ask(server, 1, "a.wire", idem=IDEM))
    assert work.resolves
    effects = server.failed(work.number, failure(MeshError, "who knows"), 0.1)
    assert answers(effects) == [(1, ERR, "INTERNAL unknown")]
    again = work_of(ask(server, 2, "a.wire", idem=IDEM))
    assert (again.resolves, work_of(server.absent(again.number, 0.2))) == (True, again)
    effects = server.done(again.number, b"r", 0.3, stored=True)
    assert answers(effects) == [(2, REP, "r")]


def test_unresolved_request_that_never_ran_again_is_unknown_not_unexecuted(
    server: Answering,
) -> None:
    """This run did not execute it; the run before may have."""
    crashed(server)
    for corr in (1, 2):
        ask(server, corr)
    ask(server, 3, "a.wire", idem=IDEM)
    assert (3, ERR, "OUTCOME_UNKNOWN unknown") in answers(server.tick(1.0))
    for work in list(server._load.works.values()):
        server.failed(work.number, failure(MeshError, "stopped"), 1.1)
    greet(server)
    work = work_of(ask(server, 4, "a.wire", idem=IDEM, now=1.2))
    assert work.resolves
    effects = server.failed(work.number, failure(Conflict, "surely not", "no"), 1.3)
    assert answers(effects) == [(4, ERR, "OUTCOME_UNKNOWN unknown")]


def test_handler_cannot_take_back_what_it_committed(server: Answering) -> None:
    work = work_of(ask(server, 1, "a.place", idem=IDEM))
    server.committed(work.number)
    effects = server.failed(work.number, failure(Conflict, "no"), 0.1)
    assert answers(effects) == [(1, ERR, "OUTCOME_UNKNOWN unknown")]


def test_late_absence_executes_nothing(server: Answering) -> None:
    crashed(server)
    work = work_of(ask(server, 1, "a.wire", idem=IDEM))
    assert answers(server.absent(work.number, 1.0)) == [(1, ERR, "DEADLINE no")]


def test_reply_that_no_frame_holds_is_told_as_executed(server: Answering) -> None:
    work = work_of(ask(server, 1))
    effects = server.done(work.number, bytes(256 * 1024), 0.1)
    assert answers(effects) == [(1, ERR, "INTERNAL yes")]


def test_silent_caller_is_gone(server: Answering) -> None:
    ping = Rpc(rpcs.PING, 0, 0, EPOCH, rpcs.encoded(rpcs.Ping(1, 1)))
    server.frame(PEER, USER, ping, 0.0)
    ask(server, 1, budget_ms=60_000)
    effects: list[Effect] = []
    while (at := server.next_deadline()) is not None and at < 10.0:
        effects += server.tick(at)
    assert [type(effect) for effect in effects] == [Abort]
    assert len(server.sessions) == 0


def test_greeting_again_begins_a_session_anew(server: Answering) -> None:
    ask(server, 1)
    abort, welcome = greet(server)
    assert isinstance(abort, Abort)
    assert isinstance(welcome, Send)
    assert work_of(ask(server, 1)).number == 2


def test_drain_then_close(server: Answering) -> None:
    work = work_of(ask(server, 1))
    assert [kind for _, kind, _ in answers(server.drain("stop", 500))] == [rpcs.GOAWAY]
    assert answers(ask(server, 2)) == [(2, ERR, "DRAINING no")]
    assert not server.idle
    effects = server.close(1.0)
    assert [kind for _, kind, _ in answers(effects)] == [rpcs.BYE]
    assert [e.work for e in effects if isinstance(e, Abort)] == [work]
    server.failed(work.number, failure(MeshError, "stopped"), 1.1)
    assert (server.idle, server.admission.state) == (True, CLOSED)


def test_parts_need_a_method_that_streams_and_credit() -> None:
    server = open_server(listing=Method("a.list", streams=True))
    greet(server)
    plain, streams = work_of(ask(server, 1)), work_of(ask(server, 2, "a.list"))
    with pytest.raises(LocalProtocolError):
        server.part(plain.number, b"x")
    for _ in range(rpcs.PARTS):
        server.part(streams.number, b"x")
    assert not server.may_send(streams.number)
    with pytest.raises(LocalProtocolError):
        server.part(streams.number, b"x")
    credit = Rpc(rpcs.CREDIT, 0, 1, EPOCH, rpcs.encoded(rpcs.Credit(9)))
    assert server.frame(PEER, USER, credit, 0.1) == []
    [end] = server.done(streams.number, b"x", 0.2)
    assert isinstance(end, Send)
    assert envelope.decode_value(end.rpc.body, rpcs.End) == rpcs.End(4, b"x")
    assert KEYED is not None


def test_a_refused_send_told_behind_its_effects_aborts_what_has_begun(server: Answering) -> None:
    first, second = (work_of(ask(server, corr)) for corr in (1, 2))
    ask(server, 3)
    assert server.load == (2, 1)
    effects = server.done(first.number, b"reply", 0.1)
    begun = work_of(effects)
    assert effects[-1] == Execute(begun)
    aborted = [effect.work for effect in server.gone(PEER, 0.1) if isinstance(effect, Abort)]
    assert aborted == [second, begun]
