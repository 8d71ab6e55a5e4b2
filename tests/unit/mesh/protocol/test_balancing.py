"""Balancing: the better of two, the same by affinity, nobody flooded."""

from collections import Counter
from random import Random

from mesh.protocol.balancing import DECAY_S, Candidate, Latency, choose

NAMES = ("a", "b", "c", "d", "e")


def pick(names: tuple[str, ...], key: bytes) -> str | None:
    return choose([Candidate(name, 1.0) for name in names], Random(1).random, key)


def test_f65_nobody_usable_is_nobody() -> None:
    dice = Random(1).random
    assert choose([], dice) is None
    assert choose([Candidate("a", 0.0, usable=False)], dice, b"k") is None
    assert choose([Candidate("a", 9.0), Candidate("b", 0.0, usable=False)], dice) == "a"


def test_affinity_moves_only_the_keys_of_the_lost_instance() -> None:
    keys = [b"%d" % number for number in range(500)]
    before = {key: pick(NAMES, key) for key in keys}
    after = {key: pick(NAMES[:-1], key) for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {
        key for key in keys if before[key] == "e"
    }
    assert min(Counter(before.values()).values()) > 50  # of 100 each


def test_the_better_of_two_random_ones_is_chosen() -> None:
    dice = Random(4).random
    costs = [Candidate("a", 1.0), Candidate("b", 2.0), Candidate("c", 3.0)]
    shares = Counter(choose(costs, dice) for _ in range(3_000))
    assert shares["c"] == 0  # never better than the other one
    assert 1_800 < shares["a"] < 2_200


def test_f66_a_slow_instance_gets_less_than_a_tenth() -> None:
    """Requests every 5 ms; one of three instances takes 200 ms, the others 2."""
    dice, now, shares = Random(7).random, 0.0, Counter[str]()
    takes = {"a": 0.002, "b": 0.002, "slow": 0.2}
    known, ends = {name: Latency() for name in takes}, list[tuple[float, str]]()
    for _ in range(4_000):
        now += 0.005
        for at, name in [end for end in ends if end[0] <= now]:
            known[name].answered(takes[name], at)
            ends.remove((at, name))
        name = choose([Candidate(n, known[n].cost(now)) for n in takes], dice) or ""
        known[name].asked()
        shares[name] += 1
        ends.append((now + takes[name], name))
    assert 0 < shares["slow"] < 400
    assert min(shares["a"], shares["b"]) > 1_000


def test_who_just_joined_gets_one_request_at_a_time() -> None:
    old, new = Latency(), Latency()
    old.asked()
    old.answered(0.01, 1.0)
    assert new.cost(1.0) < old.cost(1.0)
    new.asked()
    assert new.cost(1.0) > 50 * old.cost(1.0)


def test_quick_failures_do_not_attract() -> None:
    latency = Latency()
    latency.asked()
    latency.failed(1.0)
    assert latency.cost(1.0) >= 1.0
    latency.check()


def test_slowness_counts_at_once_and_fades() -> None:
    latency = Latency()
    for took_s in (0.01, 1.0):
        latency.asked()
        latency.answered(took_s, 5.0)
    assert latency.cost(5.0) == 1.0
    assert latency.cost(5.0 + 5 * DECAY_S) < 0.01
    latency.asked()
    latency.answered(0.01, 5.0 + 5 * DECAY_S)
    assert latency.cost(5.0 + 5 * DECAY_S) < 0.02


def test_given_up_calls_say_nothing() -> None:
    latency = Latency()
    latency.asked()
    latency.left()
    assert (latency.inflight, latency.at) == (0, None)
