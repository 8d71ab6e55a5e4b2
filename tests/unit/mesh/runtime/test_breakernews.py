"""BreakerNews: every turn is told once and in order, from any thread, and not for ever."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, TypeAlias

import msgspec
import pytest

from mesh.clock import wall_ns
from mesh.errors import LocalProtocolError
from mesh.protocol.control import BreakerTurn
from mesh.protocol.envelope import TOMBSTONE
from mesh.runtime.breakernews import BreakerNews
from mesh.runtime.circuit import Breakers, CircuitBreaker
from mesh.runtime.logs import Logs

Said: TypeAlias = tuple[str, BreakerTurn, int]
LEVELS = {"OPEN": "WARNING", "HALF_OPEN": "INFO", "CLOSED": "INFO"}


class Stage:
    """Breakers, what is said of them, and what the log holds."""

    def __init__(self, place: Path) -> None:
        self.said: list[Said] = []
        self.breakers = Breakers(lambda name: CircuitBreaker(name, 1, 0.0), breakers_max=3)
        self.log = Logs(place, "a", 1, level="DEBUG", rotate_bytes=1 << 20, kept=1)
        self.path = place / "app.log"
        loop = asyncio.get_running_loop()
        self.news = BreakerNews(
            loop, self.breakers, lambda *said: self.said.append(said), self.log
        )

    def states(self, topic: str) -> list[str]:
        return [told.state for at, told, flags in self.said if at == topic and not flags]

    def ended(self) -> list[str]:
        return [topic for topic, _, flags in self.said if flags == TOMBSTONE]

    def logged(self) -> list[dict[str, Any]]:
        text = self.path.read_bytes() if self.path.exists() else b""
        return [msgspec.json.decode(line) for line in text.splitlines()]


@pytest.fixture
async def stage(tmp_path: Path) -> Any:
    made = Stage(tmp_path)
    yield made
    made.log.close()


async def told(condition: Callable[[], object]) -> None:
    """Return once the loop has told what was handed to it."""
    async with asyncio.timeout(10.0):
        while not condition():  # noqa: ASYNC110  # conditions are of any kind
            await asyncio.sleep(0)


def fail(breaker: CircuitBreaker) -> None:
    breaker.record(breaker.admit(), succeeded=False)


def succeed(breaker: CircuitBreaker) -> None:
    breaker.record(breaker.admit(), succeeded=True)


async def test_turns_are_published_logged_and_counted(stage: Stage) -> None:
    breaker = stage.breakers.of("execution", "once")
    began = wall_ns()
    fail(breaker)
    await told(lambda: stage.said)
    assert stage.news.counters() == {"breakers_open": 1, "breaker_openings": 1}
    succeed(breaker)
    await told(lambda: len(stage.said) == 3)
    assert stage.states("breaker.execution.once") == ["OPEN", "HALF_OPEN", "CLOSED"]
    opened, _, closed = (value for _, value, _ in stage.said)
    assert (opened.reason, opened.failures) == ("1 failures in a row", 1)
    assert began <= opened.since <= closed.since <= wall_ns()
    assert (closed.failures, closed.open_until, closed.retry_after_ms) == (0, 0, 0)
    assert stage.news.counters() == {"breakers_open": 0, "breaker_openings": 1}
    logged = stage.logged()
    assert [(line["fields"]["state"], line["level"]) for line in logged] == [
        (state, LEVELS[state]) for state in ("OPEN", "HALF_OPEN", "CLOSED")
    ]


async def test_refused_callers_are_told_when_and_a_force_has_no_end(stage: Stage) -> None:
    slow = CircuitBreaker("slow", 1, 30.0)
    stage.breakers.adopt(slow)
    fail(slow)
    slow.force_open("operator")
    await told(lambda: len(stage.said) == 2)
    opened, forced = (value for _, value, _ in stage.said)
    assert 29_000 < opened.retry_after_ms <= 30_000
    assert 29e9 < opened.open_until - opened.since <= 31e9
    assert (forced.state, forced.reason, forced.open_until) == ("OPEN", "operator", 0)
    assert forced.retry_after_ms == 60_000
    assert stage.news.counters() == {"breakers_open": 1, "breaker_openings": 1}


async def test_i12_turns_in_threads_are_all_told_and_in_order(stage: Stage) -> None:
    breaker, ready = stage.breakers.of("venue", "orders"), Barrier(8)

    def turn(number: int) -> None:
        ready.wait(timeout=10.0)
        for _ in range(3):
            breaker.force_open(str(number))
            breaker.release(str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(turn, range(8)))
    await told(lambda: len(stage.said) == len(breaker.story))
    assert [value.reason for _, value, _ in stage.said] == [turn.reason for turn in breaker.story]


async def test_topic_ends_when_its_breaker_is_dropped(stage: Stage) -> None:
    fail(first := stage.breakers.of("a"))
    for name in "bcd":
        succeed(stage.breakers.of(name))
    assert not stage.ended()
    for name in "ef":
        fail(stage.breakers.of(name))  # no idle one is left: the least used goes
    succeed(stage.breakers.of("g"))
    await told(lambda: stage.ended() == ["breaker.a"])
    first.force_open("nobody is told")
    await asyncio.sleep(0)
    assert stage.states("breaker.a") == ["OPEN"]
    assert stage.news.counters()["breakers_open"] == 2


async def test_topic_ends_a_while_after_its_breaker_has_closed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        fail(stage.breakers.of(name))
    succeed(stage.breakers.of("a"))
    await told(lambda: len(stage.said) == 4)
    stage.news.tick()
    assert not stage.ended()
    monkeypatch.setattr("mesh.runtime.breakernews.CLOSED_S", 0.0)
    stage.news.tick()
    assert stage.ended() == ["breaker.a"]
    stage.news.tick()
    assert stage.ended() == ["breaker.a"]


async def test_what_is_no_topic_or_one_too_many_is_in_the_log_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.runtime.breakernews.TOPICS_MAX", 1)
    for name in ("line\nfeed", "x" * 300, "good", "one.more"):
        fail(stage.breakers.of(name))
    await told(lambda: len(stage.logged()) == 4)
    assert [topic for topic, _, _ in stage.said] == ["breaker.good"]
    with pytest.raises(LocalProtocolError, match="not a topic"):
        stage.breakers.adopt(CircuitBreaker("line\nfeed"))


async def test_nothing_is_told_after_the_end(stage: Stage) -> None:
    stage.news.close()
    fail(breaker := stage.breakers.of("a"))
    await told(lambda: stage.news.openings == 1)
    assert not stage.said
    assert breaker.state == "OPEN"


def test_turn_of_a_thread_that_outlives_the_loop_is_no_error(tmp_path: Path) -> None:
    async def made() -> Stage:
        return Stage(tmp_path)

    stage = asyncio.run(made())
    fail(stage.breakers.of("a"))
    assert not stage.said
    stage.log.close()
