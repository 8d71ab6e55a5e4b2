"""A whole mesh of real processes with a home and ports of its own.

Never here: tests, fixtures.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from mesh.runtime.settings import ROOT, run_directory

COMMAND = [sys.executable, "-c", "from mesh.cli import main; main()"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Mesh:
    """One mesh of its own: home, ports, and the command line on it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("GENESIS_") and key != "DATABASE_URL"
        }
        self.environment = {
            **kept,
            "GENESIS_HOME": str(home),
            "API_PORT": str(free_port()),
            "WS_PORT": str(free_port()),
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.home,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def processes(self) -> list[str]:
        """Return the command lines of everything that runs in this home."""
        needle = f"GENESIS_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                if needle in variables and int(entry.name) != os.getpid():
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue  # ended while we looked, or not ours
        return found

    def leftovers(self) -> list[Path]:
        """Return sockets in the home, and the run directory with all in it, wherever it is."""
        run = run_directory(self.home)
        sockets = [path for path in self.home.rglob("*") if path.is_socket()]
        return [*sockets, *([run, *run.rglob("*")] if run.exists() else [])]
