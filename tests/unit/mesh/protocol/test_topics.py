"""Topics: prefixes hear subtrees, a final NUL hears exactly one."""

import pytest

from mesh.errors import LocalProtocolError
from mesh.protocol import topics


def test_exact_subscription_does_not_hear_a_longer_name() -> None:
    assert topics.matches("md.trade.BTC-USD\0", "md.trade.BTC-USD")
    assert not topics.matches("md.trade.BTC-USD\0", "md.trade.BTC-USDT")
    assert topics.matches("md.trade.", "md.trade.BTC-USDT")


@pytest.mark.parametrize("topic", ["", "Md.x", "md.\0x", "md." + "x" * 200, "1.x"])
def test_bad_topics_are_our_own_fault(topic: str) -> None:
    with pytest.raises(LocalProtocolError):
        topics.check(topic)


def test_system_topics_are_topics() -> None:
    assert topics.check(topics.HEARTBEAT) == "!hb"


def test_prefixes_overlap_both_ways() -> None:
    assert topics.overlaps("md.", "md.trade.")
    assert topics.overlaps("md.trade.", "md.")
    assert not topics.overlaps("md.", "ta.")


def test_longest_prefix_decides() -> None:
    assert topics.longest({"md.": 0, "md.bar.": 2}, "md.bar.1m.X") == 2
    assert topics.longest({"md.": 0}, "ta.x") is None


def test_probe_sorts_behind_every_topic_and_has_no_nul() -> None:
    probe = topics.probe(0xABC)
    assert probe > "\U0010ffff".encode()
    assert b"\0" not in probe
    assert len(probe) == 17
