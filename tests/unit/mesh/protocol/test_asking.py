"""Asking: a session is opened, kept and lost; each call is settled once, by what is known."""

from collections.abc import Iterator
from typing import Any

import pytest

from mesh.errors import Denied, LocalProtocolError, UnknownSession
from mesh.protocol import rpcs
from mesh.protocol.asking import Asking
from mesh.protocol.control import Failure, Hello, Message
from mesh.protocol.envelope import ERR, HELLO, REP, REQ, WELCOME, Kind, Rpc
from mesh.protocol.outcomes import Close, Effect, Failed, Open, Part, Ready, Replied, Send
from mesh.protocol.peerlink import CONNECTING, DEAD, DRAINING, GREETING, READY
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, Credit, End, Goaway, Welcome, failure

EPOCH = 7


@pytest.fixture
def asking() -> Iterator[Asking]:
    hello = Hello("test", "risk", 1, 1)
    asking = Asking("execution", hello, EPOCH, lambda: 0, lambda: 0.5, queue_max=3)
    yield asking
    asking.check()


def frame(asking: Asking, kind: Kind, body: Message | bytes = b"", corr: int = 0) -> list[Effect]:
    raw = body if isinstance(body, bytes) else rpcs.encoded(body)
    return asking.frame(Rpc(kind, 0, corr, EPOCH, raw), 0.0)


def greet(asking: Asking, **welcome: Any) -> list[Effect]:
    asking.connected(0.0)
    return frame(asking, WELCOME, Welcome("execution", 3, **welcome))


def call(asking: Asking, now: float = 0.0, **more: Any) -> tuple[int, list[Effect]]:
    more = {"kind": SAFE, "budget_s": 2.0} | more
    return asking.call(Ask("a.read", more.pop("body", b"x"), **more), now)


def kinds(effects: list[Effect]) -> list[Kind]:
    return [effect.rpc.kind for effect in effects if isinstance(effect, Send)]


def failures(effects: list[Effect]) -> list[tuple[int, str, str]]:
    return [(e.corr, e.failure.code, e.failure.executed) for e in effects if isinstance(e, Failed)]


def test_story(asking: Asking) -> None:
    """Waits for the session, is sent with what is left of its time, is answered."""
    corr, effects = call(asking)
    assert effects == []
    assert kinds(asking.connected(0.5)) == [HELLO]
    ready, sent = frame(asking, WELCOME, Welcome("execution", 3))
    assert isinstance(ready, Ready)
    assert isinstance(sent, Send)
    assert (sent.rpc.kind, sent.rpc.corr, sent.rpc.budget_ms) == (REQ, corr, 2_000)
    assert frame(asking, REP, b"reply", corr) == [Replied(corr, b"reply")]
    assert frame(asking, REP, b"reply", corr) == []
    assert asking.late == 1


def test_credit_is_kept_and_what_waits_goes_when_it_is_back(asking: Asking) -> None:
    greet(asking, credit=2)
    first, _ = call(asking)
    second, _ = call(asking)
    third, effects = call(asking)
    assert (effects, asking.inflight, asking.queued) == ([], 2, 1)
    replied, sent = frame(asking, REP, b"r", second)
    assert (replied, kinds([sent])) == (Replied(second, b"r"), [REQ])
    assert kinds(frame(asking, rpcs.CREDIT, Credit(9, 9_999))) == []
    assert {first, third} == set(asking._calls.flying)


def test_full_queue_sheds_retries_first(asking: Asking) -> None:
    greet(asking, credit=1)
    call(asking)
    again, _ = call(asking, attempt=2)
    call(asking)
    call(asking)
    _, effects = call(asking)
    assert failures(effects) == [(again, "OVERLOADED", "no")]


def test_a_peer_that_grants_more_gets_more(asking: Asking) -> None:
    greet(asking, credit=1)
    call(asking)
    corr, _ = call(asking)
    [sent] = frame(asking, rpcs.CREDIT, Credit(10, 1_000))
    assert isinstance(sent, Send)
    assert sent.rpc.corr == corr


def test_refused_greeting_ends_in_a_pause_and_a_new_socket(asking: Asking) -> None:
    waiting, _ = call(asking)
    asking.connected(0.0)
    failed, close = frame(asking, ERR, failure(Denied, "you are not risk"))
    assert failures([failed]) == [(waiting, "DENIED", "no")]
    assert isinstance(close, Close)
    assert asking.state is DEAD
    corr, effects = call(asking)
    assert failures(effects) == [(corr, "DENIED", "no")]
    assert asking.connected(0.5) == []
    at = asking.next_deadline()
    assert at is not None
    assert asking.tick(at) == [Open()]
    assert asking.state is CONNECTING


def test_unsent_call_is_surely_not_executed_when_the_connection_goes(asking: Asking) -> None:
    greet(asking, credit=1)
    sent, _ = call(asking, kind=KEYED)
    waiting, _ = call(asking, kind=KEYED)
    assert failures(asking.lost()) == [
        (sent, "OUTCOME_UNKNOWN", "unknown"),
        (waiting, "UNAVAILABLE", "no"),
    ]
    assert (asking.state, asking.lost()) == (CONNECTING, [])


def test_new_connection_without_word_of_the_old_ones_end(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking, kind=ONCE)
    effects = asking.connected(1.0)
    assert failures(effects) == [(corr, "OUTCOME_UNKNOWN", "unknown")]
    assert kinds(effects) == [HELLO]


def test_forgotten_session_is_greeted_again_and_the_refused_are_sent_again(
    asking: Asking,
) -> None:
    greet(asking)
    before, _ = call(asking, kind=ONCE)
    refused, _ = call(asking, kind=ONCE)
    behind, _ = call(asking, kind=ONCE)
    effects = frame(asking, ERR, failure(UnknownSession, "greet first"), refused)
    assert failures(effects) == [(before, "OUTCOME_UNKNOWN", "unknown")]
    assert (kinds(effects), asking.state, asking.queued) == ([HELLO], GREETING, 2)
    frame(asking, ERR, failure(UnknownSession, "greet first"), behind)  # was to come
    effects = frame(asking, WELCOME, Welcome("execution", 4))
    assert [e.rpc.corr for e in effects if isinstance(e, Send)] == [refused, behind]


def test_given_up_call_is_not_sent_again(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking)
    asking.cancel(corr, 0.0)
    frame(asking, ERR, failure(UnknownSession, "greet first"), corr)
    assert (asking.queued, asking.inflight) == (0, 0)


def test_forgotten_ping_means_that_all_in_flight_is_lost(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking, kind=ONCE)
    effects = frame(asking, ERR, failure(UnknownSession, "greet first"))
    assert failures(effects) == [(corr, "OUTCOME_UNKNOWN", "unknown")]
    assert kinds(effects) == [HELLO]


def test_goaway_lets_what_is_in_flight_finish(asking: Asking) -> None:
    greet(asking, credit=1)
    sent, _ = call(asking)
    waiting, _ = call(asking)
    effects = frame(asking, rpcs.GOAWAY, Goaway("stop", 500, 3))
    assert failures(effects) == [(waiting, "DRAINING", "no")]
    assert asking.state is DRAINING
    assert rpcs.BYE not in kinds(effects)  # the answer is to come
    replied, *goodbye = frame(asking, REP, b"r", sent)
    assert replied == Replied(sent, b"r")
    assert kinds(goodbye) == [rpcs.BYE]
    assert isinstance(asking.tick(2.0)[-1], Close)


def test_f30_who_drains_hears_goodbye_at_once_if_nothing_is_in_flight(asking: Asking) -> None:
    greet(asking)
    assert kinds(frame(asking, rpcs.GOAWAY, Goaway("stop", 500, 3))) == [rpcs.BYE]
    frame(asking, ERR, failure(UnknownSession, "greet first"))  # to a ping on its way
    assert asking.state is DRAINING


def test_f30_bye_behind_goaway_is_not_answered_and_what_asks_now_goes_elsewhere(
    asking: Asking,
) -> None:
    greet(asking)
    sent, _ = call(asking, kind=KEYED)
    frame(asking, rpcs.GOAWAY, Goaway("stop", 500, 3))
    assert failures(frame(asking, rpcs.BYE)) == [(sent, "OUTCOME_UNKNOWN", "unknown")]
    assert asking.state is DRAINING
    later, effects = call(asking, kind=KEYED)
    assert failures(effects) == [(later, "DRAINING", "no")]
    asking.lost()
    assert kinds(asking.connected(1.0)) == [HELLO]  # it is back


def test_f30_what_waits_at_a_close_goes_elsewhere(asking: Asking) -> None:
    corr, _ = call(asking, kind=KEYED)
    (failed, _) = asking.close(0.0)
    assert isinstance(failed, Failed)
    assert (failed.corr, failed.failure.code, failed.again) == (corr, "DRAINING", True)


def test_goaway_and_bye_of_an_earlier_session_change_nothing(asking: Asking) -> None:
    greet(asking)
    frame(asking, rpcs.GOAWAY, Goaway("stop", 500, 2))
    assert asking.state is READY
    asking.lost()
    asking.connected(1.0)
    assert (frame(asking, rpcs.BYE), asking.state) == ([], GREETING)
    assert (frame(asking, rpcs.GOAWAY, Goaway("stop", 500, 3)), asking.state) == ([], GREETING)


def test_socket_that_takes_no_more_keeps_calls_waiting(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking, kind=ONCE)
    assert asking.bounced(corr) == []
    _, effects = call(asking, kind=ONCE)
    assert (effects, asking.queued) == ([], 2)
    assert kinds(asking.writable(0.1)) == [REQ, REQ]


def test_cancel_before_and_behind_sending(asking: Asking) -> None:
    greet(asking, credit=1)
    sent, _ = call(asking)
    waiting, _ = call(asking)
    assert failures(asking.cancel(waiting, 0.0)) == [(waiting, "CANCELLED", "no")]
    effects = asking.cancel(sent, 0.0)
    assert failures(effects) == [(sent, "CANCELLED", "unknown")]
    assert kinds(effects) == [rpcs.CANCEL]
    assert asking.cancel(sent, 0.0) == []
    assert asking.inflight == 1  # until the peer is done with it
    frame(asking, ERR, rpcs.cancelled("unknown"), sent)
    assert asking.inflight == 0


def test_parts_come_in_order_and_are_counted(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking)
    for number in range(4):
        assert frame(asking, rpcs.PART, b"%d" % number, corr) == [Part(corr, b"%d" % number)]
    assert frame(asking, rpcs.PART, b"too many", corr) == []
    [credit] = asking.consumed(corr)
    assert isinstance(credit, Send)
    assert (credit.rpc.kind, credit.rpc.corr) == (rpcs.CREDIT, corr)
    assert frame(asking, rpcs.END, End(4, b"x"), corr) == [Replied(corr, b"x")]
    assert asking.consumed(corr) == []


def test_lost_part_fails_the_reply(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking)
    assert failures(frame(asking, rpcs.END, End(1), corr)) == [(corr, "PROTOCOL", "unknown")]


def test_class_of_a_method_comes_from_the_peer_if_the_caller_says_none(asking: Asking) -> None:
    greet(asking, methods={"a.read": int(KEYED)})
    corr, _ = call(asking, kind=None)
    [failed] = asking.lost()
    assert isinstance(failed, Failed)
    assert (failed.corr, failed.again) == (corr, True)


def test_frames_of_an_earlier_run_and_nonsense_are_counted(asking: Asking) -> None:
    greet(asking)
    assert asking.frame(Rpc(REP, 0, 1, EPOCH - 1), 0.0) == []
    frame(asking, REQ)
    frame(asking, ERR, failure(Denied, "what?"))
    corr, _ = call(asking)
    frame(asking, HELLO, b"", corr)
    assert (asking.late, asking.rejects) == (1, 3)


def test_ping_measures_and_keeps_alive(asking: Asking) -> None:
    greet(asking)
    at = asking.next_deadline()
    assert at is not None
    assert kinds(asking.tick(at)) == [rpcs.PING]
    frame(asking, rpcs.PONG, rpcs.Pong(-10, 45, 47, 0))
    assert (asking.rtt_ns, asking.offset_ns) == (8, 51)


def test_close_says_bye_and_is_for_good(asking: Asking) -> None:
    greet(asking)
    corr, _ = call(asking, kind=ONCE)
    effects = asking.close(0.0)
    assert (kinds(effects), failures(effects)) == (
        [rpcs.BYE],
        [(corr, "OUTCOME_UNKNOWN", "unknown")],
    )
    assert (asking.close(1.0), asking.next_deadline(), asking.connected(2.0)) == ([], None, [])


def test_body_that_no_frame_holds_is_a_bug_of_ours(asking: Asking) -> None:
    with pytest.raises(LocalProtocolError):
        call(asking, body=bytes(256 * 1024))
    assert isinstance(failure(Denied, "x"), Failure)
