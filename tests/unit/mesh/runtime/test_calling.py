"""Calling: whom it asks, when it asks again, what it refuses; peers answer as they are told.

Never here: sockets; what sessions do is in the integration rows.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest

from mesh.clock import monotonic_s
from mesh.errors import (
    BreakerOpen,
    Conflict,
    Draining,
    Expired,
    MeshError,
    NoService,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from mesh.protocol.balancing import Latency
from mesh.protocol.control import Record
from mesh.protocol.outcomes import Failed, Replied
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Ask, MethodClass, Welcome, failure, kind_of
from mesh.runtime.calling import Calling, Wanted
from mesh.runtime.deadline import within
from mesh.runtime.retry import retry_with_backoff
from mesh.transport.requester import Requester

LONG_S: Final = 30.0  # nothing here takes so long
SHORT_S: Final = 0.05
METHODS: Final = {"a.read": SAFE, "a.sell": KEYED, "a.pay": ONCE, "mesh.look": SAFE}
Answer = Callable[[Ask], Awaitable[Replied | Failed]]


def gone(ask: Ask, kind: MethodClass) -> Failed:
    """Return how a call ends whose connection was lost after it was sent."""
    error = Unavailable if kind is SAFE else OutcomeUnknown
    return Failed(1, failure(error, "gone", "unknown"), again=kind is not ONCE)


def refuses(error: type[MeshError], *, ours: bool = False, again: bool = True) -> Answer:
    async def answer(ask: Ask) -> Failed:
        return Failed(1, failure(error, "no", "no"), again=again, ours=ours)

    return answer


async def answers(ask: Ask) -> Replied:
    return Replied(1, ask.body)


async def dies(ask: Ask) -> Failed:
    kind = METHODS[ask.method]
    return gone(ask, kind)


@dataclass
class Asked:
    """What a call does at a requester."""

    welcome: Welcome


@dataclass
class Peer:
    """A requester that answers as it is told; what was asked of it is kept."""

    node: str
    answer: Answer = answers
    ready: bool = True
    refusing: bool = False
    asks: list[Ask] = field(default_factory=list)
    latency: Latency = field(default_factory=Latency)
    asking: Asked = field(init=False)

    def __post_init__(self) -> None:
        self.asking = Asked(Welcome(self.node, 1, methods={m: int(k) for m, k in METHODS.items()}))

    async def call(self, ask: Ask) -> Replied | Failed:
        self.asks.append(ask)
        assert kind_of(ask, self.asking.welcome) is METHODS[ask.method]
        return await self.answer(ask)


class Peers:
    """Those that serve, and who calls them."""

    def __init__(self, *peers: Peer) -> None:
        self.by_node = {peer.node: peer for peer in peers}
        self.calling = Calling(self.serving, self.requester)

    def serving(self, method: str, target: str | None) -> list[Record]:
        return [
            Record(node, 0, 1, 1, tuple(METHODS), {}, {})
            for node in self.by_node
            if target in (None, node) and method in METHODS
        ]

    def requester(self, record: Record) -> Requester:
        return cast(Requester, self.by_node[record.node])

    async def call(self, method: str, timeout_s: float = LONG_S, **more: Any) -> bytes:
        return await self.calling.call(Wanted(method, b"body", timeout_s, **more))

    def state(self, node: str, kind: str) -> str:
        return self.calling.breakers.of(node, kind).state


def both(peers: Peers, key: str) -> tuple[Peer, Peer]:
    """Return whose *key* is, and the other one, of two that have been asked for it once."""
    (home,) = [peer for peer in peers.by_node.values() if peer.asks]
    (other,) = [peer for peer in peers.by_node.values() if not peer.asks]
    return home, other


# Nobody there.


async def test_nobody_serves_it_and_that_is_told_at_once() -> None:
    with pytest.raises(NoService, match=r"nobody serves b\.none"):
        await Peers(Peer("a")).call("b.none")
    with pytest.raises(NoService, match="as c"):
        await Peers(Peer("a")).call("a.read", target="c")


async def test_of_several_without_a_session_none_is_asked_until_the_deadline() -> None:
    peers = Peers(Peer("a", ready=False), Peer("b", ready=False))
    began = monotonic_s()
    with pytest.raises(NoService):
        await peers.call("a.read", SHORT_S)
    assert monotonic_s() - began >= SHORT_S
    assert not any(peer.asks for peer in peers.by_node.values())


async def test_a_session_that_opens_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.runtime.calling.LOOK_S", LONG_S)
    a, b = Peer("a", ready=False), Peer("b", ready=False)
    peers = Peers(a, b)
    calling = asyncio.ensure_future(peers.call("a.read"))
    await asyncio.sleep(0)
    b.ready = True
    peers.calling.ready()
    assert await calling == b"body"
    assert (len(a.asks), len(b.asks)) == (0, 1)


# Another attempt.


async def test_f59_safe_goes_elsewhere_when_its_peer_dies() -> None:
    peers = Peers(Peer("a", dies), Peer("b"))
    for _ in range(5):
        assert await peers.call("a.read") == b"body"
    a, b = peers.by_node.values()
    assert len(b.asks) == 5
    assert {ask.attempt for ask in b.asks} <= {1, 2}
    assert all(ask.attempt == 1 for ask in a.asks)


async def test_another_attempt_goes_elsewhere_however_slow_that_is() -> None:
    peers = Peers(Peer("a", dies), Peer("b"))
    peers.by_node["b"].latency.asked()
    peers.by_node["b"].latency.answered(50.0, monotonic_s())
    assert await peers.call("a.read") == b"body"
    assert [len(peer.asks) for peer in peers.by_node.values()] == [1, 1]


async def test_once_is_never_asked_twice() -> None:
    for answer, error in (
        (dies, OutcomeUnknown),
        (refuses(Unavailable, again=False), Unavailable),
    ):
        peers = Peers(Peer("a", answer), Peer("b", answer))
        with pytest.raises(error):
            await peers.call("a.pay")
        assert sum(len(peer.asks) for peer in peers.by_node.values()) == 1


async def test_no_after_an_unknown_stays_unknown() -> None:
    peers = Peers(Peer("a"))
    ends = iter([dies, refuses(Conflict, again=False)])

    async def answer(ask: Ask) -> Replied | Failed:
        return await next(ends)(ask)

    peers.by_node["a"].answer = answer
    with pytest.raises(OutcomeUnknown, match=r"gone.*no") as failed:
        await peers.call("a.sell", key="k")
    assert failed.value.executed == "unknown"


async def test_deadline_of_the_request_that_is_answered_holds_for_what_it_calls() -> None:
    peers = Peers(Peer("a"))
    with within(1.0):
        await peers.call("a.read", 30.0)
    (ask,) = peers.by_node["a"].asks
    assert ask.budget_s is not None
    assert 0.0 < ask.budget_s <= 1.0


async def test_no_attempt_begins_behind_the_deadline() -> None:
    peers = Peers(Peer("a"))

    async def later(ask: Ask) -> Failed:
        return Failed(1, failure(Overloaded, "later", "no", 60_000), again=True)

    peers.by_node["a"].answer = later
    with pytest.raises(Overloaded):
        await peers.call("a.read", 1.0)
    assert len(peers.by_node["a"].asks) == 1


async def test_one_layer_retries() -> None:
    peer = Peer("a", dies)
    peers = Peers(peer)
    with pytest.raises(OutcomeUnknown):
        await retry_with_backoff(lambda: peers.call("a.sell", SHORT_S, key="k"), base_delay=0.001)
    attempts = [ask.attempt for ask in peer.asks]
    assert attempts == sorted(set(attempts))  # of one call, whose unknown end is final


# Keys.


async def test_pinned_key_of_an_instance_that_is_gone_for_good_has_no_second_effect() -> None:
    peers = Peers(Peer("a"), Peer("b"))
    await peers.call("a.sell", key="k")
    home, other = both(peers, "k")

    async def last(ask: Ask) -> Failed:
        del peers.by_node[home.node]  # even its record
        return gone(ask, KEYED)

    home.answer = last
    with pytest.raises(OutcomeUnknown) as failed:
        await peers.call("a.sell", SHORT_S, key="k")
    assert failed.value.executed == "unknown"
    assert not other.asks


async def test_key_waits_for_its_instance_and_leaves_one_that_drains() -> None:
    peers = Peers(Peer("a"), Peer("b"))
    await peers.call("a.sell", key="k")
    home, other = both(peers, "k")
    ends = iter([refuses(Overloaded), refuses(Unavailable), answers])

    async def answer(ask: Ask) -> Replied | Failed:
        return await next(ends)(ask)

    home.answer = answer
    await peers.call("a.sell", key="k")
    assert not other.asks  # an earlier call may have had its effect there
    home.refusing = True
    await peers.call("a.sell", key="k")
    assert len(other.asks) == 1


async def test_unknown_key_waits_for_its_own_instance_though_that_drains() -> None:
    peers = Peers(Peer("a"), Peer("b"))
    await peers.call("a.sell", key="k")
    home, other = both(peers, "k")

    async def left(ask: Ask) -> Replied | Failed:
        home.refusing, home.answer = True, answers
        asyncio.get_running_loop().call_later(SHORT_S, back)
        return gone(ask, KEYED)

    def back() -> None:
        home.refusing = False
        peers.calling.ready()

    home.answer = left
    assert await peers.call("a.sell", key="k") == b"body"
    assert not other.asks


# Budgets.


async def test_what_a_node_that_drains_turned_away_is_asked_elsewhere_without_pay() -> None:
    peers = Peers(Peer("a", refuses(Draining)), Peer("b"))
    for budget in map(peers.calling._budgets.of, "ab"):
        budget.tenths = 0
    for _ in range(20):
        assert await peers.call("a.read") == b"body"


@pytest.mark.parametrize("method", ["a.read", "a.sell"])
async def test_retries_are_a_tenth_of_the_calls_to_a_node(method: str) -> None:
    peer = Peer("a")
    peers = Peers(peer)

    async def answer(ask: Ask) -> Replied | Failed:
        if ask.attempt == 1:
            return await refuses(Overloaded, ours=True)(ask)  # no breaker makes anything of it
        return await answers(ask)

    peer.answer = answer
    ended = [
        await ended_as(peers.call(method, key="k" if method == "a.sell" else None))
        for _ in range(100)
    ]
    retries = sum(ask.attempt > 1 for ask in peer.asks)
    assert retries == 10 + 100 // 10 - 1
    assert ended.count("replied") == retries
    assert ended[0] == "replied"


async def test_f30_what_a_drain_refuses_is_tried_elsewhere_however_much_it_is() -> None:
    peer = Peer("a")
    peers = Peers(peer)

    async def answer(ask: Ask) -> Replied | Failed:
        return await (refuses(Draining) if ask.attempt == 1 else answers)(ask)

    peer.answer = answer
    assert {await ended_as(peers.call("a.read")) for _ in range(50)} == {"replied"}


async def test_what_a_breaker_refuses_pays_for_no_retry() -> None:
    peer = Peer("a", refuses(Unavailable, again=False))
    peers = Peers(peer)
    budget = peers.calling._budgets.of("a")
    budget.tenths = 0
    for _ in range(50):
        await ended_as(peers.call("a.read"))
    assert len(peer.asks) == budget.tenths == 3


async def ended_as(call: Awaitable[bytes]) -> str:
    """Return how a call ended, in a word."""
    try:
        await call
    except MeshError as error:
        return error.code
    return "replied"


# Breakers.


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (dies, "OPEN"),
        (refuses(Overloaded, again=False), "OPEN"),
        (refuses(Expired, again=False), "OPEN"),
        (refuses(Overloaded, ours=True, again=False), "CLOSED"),
        (refuses(Expired, ours=True, again=False), "CLOSED"),
        (refuses(Draining, again=False), "CLOSED"),
        (refuses(Conflict, again=False), "CLOSED"),
    ],
    ids=["lost", "full", "too late", "we are full", "no time of ours", "drains", "says no"],
)
async def test_a_breaker_counts_what_speaks_against_the_peer(answer: Answer, state: str) -> None:
    peer = Peer("a", answer)
    peers = Peers(peer)
    for _ in range(3):
        await ended_as(peers.call("a.pay"))
    assert peers.state("a", "once") == state
    assert peers.state("a", "safe") == "CLOSED"  # another class, another breaker
    assert peer.latency.inflight == 0


async def test_cancelled_calls_say_nothing_about_the_peer() -> None:
    peer = Peer("a")
    peers = Peers(peer)

    async def never(ask: Ask) -> Replied:
        await asyncio.Event().wait()
        raise AssertionError

    peer.answer = never
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await peers.call("a.read")
    assert peers.state("a", "safe") == "CLOSED"
    assert peer.latency.inflight == 0
    breaker = peers.calling.breakers.of("a", "safe")
    breaker.force_open("operator")
    breaker.release("operator")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await peers.call("a.read")  # the probe
    peer.answer = answers
    assert await peers.call("a.read") == b"body"  # is the next one


async def test_open_breaker_refuses_the_first_attempt_at_once_and_sends_nothing() -> None:
    for names in ("a", "ab"):
        peers = Peers(*(Peer(name) for name in names))
        for name in names:
            peers.calling.breakers.of(name, "safe").force_open("operator")
        with pytest.raises(BreakerOpen) as refused:
            await peers.call("a.read")
        assert refused.value.executed == "no"
        assert refused.value.retry_after_s > 0.0
        assert not any(peer.asks for peer in peers.by_node.values())


async def test_of_two_the_one_whose_breaker_is_open_gets_nothing() -> None:
    peers = Peers(Peer("a"), Peer("b"))
    peers.calling.breakers.of("a", "safe").force_open("operator")
    for _ in range(10):
        await peers.call("a.read")
    assert not peers.by_node["a"].asks


async def test_breaker_forced_open_meanwhile_stops_further_attempts() -> None:
    peer = Peer("a")
    peers = Peers(peer)

    async def last(ask: Ask) -> Failed:
        peers.calling.breakers.of("a", "keyed").force_open("mode emergency")
        return gone(ask, KEYED)

    peer.answer = last
    with pytest.raises(OutcomeUnknown, match=r"breaker a\.keyed is open"):
        await peers.call("a.sell", 2.0, key="k")
    assert len(peer.asks) == 1


async def test_f74_urgent_calls_have_a_breaker_of_their_own_that_trickles() -> None:
    peer = Peer("a")
    peers = Peers(peer)
    for kind in ("safe", "urgent"):
        peers.calling.breakers.of("a", kind).force_open("operator")
    assert await peers.call("a.read", urgent=True) == b"body"
    with pytest.raises(BreakerOpen, match=r"a\.urgent"):
        await peers.call("a.read", urgent=True)
    (ask,) = peer.asks
    assert ask.prio < 100


async def test_the_mesh_itself_calls_without_breakers() -> None:
    peer = Peer("a", refuses(Unavailable, again=False))
    peers = Peers(peer)
    for _ in range(10):
        await ended_as(peers.call("mesh.look"))
    assert len(peer.asks) == 10
    assert len(peers.calling.breakers) == 0
