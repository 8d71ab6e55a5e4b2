"""Request plane messages: what they default to, and what an older peer's mean."""

from math import inf, nan

import pytest

from mesh.errors import Denied, OutcomeUnknown
from mesh.protocol import control, envelope, rpcs
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, Pong, Welcome, failure, kind_of


def test_a24_budget_is_two_seconds_if_absent_none_if_past_and_sixty_at_most() -> None:
    year = 365 * 86_400.0
    given = (None, 0.5, 0.0, -1.0, nan, 60.0, year, inf)
    assert [rpcs.clamped_s(s) for s in given] == [2.0, 0.5, 0.0, 0.0, 0.0, 60.0, 60.0, 60.0]


def test_welcome_of_an_older_peer_grants_the_usual_window() -> None:
    old = envelope.encode_value(control.Welcome("risk", 7))
    welcome = envelope.decode_value(old, Welcome)
    assert (welcome.credit, welcome.credit_bytes, welcome.methods) == (64, 1_048_576, {})


@pytest.mark.parametrize(
    ("said", "known", "kind"),
    [
        (None, {"a.b": 0}, SAFE),
        (None, {"a.b": 1}, KEYED),
        (None, {"a.b": 9}, ONCE),
        (None, {}, ONCE),
        (KEYED, {"a.b": 0}, KEYED),
        (SAFE, {}, SAFE),
    ],
)
def test_class_of_a_method_is_the_strictest_if_nobody_says(
    said: rpcs.MethodClass | None, known: dict[str, int], kind: rpcs.MethodClass
) -> None:
    assert kind_of(Ask("a.b", b"", kind=said), Welcome("x", 1, methods=known)) is kind
    assert kind_of(Ask("a.b", b"", kind=said), None) is (ONCE if said is None else said)


def test_failure_says_what_its_error_usually_means() -> None:
    assert failure(Denied, "no").executed == "no"
    assert failure(OutcomeUnknown, "x").executed == "unknown"
    assert failure(Denied, "no", "unknown").executed == "unknown"
    assert len(failure(Denied, "x" * 1_000).message) == 500
    assert rpcs.cancelled("no").code == "CANCELLED"


def test_reserve_is_a_fifth() -> None:
    assert [rpcs.less_reserve(n) for n in (64, 5, 4, 1)] == [52, 4, 4, 1]


def test_pong_measures_both_clocks() -> None:
    """The peer's clock is 100 ahead, each way takes 5, answering takes 2."""
    assert Pong(10, 115, 117).measured(22) == (10, 100)
