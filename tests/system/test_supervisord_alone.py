"""`supervisord -c supervisord.conf`, un-activated, from `/`: the same mesh as `make run`."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.runtime.client import Client
from mesh.runtime.settings import ROOT, load_paths, run_directory
from nodes.topology import TOPOLOGY
from tests.system.books import wait_for
from tests.system.meshes import free_port

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),  # eleven processes start and drain
]


def checkout(target: Path) -> Path:
    """Return a copy of what a checkout needs to run, with this environment as its .venv."""
    for name in ("mesh", "nodes", "config"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "supervisord.conf", target)
    (target / "logs").mkdir()
    (target / ".venv").symlink_to(sys.prefix)
    return target


async def test_unactivated_from_the_root_directory(
    tmp_path: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = checkout(tmp_path / "g")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(runtime_dir),
        "API_PORT": str(free_port()),
        "WS_PORT": str(free_port()),
    }
    monkeypatch.setenv("GENESIS_HOME", str(home))
    supervisord = subprocess.Popen(  # noqa: ASYNC220  # starting does not wait
        [str(home / ".venv/bin/supervisord"), "-c", str(home / "supervisord.conf")],
        cwd="/",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with Client(load_paths()) as mesh:

            async def normal() -> bool:
                status = await mesh.call("coordinator.status", None, 2.0)
                up = {row["node"] for row in status["nodes"] if row["state"] == "UP"}
                return up == set(TOPOLOGY) and status["mode"] == "NORMAL"

            await wait_for(normal, "eleven nodes are UP and the mode is NORMAL")
        socket = home / ".supervisor.sock"
        assert socket.stat().st_mode & 0o777 == 0o700
        assert socket.stat().st_uid == os.getuid()
    finally:
        supervisord.send_signal(signal.SIGTERM)
        supervisord.wait(60)
    assert not run_directory(home).exists()
