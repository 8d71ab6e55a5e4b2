"""Topics: prefixes hear subtrees, a final NUL exactly one, a probe lists what it asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import LocalProtocolError
from mesh.protocol import topics

names = st.text("ab.", max_size=4)
prefixes = names | names.map(lambda name: name + "\0")


def test_exact_subscription_does_not_hear_a_longer_name() -> None:
    assert topics.matches("md.trade.BTC-USD\0", "md.trade.BTC-USD")
    assert not topics.matches("md.trade.BTC-USD\0", "md.trade.BTC-USDT")
    assert topics.matches("md.trade.", "md.trade.BTC-USDT")
    assert topics.matches("", "md.trade.BTC-USDT")


@pytest.mark.parametrize(
    "topic",
    ["", "Md.x", "md.\0x", "md." + "x" * 200, "1.x", "md.\x1e", "md.\x7f", "md\n", "md.é" * 70],
)
def test_bad_topics_are_our_own_fault(topic: str) -> None:
    with pytest.raises(LocalProtocolError):
        topics.check(topic)


def test_topic_that_no_encoding_can_spell_is_our_own_fault() -> None:
    """A lone surrogate used to escape as UnicodeEncodeError."""
    with pytest.raises(LocalProtocolError):
        topics.check("md.\ud800")


@pytest.mark.parametrize(
    "topic", ["m", "md.trade.BTC-USDT.X", "md." + "x" * 197, "md.é", topics.HEARTBEAT, topics.LOG]
)
def test_good_topics_come_back(topic: str) -> None:
    assert topics.check(topic) == topic


def test_prefixes_overlap_both_ways() -> None:
    assert topics.overlaps("md.", "md.trade.")
    assert topics.overlaps("md.trade.", "md.")
    assert not topics.overlaps("md.", "ta.")


def test_exact_prefix_does_not_overlap_what_only_longer_names_begin_with() -> None:
    assert not topics.overlaps("md.trade.BTC-USD\0", "md.trade.BTC-USDT")
    assert not topics.overlaps("md.trade.BTC-USD\0", "md.trade.BTC-USDT\0")
    assert topics.overlaps("md.trade.BTC-USD\0", "md.trade.")


@given(prefixes, prefixes)
def test_overlapping_means_that_some_topic_is_heard_by_both(one: str, other: str) -> None:
    # What two prefixes both hear, if anything, is one of them or begins with one of them.
    candidates = {text.rstrip("\0") for text in (one, other)}
    common = any(topics.matches(one, t) and topics.matches(other, t) for t in candidates)
    assert topics.overlaps(one, other) is common


def test_longest_prefix_decides() -> None:
    assert topics.longest({"md.": 0, "md.bar.": 2}, "md.bar.1m.X") == 2
    assert topics.longest({"md.bar.1m.X\0": 1, "md.bar.": 2}, "md.bar.1m.X") == 1
    assert topics.longest({"md.": 0}, "ta.x") is None


def test_probe_sorts_behind_every_topic_and_has_no_nul() -> None:
    probe = topics.probe(0xABC, {"md.x\0"})
    assert probe > "\U0010ffff".encode()
    assert b"\0" not in probe
    assert len(topics.probe(0xABC)) == 17


@given(st.integers(0, 2**64 - 1), st.sets(prefixes, max_size=20))
def test_probe_tells_the_publisher_what_it_asks_for(token: int, wanted: set[str]) -> None:
    assert topics.probed(topics.probe(token, wanted)) == tuple(sorted(wanted))


def test_probe_of_a_list_too_long_asks_for_everything() -> None:
    fits, too_long = {"x" * 237}, {"x" * 238}
    assert len(topics.probe(1, fits)) == topics.PROBE_MAX_BYTES
    assert topics.probed(topics.probe(1, fits)) == tuple(fits)
    assert topics.probed(topics.probe(1, too_long)) == ()


TOKEN = b"\xff0123456789abcdef"


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b"\xff",  # would hear the HEADs of others
        TOKEN[:-1],
        b"md.trade.",
        TOKEN + b"0",
        TOKEN.replace(b"a", b"g"),
        TOKEN + b"\x1e\xfe",
        TOKEN + b"\x1e" + b"x" * 238,
    ],
)
def test_what_is_no_probe_is_not_answered(topic: bytes) -> None:
    assert topics.probed(topic) is None


@pytest.mark.parametrize("token", [b"0x23456789abcdef", b"0123_456789abcde", b" 123456789abcdef"])
def test_only_hexadecimal_digits_are_a_token(token: bytes) -> None:
    """What int() takes for a number used to pass: signs, blanks, underscores."""
    assert topics.probed(b"\xff" + token.ljust(16, b"0")) is None


def test_probe_with_a_nul_is_not_answered() -> None:
    """Its HEAD would be cut at that NUL, and be nonsense to whoever hears it."""
    assert topics.probed(TOKEN + b"\x1ea\0b") is None
