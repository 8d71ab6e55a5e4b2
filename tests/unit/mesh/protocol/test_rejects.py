"""Twenty rejects in ten seconds silence a peer for a minute."""

from mesh.protocol.rejects import IGNORE_S, REJECTS_MAX, WINDOW_S, Rejects


def test_nineteen_are_borne_and_the_twentieth_silences_once() -> None:
    rejects = Rejects()
    told = [rejects.reject(number / 10) for number in range(REJECTS_MAX + 5)]
    assert told == [False] * (REJECTS_MAX - 1) + [True] + [False] * 5
    assert rejects.total == REJECTS_MAX + 5
    assert rejects.silenced


def test_slow_nonsense_is_only_counted() -> None:
    rejects = Rejects()
    pause = WINDOW_S / (REJECTS_MAX - 2)
    assert not any(rejects.reject(number * pause) for number in range(200))
    assert rejects.total == 200
    assert not rejects.ignoring(200 * pause)


def test_a_silenced_peer_is_heard_again_after_a_minute_and_can_be_silenced_again() -> None:
    rejects = Rejects()
    for _ in range(REJECTS_MAX):
        rejects.reject(5.0)
    assert rejects.ignoring(5.0 + IGNORE_S - 0.1)
    assert not rejects.ignoring(5.0 + IGNORE_S)
    assert [rejects.reject(70.0) for _ in range(REJECTS_MAX)][-1]
