"""A directory of their own for the nodes of one test, and the processes in it.

Never here: tests, the nodes themselves.
"""

import os
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mesh.protocol import envelope
from mesh.protocol.envelope import Event
from mesh.runtime.planes import JOURNALS
from mesh.runtime.settings import ROOT, run_directory
from mesh.storage.reader import Reader


class Home:
    """Start nodes of tests.chaos.process.nodes; end them with :meth:`close`."""

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, run_directory(path)
        self.nodes: dict[str, subprocess.Popen[str]] = {}
        self._ups: set[str] = set()  # nodes that said so, and were heard

    def start(
        self, node: str, kind: str, *, reborn: bool = False, **settings: object
    ) -> "subprocess.Popen[str]":
        """Start *node*, whose name has no dot; settings as in nodes.Settings.

        reborn: it comes back by itself when it kills itself; see the module of that name.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.process.nodes", "--node", node],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("GENESIS_")},
                "PYTHONPATH": str(ROOT),
                "GENESIS_HOME": str(self.path),
                "GENESIS__MESH__SNAIL_S": "1.0",  # nobody waits half a minute for a test
                "REBORN": "yes" * reborn,
                **{
                    f"GENESIS__{node.upper()}__{key.upper()}": str(value)
                    for key, value in {"kind": kind, **settings}.items()
                },
            },
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # one that is reborn is two processes
        )
        self.nodes[node] = process
        return process

    def up(self, node: str, kind: str, **settings: Any) -> "subprocess.Popen[str]":
        """Start *node* and wait until it is up."""
        process = self.start(node, kind, **settings)
        assert self.is_up(node, None)
        return process

    def is_up(self, node: str, timeout_s: float | None) -> bool:
        """Say whether *node* is up; wait so long for it at most, with None as it takes."""
        if node not in self._ups:
            stdout = self.nodes[node].stdout
            assert stdout is not None
            if not select.select([stdout], [], [], timeout_s)[0]:
                return False
            assert stdout.readline() == "up\n"
            self._ups.add(node)
        return True

    def kill(self, node: str) -> bool:
        """End *node* as SIGKILL does; return whether it had come up. Its files stay behind."""
        process, was_up = self.nodes.pop(node), node in self._ups
        self._ups.discard(node)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return was_up or said == "up\n"

    def stop(self, node: str) -> int:
        """End *node* as an operator does; return its exit code."""
        process = self.nodes[node]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        del self.nodes[node]  # now: one that does not end is killed by close()
        self._ups.discard(node)
        return process.returncode

    @contextmanager
    def frozen(self, node: str) -> Iterator[None]:
        """Let *node* do nothing meanwhile."""
        self.nodes[node].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.nodes[node].send_signal(signal.SIGCONT)

    def journal(self, node: str) -> Path:
        """Return where the journal of *node* lies."""
        return self.path / "state" / JOURNALS / f"{node}.sqlite3"

    def events(self, node: str, topic: str = "") -> list[Event]:
        """Return the events in the journal of *node*, in order; it may be running."""
        reader = Reader(self.journal(node))
        try:
            return [
                envelope.decode_event(record.frame)
                for record in reader.read()
                if record.topic.startswith(topic)
            ]
        finally:
            reader.close()

    def recorded(self, node: str, topic: str = "") -> list[Any]:
        """Return their payloads."""
        return [envelope.decode_value(event.payload) for event in self.events(node, topic)]

    def newest(self, node: str) -> int:
        """Return the newest offset in the journal of *node*, 0 without any."""
        db = sqlite3.connect(f"{self.journal(node).as_uri()}?mode=ro", uri=True)
        try:
            return int(db.execute('select coalesce(max("offset"), 0) from log').fetchone()[0])
        finally:
            db.close()

    def log(self) -> str:
        """Return what the nodes wrote into their logs."""
        return "".join(path.read_text() for path in sorted((self.path / "logs").glob("*.log*")))

    def close(self) -> None:
        """Kill what still runs."""
        for node in list(self.nodes):
            self.kill(node)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return once *condition* holds. Raises TimeoutError after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not hold within {timeout_s} s")
        time.sleep(0.02)
