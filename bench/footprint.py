"""Memory and CPU of the whole default mesh on the synthetic source.

PSS counts each shared page once over all processes, so the sum is what the mesh costs.
Never here: starting anything else.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

WINDOW_S: Final = 30.0
SETTLE_S: Final = 10.0  # warm-up of imports and caches is not the steady state
COMMAND: Final = [sys.executable, "-c", "from mesh.cli import main; main()"]
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def measure(*, quick: bool = False) -> list[dict[str, Any]]:
    """Return PSS in MiB and percent of one core, for each process and in total.

    quick: over a second, not half a minute.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "GENESIS_HOME": home,
            "API_PORT": str(free_port()),
            "WS_PORT": str(free_port()),
        }
        subprocess.run(
            [*COMMAND, "up", "--detach", "--json"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(0 if quick else SETTLE_S)
            return window(processes(home), 1.0 if quick else WINDOW_S)
        finally:
            subprocess.run(
                [*COMMAND, "down"], env=environment, check=True, stdout=subprocess.DEVNULL
            )


def window(pids: dict[str, int], length_s: float) -> list[dict[str, Any]]:
    """Return the figures of one window, the total last."""
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(length_s)
    rows: list[dict[str, Any]] = [
        {
            "what": name,
            "pss_mib": round(pss_kib(pid) / 1024, 1),
            "cpu_pct": round(100 * (cpu_s(pid) - before[name]) / length_s, 1),
        }
        for name, pid in sorted(pids.items())
    ]
    rows.append(
        {
            "what": "total",
            "pss_mib": round(sum(row["pss_mib"] for row in rows), 1),
            "cpu_pct": round(sum(row["cpu_pct"] for row in rows), 1),
        }
    )
    return rows


def processes(home: str) -> dict[str, int]:
    """Return the pids of the mesh in *home*, its supervisord included."""
    found = {
        path.stem: int(json.loads(path.read_bytes())[3])
        for path in Path(home, "run").glob("*/nodes/*.json")
    }
    return {**found, "supervisord": int(Path(home, ".supervisor.pid").read_text())}


def pss_kib(pid: int) -> int:
    """Return the proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
