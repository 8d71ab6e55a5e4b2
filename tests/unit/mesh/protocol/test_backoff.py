"""Backoff: doubles, is capped, jittered in full, and obeys the server."""

from mesh.protocol.backoff import BackoffPolicy


def test_delays_double_up_to_the_cap() -> None:
    policy = BackoffPolicy(base_s=0.1, cap_s=1.0)
    assert [policy.delay_s(n, lambda: 1.0) for n in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_jitter_is_full_and_the_server_is_obeyed() -> None:
    policy = BackoffPolicy()
    assert policy.delay_s(3, lambda: 0.0) == 0.0
    assert policy.delay_s(3, lambda: 0.0, at_least_s=2.0) == 2.0
    assert policy.delay_s(10_000, lambda: 1.0) == policy.cap_s
