"""Admission: rules first, load last; a draining server takes nothing new."""

from typing import Any

import pytest

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope
from mesh.protocol.admission import (
    CLOSED,
    DRAINING,
    END,
    LEAVE,
    OPEN,
    TRANSITIONS,
    Admission,
    Limits,
    ServerTurn,
)
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import REQ, Rpc
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Caller, Method
from mesh.protocol.sessions import Session, Sessions
from mesh.protocol.work import Work
from mesh.protocol.workload import Workload

METHODS = (Method("a.read"), Method("a.place", KEYED), Method("a.secret"))


def admission(*more: Method) -> Admission:
    methods = {envelope.method_id(method.name): method for method in METHODS + more}
    sessions: Sessions[Work] = Sessions(
        "test", lambda u, n: u == n, lambda u: lambda name: name != "a.secret"
    )
    return Admission("risk", 3, methods, sessions, Limits(window=2, window_bytes=100))


def greeted(judge: Admission, epoch: int = 7) -> Session[Work]:
    found = judge.greet(b"1", "gateway", Hello("test", "gateway", 1, 1), epoch, 0.0)
    assert isinstance(found, Session)
    return found


def request(method: str = "a.read", **more: Any) -> Rpc:
    made = Rpc(REQ, envelope.method_id(method), 1, 7, b"body", 500)
    return Rpc(**{name: more.get(name, getattr(made, name)) for name in made.__struct_fields__})


def code(judge: Admission, session: Session[Work], rpc: Rpc, load: Workload | None = None) -> str:
    found = judge.refusal(session, rpc, load or Workload(5, 5, 1_000))
    assert found is None or found.executed == "no"
    return found.code if found is not None else "taken"


def test_table_is_total() -> None:
    assert {state: set(turns) for state, turns in TRANSITIONS.items()} == {
        state: set(ServerTurn) for state in (OPEN, DRAINING, CLOSED)
    }
    judge = admission()
    judge.turn(END)
    judge.turn(LEAVE)
    assert judge.state is CLOSED


@pytest.mark.parametrize(
    ("rpc", "expected"),
    [
        (request(), "taken"),
        (request("a.nothing"), "NOT_FOUND"),
        (request("a.secret"), "DENIED"),
        (request("a.place"), "INVALID"),
        (request("a.place", idem=b"k" * 16), "taken"),
        (request(budget_ms=0), "DEADLINE"),
        (request(client_epoch=6), "STALE_EPOCH"),
        (request(body=b"x" * 900), "OVERLOADED"),
    ],
)
def test_a8_a24_request_is_judged(rpc: Rpc, expected: str) -> None:
    judge = admission()
    assert code(judge, greeted(judge), rpc) == expected


def test_window_is_kept_in_requests_and_bytes() -> None:
    judge = admission()
    session = greeted(judge)
    item = Work(1, session.caller, METHODS[0], 1, b"", 9.0, 500)
    session.open[1], session.bytes = (item, 60), 60
    assert code(judge, session, request(body=b"x" * 40)) == "taken"
    assert code(judge, session, request(body=b"x" * 41)) == "OVERLOADED"
    session.open[2] = item, 0
    assert code(judge, session, request(body=b"")) == "OVERLOADED"


def test_rules_come_before_load() -> None:
    judge = admission()
    session, full = greeted(judge), Workload(5, 5, 0)
    assert code(judge, session, request("a.secret"), full) == "DENIED"
    assert (code(judge, session, request(), full), judge.shed) == ("OVERLOADED", 1)


def test_newer_run_of_the_caller_fences_the_older() -> None:
    judge = admission()
    old = greeted(judge)
    greeted(judge, epoch=8)
    assert code(judge, old, request()) == "STALE_EPOCH"


def test_draining_server_sends_elsewhere() -> None:
    judge = admission()
    session = greeted(judge)
    judge.turn(LEAVE)
    assert (judge.state, code(judge, session, request())) == (DRAINING, "DRAINING")
    found = judge.greet(b"2", "gateway", Hello("test", "gateway", 1, 1), 7, 0.0)
    assert isinstance(found, Failure)
    assert found.code == "DRAINING"


def test_welcome_lists_what_the_caller_may_call() -> None:
    judge = admission()
    welcome = judge.welcome(greeted(judge))
    assert welcome.methods == {"a.read": SAFE, "a.place": KEYED}
    assert (welcome.node, welcome.epoch, welcome.credit) == ("risk", 3, 2)


def test_reply_in_parts_is_safe_only() -> None:
    with pytest.raises(LocalProtocolError):
        admission(Method("a.list", KEYED, streams=True))
    assert Caller("u", "n", 1).node == "n"


PLAIN = (Method("a.look", SAFE, plain=True), Method("a.post", ONCE, plain=True))
KEY = b"k" * 16


@pytest.mark.parametrize(
    ("rpc", "taken"),
    [
        (request("a.look"), True),
        (request("a.look", idem=KEY), True),  # a key means nothing to a safe method
        (request("a.post"), True),
        (request("a.post", idem=KEY), False),  # the key may have been seen
        (request("a.read"), False),  # its handler takes its time
        (request("a.nothing"), False),
        (request("a.look", corr=0), False),
        (request("a.look", corr=9), False),  # under way
        (request("a.look", budget_ms=0), False),
        (request("a.look", client_epoch=6), False),
        (request("a.look", body=b"x" * 41), False),  # above the window of bytes
        (request("a.look", body=b"x" * 40), True),
    ],
)
def test_plain_request_is_answered_at_once_if_nothing_is_against_it(rpc: Rpc, taken: bool) -> None:
    judge = admission(*PLAIN)
    session, load = greeted(judge), Workload(5, 5, 1_000)
    item = Work(1, session.caller, METHODS[0], 1, b"", 9.0, 500)
    session.open[9], session.bytes = (item, 60), 60
    assert judge.at_once(b"1", rpc, load, 4.0) is (session if taken else None)
    assert session.heard == (4.0 if taken else 0.0)
    if taken:
        assert judge.refusal(session, rpc, load) is None
    assert judge.at_once(b"2", rpc, load, 4.0) is None  # it did not greet


@pytest.mark.parametrize("against", ["draining", "stale", "window", "slots", "bytes", "secret"])
def test_plain_request_goes_the_long_way_if_the_server_is_not_free(against: str) -> None:
    judge = admission(*PLAIN, Method("a.secret", plain=True))
    session, load = greeted(judge), Workload(5, 5, 1_000)
    item = Work(1, session.caller, METHODS[0], 1, b"", 9.0, 500)
    assert judge.at_once(b"1", request("a.look"), load, 1.0) is session
    if against == "draining":
        judge.turn(LEAVE)
    elif against == "stale":
        judge.greet(b"3", "gateway", Hello("test", "gateway", 1, 1), 8, 0.0)
    elif against == "window":
        session.open.update({8: (item, 0), 9: (item, 0)})
    elif against == "slots":
        load.running = 4  # the fifth is kept for urgent ones
    elif against == "bytes":
        load.bytes = 797
    asked = request("a.secret" if against == "secret" else "a.look")
    assert judge.at_once(b"1", asked, load, 1.0) is None
