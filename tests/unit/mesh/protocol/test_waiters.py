"""Waiters: each who waits is told once, under its own number."""

import pytest

from mesh.protocol import envelope, rpcs
from mesh.protocol.control import Failure, Hello
from mesh.protocol.envelope import ERR, REP, REQ, Kind, Rpc
from mesh.protocol.rpcs import Caller, Method, Ping
from mesh.protocol.sessions import Session, Sessions
from mesh.protocol.waiters import dismiss, leave, pong, refuse, strange, tell, wait
from mesh.protocol.work import Work


@pytest.fixture
def sessions() -> Sessions[Work]:
    return Sessions("test", lambda u, n: True, lambda u: lambda m: True)


def greeted(sessions: Sessions[Work], peer: bytes, epoch: int) -> Session[Work]:
    found = sessions.greet(peer, "u", Hello("test", peer.decode(), 1, 1), epoch, 0.0)
    assert isinstance(found, Session)
    return found


def test_all_who_wait_are_told_under_their_own_number(sessions: Sessions[Work]) -> None:
    one, two = greeted(sessions, b"1", 7), greeted(sessions, b"2", 8)
    item = Work(1, Caller("u", "n", 7), Method("a.b"), 55, b"body", 9.0, 500)
    wait(one, 3, item, 4)
    wait(two, 6, item, 0)
    sessions.check()
    told = [(s.peer, s.rpc.corr, s.rpc.client_epoch) for s in tell(sessions, item, REP, b"r")]
    assert told == [(b"1", 3, 7), (b"2", 6, 8)]
    assert (leave(one, 3), leave(one, 3)) == (item, None)
    dismiss(sessions, item)
    assert (item.waiters, one.open, two.open, one.bytes) == ([], {}, {}, 0)


@pytest.mark.parametrize(
    ("kind", "corr"), [(REQ, 5), (rpcs.PING, 0), (rpcs.CANCEL, 0), (rpcs.BYE, None), (ERR, None)]
)
def test_stranger_is_told_to_greet_if_it_awaits_an_answer(kind: Kind, corr: int | None) -> None:
    answers = strange(b"9", Rpc(kind, 1, 5, 7))
    assert [answer.rpc.corr for answer in answers] == ([] if corr is None else [corr])
    for answer in answers:
        told = envelope.decode_value(answer.rpc.body, Failure)
        assert (told.code, told.executed) == ("UNKNOWN_SESSION", "no")


def test_pong_names_what_is_open(sessions: Sessions[Work]) -> None:
    session = greeted(sessions, b"1", 7)
    wait(session, 3, Work(1, session.caller, Method("a.b"), 55, b"", 9.0, 500), 0)
    ping = Rpc(rpcs.PING, 0, 0, 7, rpcs.encoded(Ping(10, 4)))
    answer = pong(session, ping, iter((20, 21)).__next__)
    told = envelope.decode_value(answer.rpc.body, rpcs.Pong)
    assert (told, session.pings) == (rpcs.Pong(10, 20, 21, 4, (3,)), True)


def test_refusal_carries_its_reason(sessions: Sessions[Work]) -> None:
    session = greeted(sessions, b"1", 7)
    sent = refuse(session, 55, 3, rpcs.cancelled("no"))
    assert (sent.rpc.kind, sent.rpc.method, sent.rpc.corr) == (ERR, 55, 3)
