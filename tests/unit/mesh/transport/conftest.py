"""Sockets and both loops for the tests of links and turns. Never here: tests."""

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.unit.mesh.transport.wires import (
    DEADLINE_S,
    Run,
    Wires,
)


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    wires = Wires(tmp_path)
    yield wires
    wires.context.destroy(linger=0)


@pytest.fixture
def failures() -> list[BaseException]:
    """Return what reached the loop's exception handler; a test that expects some clears it."""
    return []


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def run(request: pytest.FixtureRequest, failures: list[BaseException]) -> Iterator[Run]:
    async def within(body: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await body

    with asyncio.Runner(loop_factory=request.param) as runner:
        runner.get_loop().set_exception_handler(lambda _, what: failures.append(what["exception"]))
        yield lambda body: runner.run(within(body))
    assert not failures
