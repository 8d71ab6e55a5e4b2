"""Session: nothing before auth, bounded in everything, values conflate first.

Never here: sockets.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from mesh.errors import OutcomeUnknown
from mesh.protocol.mode import EMERGENCY
from mesh.protocol.tokens import OPERATE, TRADE, VIEW, Tokens
from nodes.gateway.messages import JSON, Event, Frame, Subscribe
from nodes.gateway.session import (
    CLOSED,
    OPEN,
    TOO_BIG,
    TOO_SLOW,
    UNAUTHENTICATED,
    Call,
    Close,
    Session,
)
from nodes.gateway.settings import GatewaySettings

TOKENS = Tokens().with_token(VIEW, "see").with_token(TRADE, "act").with_token(OPERATE, "run")
SETTINGS = GatewaySettings(
    host="127.0.0.1",
    port=5001,
    api_port=5000,
    clients_max=10,
    message_bytes_max=4_096,
    topics_max=3,
    requests_per_s=50,
    requests_burst=100,
    requests_open_max=2,
    queue_bytes_max=2_000,
    stall_s=5,
    auth_s=2,
)


def make_session(token: str = "") -> Session:
    session = Session(
        name="s1",
        codec=JSON,
        settings=SETTINGS,
        epoch=9,
        opened=0.0,
        scope_of=TOKENS.scope_of,
        wake=lambda: None,
    )
    if token:
        say(session, op="auth", token=token)
        drain(session)
    return session


@pytest.fixture
def session() -> Iterator[Session]:
    made = make_session("act")
    yield made
    made.check()


def say(session: Session, at: float = 0.0, /, **message: Any) -> list[Any]:
    return session.receive(msgspec.json.encode(message), at, 77)


def code(effects: Sequence[object]) -> int:
    (end,) = effects
    assert isinstance(end, Close)
    return end.code


def drain(session: Session, at: float = 0.0) -> list[dict[str, Any]]:
    found = []
    while (data := session.take(at)) is not None:
        found.append(msgspec.json.decode(data))
    return found


def value(number: int, size: int = 10) -> Frame:
    return Frame(Event("md.quote.X", 1, number, 0, "x" * size))


def test_known_token_is_welcomed_with_limits_and_mode() -> None:
    session = make_session()
    assert say(session, op="auth", token="see") == []
    welcome, mode = drain(session)
    assert welcome["op"] == "welcome"
    assert (welcome["session"], welcome["epoch"], welcome["scope"]) == ("s1", 9, "view")
    assert welcome["limits"]["topics"] == 3
    assert mode == {"op": "mode", "mode": "normal", "mode_epoch": 0}
    assert session.state is OPEN


@pytest.mark.parametrize(
    "data",
    [
        b'{"op":"auth","token":"wrong"}',
        b'{"op":"auth","token":""}',
        b'{"op":"ping"}',
        b'{"op":"request","id":1,"method":"coordinator.status"}',
        b"rubbish",
    ],
)
def test_anything_but_a_known_token_first_ends_the_session(data: bytes) -> None:
    session = make_session()
    assert code(session.receive(data, 0.0, 0)) == UNAUTHENTICATED
    assert [message["op"] for message in drain(session)] == ["bye"]
    assert say(session, op="auth", token="see") == []
    assert session.state is CLOSED


def test_silence_ends_the_session_after_two_seconds() -> None:
    session = make_session()
    assert session.tick(1.9) == []
    assert code(session.tick(2.0)) == UNAUTHENTICATED


def test_ping_brings_its_own_t_and_our_time(session: Session) -> None:
    assert say(session, op="ping", t=5) == []
    assert drain(session) == [{"op": "pong", "t": 5, "now": 77}]


def test_request_becomes_a_call_and_its_answer_a_reply(session: Session) -> None:
    (call,) = say(session, op="request", id=1, method="coordinator.status", deadline_ms=99_999)
    assert call == Call(1, "coordinator.status", None, None, 10.0)
    session.reply(1, {"mode": "NORMAL"}, 0.0)
    assert drain(session) == [{"op": "reply", "id": 1, "data": {"mode": "NORMAL"}}]


def test_failed_request_says_what_is_known_of_its_effect(session: Session) -> None:
    (call,) = say(session, op="request", id=1, method="execution.cancel", params="c-1")
    session.refuse(call.id, OutcomeUnknown("no answer"), 0.0)
    assert drain(session) == [
        {
            "op": "error",
            "id": 1,
            "code": "OUTCOME_UNKNOWN",
            "message": "no answer",
            "executed": "unknown",
        }
    ]


@pytest.mark.parametrize(
    ("method", "code"),
    [("execution.submit", "NOT_FOUND"), ("market_data.replay", "DENIED"), ("", "NOT_FOUND")],
)
def test_refused_request_is_not_called(session: Session, method: str, code: str) -> None:
    assert say(session, op="request", id=1, method=method) == []
    (error,) = drain(session)
    assert (error["code"], error["executed"]) == (code, "no")


def test_scope_follows_the_mode_in_force(session: Session) -> None:
    session.set_mode(EMERGENCY, 4, 0.0)
    wish = {"op": "request", "id": 1, "method": "mesh.set_mode", "params": {"mode": "safe"}}
    assert say(session, **wish) == []
    assert [message["op"] for message in drain(session)] == ["mode", "error"]


def test_only_so_many_requests_wait_at_once(session: Session) -> None:
    for number in range(3):
        say(session, op="request", id=number, method="coordinator.status")
    (error,) = drain(session)
    assert (error["id"], error["code"]) == (2, "OVERLOADED")


def test_messages_beyond_the_rate_are_refused_until_time_passes(session: Session) -> None:
    for _ in range(100):
        say(session, op="ping")
        drain(session)
    say(session, op="ping")
    assert drain(session)[0]["code"] == "OVERLOADED"
    say(session, 0.02, op="ping")
    assert drain(session)[0]["op"] == "pong"


def test_malformed_messages_are_answered_and_in_a_flood_end_it(session: Session) -> None:
    ends: list[Any] = []
    for _ in range(101):
        ends += session.receive(b"{}", 0.0, 0)
        drain(session)
    assert [end.code for end in ends] == [TOO_BIG]


def test_message_above_the_limit_ends_the_session(session: Session) -> None:
    assert code(session.receive(b"x" * 4_097, 0.0, 0)) == TOO_BIG


def test_auth_twice_is_an_error(session: Session) -> None:
    say(session, op="auth", token="run")
    assert drain(session)[0]["code"] == "INVALID"


def test_values_of_one_topic_conflate_in_the_queue(session: Session) -> None:
    for number in range(1_000):
        assert session.publish("md.quote.X", value(number), 0.0, value=True) == []
    assert [message["seq"] for message in drain(session)] == [999]


def test_conflated_values_wait_for_their_interval(session: Session) -> None:
    (subscribe,) = say(session, op="subscribe", id=1, topics=["md."], conflate_ms=200)
    assert isinstance(subscribe, Subscribe)
    session.tick(0.5)
    for number in range(9):
        session.publish("md.quote.X", value(number), 0.5, value=True)
    assert drain(session, 0.5) == []
    session.tick(0.7)
    assert [message["seq"] for message in drain(session, 0.7)] == [8]


def test_client_that_spends_its_byte_budget_is_closed_with_4008(session: Session) -> None:
    ends: list[Any] = []
    for number in range(1_000):
        ends += session.publish("order.paper", value(number, 100), 0.0, value=False)
    assert ends == [Close(TOO_SLOW, "byte budget spent")]


def test_client_without_progress_for_five_seconds_is_closed_with_4008(session: Session) -> None:
    session.publish("order.paper", value(1), 1.0, value=False)
    assert session.tick(5.9) == []
    assert code(session.tick(6.0)) == TOO_SLOW


def test_reading_client_is_never_stalled(session: Session) -> None:
    for second in range(20):
        session.publish("order.paper", value(second), float(second), value=False)
        assert session.tick(second + 0.5) == []
        assert len(drain(session, second + 0.6)) == 1
