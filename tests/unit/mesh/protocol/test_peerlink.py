"""PeerLink: greets, pings, gives up, opens anew; its walk visits exactly the table."""

from random import Random

import pytest

from mesh.protocol.peerlink import (
    BREAK,
    CONNECT,
    CONNECTING,
    DEAD,
    DRAINING,
    FORGET,
    GREET,
    GREETING,
    GREETS,
    PINGS,
    READY,
    TRANSITIONS,
    Due,
    PeerLink,
    PeerState,
    PeerTurn,
)


def ready(now: float = 0.0) -> PeerLink:
    link = PeerLink(lambda: 0.5)
    link.greeted(now, CONNECT)
    link.welcomed(now)
    return link


def dues(link: PeerLink, times: int) -> list[Due]:
    found = []
    for _ in range(times):
        at = link.next_deadline()
        assert at is not None
        assert link.due(at - 0.001) is Due.NOTHING
        found.append(link.due(at))
        link.check()
    return found


def test_greeting_is_said_again_and_given_up() -> None:
    link = PeerLink(lambda: 0.5)
    link.greeted(0.0, CONNECT)
    assert dues(link, GREETS) == [Due.HELLO] * (GREETS - 1) + [Due.SILENT]


def test_three_pings_without_any_frame_are_silence() -> None:
    link = ready()
    assert dues(link, PINGS) == [Due.PING] * PINGS
    link.heard()
    assert dues(link, PINGS + 1) == [Due.PING] * PINGS + [Due.SILENT]


def test_late_tick_is_no_silence() -> None:
    link = ready()
    assert link.due(60.0) is Due.PING


def test_pauses_grow_until_a_session_is_open() -> None:
    link, now, pauses = PeerLink(lambda: 0.999), 0.0, []
    for _ in range(8):
        link.give_up(now)
        at = link.next_deadline()
        assert at is not None
        pauses.append(round(at - now))
        now = at
        assert link.due(now) is Due.OPEN
        link.check()
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    link.greeted(now, CONNECT)
    link.welcomed(now)
    assert link.dead == 0


def test_drain_ends_in_time_whatever_the_peer_claims() -> None:
    link = ready()
    link.leaves(10**12, 0.0)
    assert link.state is DRAINING
    assert link.due(61.0) is Due.LEFT
    link.give_up(61.0)
    assert link.state is DEAD


def test_welcome_counts_only_while_greeting() -> None:
    with pytest.raises(KeyError):
        ready().welcomed(0.0)


class Watched(PeerLink):
    """Remembers which pairs of the table it went through."""

    def __init__(self, dice: Random) -> None:
        super().__init__(dice.random)
        self.seen: set[tuple[PeerState, PeerTurn]] = set()

    def _turn(self, turn: PeerTurn) -> None:
        self.seen.add((self.state, turn))
        super()._turn(turn)


def step(link: Watched, dice: Random, now: float) -> None:
    turn = dice.choice([turn for turn in TRANSITIONS[link.state] if turn is not PeerTurn.OPEN])
    if turn in (CONNECT, FORGET):
        link.greeted(now, turn)
    elif turn is GREET:
        link.welcomed(now)
    elif turn is PeerTurn.LEAVE:
        link.leaves(500, now)
    elif turn is BREAK:
        link.give_up(now)
    else:
        link.lost()


def test_walk_visits_exactly_the_table() -> None:
    dice, now = Random(1), 0.0
    link = Watched(dice)
    for _ in range(2_000):
        now += dice.random()
        if link.state is not DEAD:
            step(link, dice, now)
        elif link.due(now) is Due.OPEN:
            assert link.state is CONNECTING
        link.check()
    assert link.seen == {(state, turn) for state in TRANSITIONS for turn in TRANSITIONS[state]}
    assert {GREETING, READY} < set(TRANSITIONS)
