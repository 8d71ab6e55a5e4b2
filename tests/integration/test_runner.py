"""The runner, as a process: exit codes, one line for a user's mistake, nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.runtime.settings import ROOT, run_directory

pytestmark = pytest.mark.system

PROGRAM = """
import asyncio
from typing import ClassVar
import msgspec
from mesh.protocol.control import EPHEMERAL
from mesh.runtime.component import Component, event
from mesh.runtime.runner import run

class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    fault: str

class Speaker(Component):
    says: ClassVar = {"x.": EPHEMERAL}
    async def on_start(self) -> None:
        self.every(0.02, lambda: self.emit("x.t", 1))

class Demo(Component):
    async def on_start(self) -> None:
        if self.settings.fault == "start":
            await asyncio.Event().wait()
        print("up", flush=True)
        if self.settings.fault == "task":
            self.spawn(self.fail(), "fail")
    async def fail(self) -> None:
        raise ValueError("a task failed")
    @event("x.")
    def on_tick(self, number: int) -> None:
        if self.settings.fault == "handler":
            raise ValueError("a handler failed")

if __name__ == "__main__":
    import sys
    kind = Speaker if "speaker" in sys.argv else Demo
    raise SystemExit(run("demo", kind, Settings))
"""


class Home:
    """A directory of its own for the nodes of one test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.program = path / "demo.py"
        self.program.write_text(PROGRAM)
        self.run = run_directory(path)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(self.program), *words],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "GENESIS_HOME": str(self.path),
                "GENESIS__DEMO__FAULT": "none",
                "GENESIS__SPEAKER__FAULT": "none",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def up(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        process = self.start(*words, **environment)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    for process in home.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_sigterm_drains_and_leaves_nothing(home: Home) -> None:
    node = home.up()
    node.send_signal(signal.SIGTERM)
    assert node.wait(15) == 0
    assert not home.run.exists()


def test_second_copy_is_refused_with_75(home: Home) -> None:
    first = home.up()
    second = home.start()
    _, said = second.communicate(timeout=15)
    assert second.returncode == 75
    assert said == f"genesis demo: demo already runs as pid {first.pid}\n"


def test_unknown_key_is_78_and_one_line(home: Home) -> None:
    node = home.start(GENESIS__DEMO__FAULTY="1")
    _, said = node.communicate(timeout=15)
    assert node.returncode == 78
    assert said.startswith("genesis demo: config/genesis.toml: unknown key 'faulty' in [demo]")
    assert "did you mean 'fault'?" in said
    assert said.count("\n") == 1


def test_failing_task_ends_the_node_with_70_and_its_trace(home: Home) -> None:
    node = home.start(GENESIS__DEMO__FAULT="task")
    assert node.wait(15) == 70
    assert "a task failed" in (home.path / "logs/error.log").read_text()


def test_start_without_an_end_ends_the_node_with_70(home: Home) -> None:
    node = home.start(GENESIS__DEMO__FAULT="start", GENESIS__MESH__START_S="0.2")
    assert node.wait(15) == 70
    assert "on_start took longer than 0.2 s" in (home.path / "logs/error.log").read_text()


def test_raising_handler_ends_the_node_with_70_and_its_trace(home: Home) -> None:
    node = home.up(GENESIS__DEMO__FAULT="handler")
    home.start("--node", "speaker")
    assert node.wait(15) == 70
    assert "a handler failed" in (home.path / "logs/error.log").read_text()


def test_next_run_has_a_higher_epoch_after_a_kill(home: Home) -> None:
    node = home.up()
    first = int((home.path / "state/epochs/demo").read_text())
    node.kill()
    node.wait(15)
    home.up()
    assert int((home.path / "state/epochs/demo").read_text()) > first
