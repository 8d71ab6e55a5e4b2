"""Sessions: pinned at the greeting; names, epochs and clusters are not taken on trust."""

import pytest

from mesh.protocol.control import Failure, Hello
from mesh.protocol.sessions import SILENT_S, Session, Sessions

HELLO = Hello("test", "risk", 1, 1)


@pytest.fixture
def sessions() -> Sessions[str]:
    return Sessions("test", lambda u, n: u == n, lambda u: lambda m: m != u, sessions_max=2)


def greet(
    sessions: Sessions[str], peer: bytes, node: str = "risk", epoch: int = 7, now: float = 0.0
) -> Session[str]:
    found = sessions.greet(peer, node, Hello("test", node, 1, 1), epoch, now)
    assert isinstance(found, Session)
    sessions.check()
    return found


@pytest.mark.parametrize(
    ("user", "hello", "epoch", "code"),
    [
        ("risk", Hello("other", "risk", 1, 1), 7, "DENIED"),
        ("gateway", HELLO, 7, "DENIED"),
        ("risk", Hello("test", "risk", 2, 3), 7, "VERSION"),
        ("risk", HELLO, 6, "STALE_EPOCH"),
    ],
)
def test_a7_greeting_is_refused(
    sessions: Sessions[str], user: str, hello: Hello, epoch: int, code: str
) -> None:
    greet(sessions, b"1")
    found = sessions.greet(b"2", user, hello, epoch, 0.0)
    assert isinstance(found, Failure)
    assert (found.code, found.executed) == (code, "no")
    assert sessions.get(b"2") is None


def test_a6_the_connection_is_not_the_identity(sessions: Sessions[str]) -> None:
    session = greet(sessions, b"1")
    assert (session.caller.user, session.caller.node, session.caller.epoch) == ("risk", "risk", 7)
    assert session.may("read")
    assert not session.may("risk")


def test_newer_run_makes_the_older_stale(sessions: Sessions[str]) -> None:
    old = greet(sessions, b"1", epoch=7)
    new = greet(sessions, b"2", epoch=8)
    assert (sessions.is_stale(old), sessions.is_stale(new)) == (True, False)


def test_full_table_makes_room_by_the_longest_silent_idle_one(sessions: Sessions[str]) -> None:
    first, second = greet(sessions, b"1"), greet(sessions, b"2", "b", now=1.0)
    sessions.heard(first, 2.0)
    greet(sessions, b"3", "c", now=3.0)
    assert sessions.get(b"2") is None
    for session in sessions.all():
        session.open[1] = "work", 0
    found = sessions.greet(b"4", "d", Hello("test", "d", 1, 1), 7, 4.0)
    assert isinstance(found, Failure)
    assert (found.code, second.open) == ("OVERLOADED", {})


def test_only_who_pings_can_be_silent(sessions: Sessions[str]) -> None:
    session = greet(sessions, b"1")
    greet(sessions, b"2", "b", now=1.0)
    session.pings = True
    assert sessions.silent(SILENT_S - 0.1) == []
    assert sessions.silent(SILENT_S + 9.0) == [b"1"]
    assert sessions.end(b"1") is session
    assert sessions.end(b"1") is None


def test_taking_back_gives_back_the_bytes(sessions: Sessions[str]) -> None:
    session = greet(sessions, b"1")
    session.open[5], session.bytes = ("work", 10), 10
    assert (session.take(5), session.take(5), session.bytes) == (("work", 10), None, 0)
