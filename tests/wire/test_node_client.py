"""A peer in another language, written from mesh/README.md, speaks to our node and is heard.

Node.js with npm's zeromq and @msgpack/msgpack; `npm ci` puts them below .venv once per lock.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh.runtime.settings import ROOT
from tests.wire.conftest import Eventually, Stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.timeout(120),  # the first run fetches two packages from the registry
]

SOURCE = Path(__file__).with_name("node_client")
PACKAGES = ROOT / ".venv" / "node_client"  # the checkout's own place for what is installed
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
INSTALL_S = 90
STEP_S = 10.0


@pytest.fixture(scope="session")
def modules() -> Path:
    """Return node_modules as the lock asks for, installed if they are not there yet."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: a peer in JavaScript needs Node.js 20.15 or later with npm")
    lock = (SOURCE / "package-lock.json").read_bytes()
    place = PACKAGES / hashlib.sha256(lock).hexdigest()[:16]
    if not place.exists():
        install(place)
    return place / "node_modules"


def install(place: Path) -> None:
    """Install beside *place* and rename, so that half an installation is never used."""
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCE / name, fresh / name)
    done = subprocess.run(
        INSTALL, cwd=fresh, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        shutil.rmtree(fresh)
        pytest.fail(f"npm ci failed, is its registry reachable?\n{done.stderr[-2_000:]}")
    try:
        fresh.rename(place)
    except OSError:  # another worker was faster
        shutil.rmtree(fresh)


class Script:
    """A running script that prints one JSON line per step."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def step(self, name: str) -> dict[str, Any]:
        """Return the facts of the next step, which must be *name*."""
        assert self._process.stdout is not None
        async with asyncio.timeout(STEP_S):
            line = await self._process.stdout.readline()
        assert line, f"the script ended before {name!r}: {await self._errors()}"
        facts: dict[str, Any] = json.loads(line)
        assert facts.pop("step") == name
        return facts

    async def ended(self) -> int:
        """Return the exit code; it must not have complained."""
        async with asyncio.timeout(STEP_S):
            assert await self._errors() == ""
            return await self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    async def _errors(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


class Node:
    """Start scripts of the folder; each finds the packages beside it."""

    def __init__(self, place: Path, base: Path) -> None:
        self._place, self._base = place, base
        self.running: list[asyncio.subprocess.Process] = []

    async def run(self, script: str, *words: object) -> Script:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(self._place / script),
            str(self._base),
            *map(str, words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.running.append(process)
        return Script(process)


@pytest.fixture
async def node(modules: Path, tmp_path: Path, stage: Stage) -> AsyncIterator[Node]:
    place = tmp_path / "client"
    shutil.copytree(SOURCE, place)
    (place / "node_modules").symlink_to(modules)
    made = Node(place, stage.directory.base)
    yield made
    for process in made.running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_node_js_hears_events_values_and_a_journal_and_is_answered(
    stage: Stage, node: Node
) -> None:
    speaker = stage.speaker
    prices = {f"x.price.{number:02d}": 5_000 + number for number in range(40)}
    for topic, length in prices.items():
        speaker.emit(topic, "old")
        speaker.emit(topic, "v" * length)
    speaker.emit("x.price.gone", "v")
    speaker.retire("x.price.gone", "v")
    speaker.emit("x.tick.a", 0)
    for start in range(1, 1_601, 400):
        await speaker.commit(
            *(
                ("x.note" if n % 5 == 0 else f"x.fill.{n % 3}", n)
                for n in range(start, start + 400)
            )
        )

    client = await node.run("client.mjs", "speaker", 500, 1_699)
    head = (await client.step("head"))["head"]
    assert head == [stage.bus.epoch, 1, 1, {"x.tick.a": 1}, [], [], 0, 1]
    for number in range(500):
        speaker.emit(f"x.tick.{number // 50 % 2}", number)
    assert await client.step("ticks") == {"ticks": list(range(500)), "missed": 0}

    assert (await client.step("welcome"))["welcome"][:3] == ["speaker", stage.bus.epoch, 1]
    assert await client.step("snapshot") == {"values": prices, "pages": 2}

    caught_up = await client.step("caught up")
    assert caught_up == {"last": 1_600, "requests": 4}
    for number in range(1_601, 1_700):
        topic = "x.note" if number % 5 == 0 else f"x.fill.{number % 3}"
        assert await speaker.commit((topic, number)) == number
    fills = await client.step("fills")
    assert fills["fills"] == [[n, n] for n in range(1, 1_700) if n % 5]
    assert (fills["lost"], fills["left"]) == (0, 0)
    (acked,) = stage.bus.journal.acked().values()
    assert (acked.log_id, acked.offset) == (stage.bus.journal.log_id, 1_699)

    assert (await client.step("refused"))["error"][:3] == ["DENIED", "no", "not you"]
    assert (await client.step("doubled"))["value"]["value"] == 42
    assert await client.ended() == 0


async def test_node_js_publishes_and_answers_as_a_node_of_the_mesh(
    stage: Stage, node: Node, eventually: Eventually
) -> None:
    publisher = await node.run("publisher.mjs")
    await publisher.step("bound")
    heard = stage.speaker.heard
    await eventually(lambda: len(heard) >= 100)
    assert heard == list(range(heard[0], heard[0] + len(heard)))
    link = stage.bus.peers.feeds["gauge", "e"].subscriber
    assert link.live
    assert (link.rejects.total, stage.bus.peers.gaps) == (0, 0)
    assert await stage.speaker.call("gauge.half", 42, int) == 21
    publisher.terminate()
    assert await publisher.ended() == 0
