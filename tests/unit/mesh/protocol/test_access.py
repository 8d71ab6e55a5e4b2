"""Access: what is not granted is refused; a flood of subscriptions ends at its cap."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.protocol import topics
from mesh.protocol.access import (
    ANSWER,
    DENY,
    END,
    GRANT,
    IGNORE,
    SUBSCRIPTIONS_MAX,
    SUBSCRIPTIONS_PER_S,
    USERS_MAX,
    Access,
    SubscriptionGuard,
    covers,
    is_node,
)
from nodes.gateway.methods import METHODS
from nodes.topology import TOPOLOGY

CONFIG = Path(__file__).parents[4] / "config/access.toml"
DEFAULT = Access.parse(CONFIG.read_text())
PERSON = "local:1000"
SMALL = """
[every]
sub = ["!mode"]
[roles.analysis]
sub = ["md.", "sys.mode"]
[roles.guest]
call = ["analysis.history", "market_data."]
[roles.cli]
sub = ["md."]
"""


def guard() -> SubscriptionGuard:
    return SubscriptionGuard(Access.parse(SMALL))


@pytest.mark.parametrize(
    ("prefix", "fine"),
    [
        ("md.", True),
        ("md.trade.", True),
        ("md.trade.BTC-USD\0", True),
        ("sys.mode", True),
        ("sys.mode\0", True),
        ("!mode\0", True),
        ("", False),
        ("m", False),
        ("md", False),
        ("mdx.", False),
        ("md\0", False),
        ("sys.modex", False),
        ("sys.mode.x", False),
        ("sys.", False),
        ("!", False),
        ("!m", False),
        ("!hb", False),
        ("order.", False),
        ("\xff", False),
    ],
)
def test_a_10_subscription_is_granted_only_within_a_granted_prefix(
    prefix: str, fine: bool
) -> None:
    assert Access.parse(SMALL).may_hear("analysis", prefix) is fine


@given(
    grant=st.from_regex(r"[a-z]{1,3}\.([a-z]{1,2}\.)?", fullmatch=True), prefix=st.text("ab.\0")
)
def test_whatever_a_granted_subscription_hears_begins_with_the_grant(
    grant: str, prefix: str
) -> None:
    if covers(grant, prefix):
        assert prefix.startswith(grant)


def test_no_default_role_hears_everything_or_every_system_topic() -> None:
    for role in DEFAULT.roles:
        for prefix in ("", "!"):
            assert not DEFAULT.roles[role].may_hear(prefix), role


def test_users_have_the_role_of_their_name_and_nobody_becomes_the_operator_by_a_name() -> None:
    assert DEFAULT.role_of("strategy.ema") == "strategy"
    assert DEFAULT.role_of("spread") == "guest"
    assert DEFAULT.role_of("cli.1234") == "guest"
    assert DEFAULT.role_of(PERSON) == "cli"
    assert DEFAULT.role_of("anonymous") is None
    assert DEFAULT.role_of("") is None


def test_assigned_roles_win_over_names_and_must_exist() -> None:
    access = DEFAULT.assign({"risk.shadow": "guest", "twin": "recorder"})
    assert access.role_of("risk.shadow") == "guest"
    assert access.may_hear("twin", "fill.")
    for role in ("boss", "cli"):
        with pytest.raises(ConfigError, match=role):
            DEFAULT.assign({"twin": role})


@pytest.mark.parametrize("node", TOPOLOGY)
def test_default_nodes_may_hear_and_say_what_the_topology_gives_them(node: str) -> None:
    row = TOPOLOGY[node]
    assert [prefix for prefix in row.hears if not DEFAULT.may_hear(node, prefix)] == []
    assert [prefix for prefix in row.says if not DEFAULT.may_say(node, prefix)] == []
    for topic in ("!mode\0", "!view\0", "!hb"):
        assert DEFAULT.may_hear(node, topic)
    assert DEFAULT.may_say(node, "!hb")


def test_every_role_but_those_of_guests_and_people_is_a_default_node() -> None:
    roles = {node.partition(".")[0] for node in TOPOLOGY} | {"guest", "cli"}
    assert set(DEFAULT.roles) == roles


@pytest.mark.parametrize("user", ["gateway", PERSON])
@pytest.mark.parametrize(
    "prefix", ["md.", "ta.", "order.", "fill.", "acct.", "risk.", "strat.", "alert.", "x.spread."]
)
def test_gateway_and_people_may_hear_what_clients_ask_for(user: str, prefix: str) -> None:
    assert DEFAULT.may_hear(user, prefix)


def test_gateway_may_call_what_its_clients_may_and_not_a_method_more() -> None:
    own = {m for m in DEFAULT.of("gateway").call if m not in DEFAULT.of("market_data").call}
    assert own == set(METHODS)


@pytest.mark.parametrize(
    ("method", "who"),
    [
        ("execution.submit", {"risk"}),
        ("venue.place", {"execution"}),
        ("venue.cancel", {"execution"}),
        ("risk.submit", {"strategy"}),
        ("mesh.set_mode", {"gateway", "api", "cli"}),
    ],
)
def test_a_8_methods_that_move_money_or_mode_are_for_these_roles_alone(
    method: str, who: set[str]
) -> None:
    assert {role for role, grants in DEFAULT.roles.items() if grants.may_call(method)} == who


def test_a_9_gateway_and_strategies_publish_nothing_of_execution() -> None:
    for node in ("gateway", "strategy.ema", "spread", "anonymous"):
        for topic in ("order.paper.", "fill.paper.", "acct.position.paper.", "!mode"):
            assert not DEFAULT.may_say(node, topic)
    assert DEFAULT.may_say("spread", "x.spread.BTC-USDT")


def test_methods_are_granted_one_by_one_or_by_service() -> None:
    access = Access.parse(SMALL)
    assert access.may_call("spread", "analysis.history")
    assert not access.may_call("spread", "analysis.historyx")
    assert access.may_call("spread", "market_data.snapshot")
    assert not access.may_call("spread", "market_datax.snapshot")
    assert not access.may_call("anonymous", "analysis.history")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[roles.guest]\nhear = ['md.']\n[roles.cli]", "hear"),
        ("[rolls.guest]", "rolls"),
        ("[roles.guest]", "roles.cli"),
        ("[roles.guest]\nsub = 'md.'\n[roles.cli]", "sub"),
        ("[roles.guest]\nsub = ['md']\n[roles.cli]", "'md'"),
        ("[roles.guest]\nsub = ['!']\n[roles.cli]", "'!'"),
        ('[roles.guest]\nsub = ["md.x\\u0000"]\n[roles.cli]', "no topic"),
        ("[roles.guest]\ncall = ['']\n[roles.cli]", "no method"),
        ("[roles.guest]\ncall = ['mesh']\n[roles.cli]", "no method"),
        ("[roles", "Expected"),
    ],
)
def test_a_faulty_file_is_refused_with_its_name_and_fault(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Access.parse(text)
    assert str(caught.value).startswith("config/access.toml: ")
    assert fault in str(caught.value)


# Subscriptions.


def test_a_10_what_is_not_granted_is_denied_and_counted() -> None:
    judge = guard()
    assert judge.judge("analysis", b"\1md.trade.", 0.0) is GRANT
    wishes = [b"", b"!", b"order.", b"md", b"\xfe\xfe", topics.PROBE_MARK, topics.probe(7)[:-1]]
    assert {judge.judge("analysis", b"\1" + wish, 0.0) for wish in wishes} == {DENY}
    assert judge.denied == len(wishes)
    judge.check()


def test_probes_are_answered_to_whoever_may_hear_something() -> None:
    judge = guard()
    assert judge.judge("analysis", b"\1" + topics.probe(7), 0.0) is ANSWER
    assert judge.judge("analysis", b"\1" + topics.probe(7, ["md.", "!mode\0"]), 0.0) is ANSWER
    for user in ("anonymous", ""):
        assert judge.judge(user, b"\1" + topics.probe(7), 0.0) is DENY


def test_a_11_a_user_holds_ten_thousand_topics_and_no_more() -> None:
    judge = guard()
    rulings = [judge.judge("analysis", b"\1md.%d" % n, n / 100) for n in range(20_000)]
    assert rulings == [GRANT] * SUBSCRIPTIONS_MAX + [IGNORE] * SUBSCRIPTIONS_MAX
    assert judge.ignored == SUBSCRIPTIONS_MAX
    assert judge.judge(PERSON, b"\1md.", 0.0) is GRANT  # others do not suffer
    assert judge.judge("analysis", b"\0md.0", 300.0) is END
    assert judge.judge("analysis", b"\1md.x", 300.0) is GRANT
    judge.check()


@pytest.mark.parametrize("frame", [b"", b"\2md.", b"md.", b"\1md." + b"x" * 253])
def test_a_11_malformed_and_long_subscriptions_are_ignored(frame: bytes) -> None:
    judge = guard()
    assert judge.judge("analysis", frame, 0.0) is IGNORE
    assert judge.ignored == 1
    assert judge.held("analysis") == 0


def test_a_11_churn_empties_the_bucket_and_patience_fills_it() -> None:
    judge = guard()
    for _ in range(SUBSCRIPTIONS_MAX):
        assert judge.judge("analysis", b"\1md.", 0.0) is GRANT
        assert judge.judge("analysis", b"\0md.", 0.0) is END
    assert judge.judge("analysis", b"\1md.", 0.0) is IGNORE
    assert judge.judge(PERSON, b"\1md.", 0.0) is GRANT
    assert judge.judge("analysis", b"\1md.", 2 / SUBSCRIPTIONS_PER_S) is GRANT


def test_peers_that_went_give_their_topics_back_without_a_name() -> None:
    judge = guard()
    for user in ("analysis", "analysis", PERSON):
        judge.judge(user, b"\1md.", 0.0)
    for _ in range(3):  # libzmq ends them and does not say whose they were
        judge.check()
        assert judge.judge("", b"\0md.", 0.0) is END
    assert (judge.held("analysis"), judge.held(PERSON)) == (0, 0)
    assert judge.judge("", b"\0md.", 0.0) is END  # of a denied one: nothing to give back
    judge.check()


def test_a_fresh_socket_begins_with_nothing_held_but_the_same_rates() -> None:
    judge = guard()
    for n in range(SUBSCRIPTIONS_MAX):
        judge.judge("analysis", b"\1md.%d" % n, 0.0)
    judge.reset()
    judge.check()
    assert judge.held("analysis") == 0
    assert judge.judge("analysis", b"\1md.", 0.0) is IGNORE
    assert judge.judge("analysis", b"\1md.", 1.0) is GRANT


def test_guard_remembers_a_bounded_number_of_users() -> None:
    judge = guard()
    for n in range(USERS_MAX):
        judge.judge(f"node{n}", b"\1!mode", 0.0)
    assert judge.judge("one.more", b"\1!mode", 0.0) is IGNORE
    judge.judge("node7", b"\0!mode", 0.0)
    assert judge.judge("one.more", b"\1!mode", 0.0) is GRANT


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["analysis", PERSON, "anonymous", "spread"]),
            st.booleans(),
            st.sampled_from([b"md.", b"md.a", b"!mode", b"order.", b"", topics.probe(1)]),
        )
    )
)
def test_whatever_comes_the_books_of_the_guard_agree(
    frames: list[tuple[str, bool, bytes]],
) -> None:
    judge = guard()
    for user, begins, topic in frames:
        judge.judge("" if not begins and topic == b"md." else user, bytes([begins]) + topic, 0.0)
        judge.check()


@pytest.mark.parametrize(
    ("user", "node", "may"),
    [
        ("risk", "risk", True),
        ("risk", "execution", False),
        ("local:1000", "cli.7", True),
        ("local:1000", "cli", False),
        ("local:1000", "risk", False),
        ("anonymous", "anonymous", False),
        ("", "", False),
    ],
)
def test_who_may_greet_by_which_name(user: str, node: str, may: bool) -> None:
    assert is_node(user, node) is may
