"""Wait for a mesh that was just started: every default node UP, and the mode as wanted.

Never here: starting and stopping it.
"""

import asyncio
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mesh.cli.failures import CONFIGURATION, ERROR, TIMEOUT, Failure
from mesh.cli.supervision import Supervisor, default_nodes
from mesh.clock import monotonic_s, wall_ns
from mesh.errors import MeshError
from mesh.runtime.client import Client

READY_S = 30.0
PERIOD_S = 0.2
ASK_S = 1.0
QUIET = ("RUNNING", "STARTING")
NAMED_MAX = 3
REFUSAL = "genesis {node}: "  # how a node begins the line of its ConfigError
LOCKED = " already runs as pid "  # the same, but only for the moment
TAIL_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Ready:
    """What it took: seconds to a tenth, nodes up, the mode."""

    seconds: float
    nodes: int
    mode: str


def wait_ready(
    supervisor: Supervisor,
    process: "subprocess.Popen[bytes]",
    patience_s: float = READY_S,
) -> Ready:
    """Return once all is up. Raises Failure: TIMEOUT with what is missing, or ERROR at once."""
    began = monotonic_s()
    wanted = default_nodes()
    lacking, mode = asyncio.run(poll(supervisor, process, wanted, began + patience_s))
    if lacking:
        troubled = (
            trouble(supervisor.processes(), supervisor.paths.logs)
            if process.poll() is None
            else ""
        )
        line = f"not ready after {patience_s:.0f} s: {lacking}{troubled}; see logs/error.log"
        raise Failure(TIMEOUT, line)
    return Ready(round(monotonic_s() - began, 1), len(wanted), mode)


async def poll(
    supervisor: Supervisor,
    process: "subprocess.Popen[bytes]",
    wanted: list[str],
    ends: float,
) -> tuple[str, str]:
    """Return what is missing at the end, nothing if all came up; and the mode then."""
    began_ns = wall_ns()
    async with Client(supervisor.paths) as mesh:
        while True:
            if process.poll() is not None:
                raise Failure(
                    ERROR, f"supervisord ended with {process.returncode}; see logs/supervisord.log"
                )
            try:
                answer = await mesh.call("coordinator.status", None, timeout_s=ASK_S)
            except (MeshError, TimeoutError):
                answer = None
            lacking = missing(answer, wanted)
            if lacking and (line := misconfigured(supervisor, began_ns)):
                raise Failure(CONFIGURATION, line)
            tell(lacking)
            if not lacking or monotonic_s() > ends:
                return lacking, str(answer["mode"]).upper() if answer else ""
            await asyncio.sleep(PERIOD_S)


def missing(answer: Any, wanted: list[str]) -> str:
    """Return what keeps the mesh from being ready, in words; nothing if it is.

    The mode must be the one the operator last asked for, which an earlier run may have left.
    """
    if answer is None:
        return "the coordinator does not answer"
    states = {node["node"]: node["state"] for node in answer["nodes"]}
    away = [f"{name} {states.get(name, 'absent')}" for name in wanted if states.get(name) != "UP"]
    if away:
        return ", ".join(away)
    now = str(answer["mode"]).upper()
    return "" if now == str(answer["mode_wanted"]).upper() else f"the mode is {now}"


def misconfigured(supervisor: Supervisor, since_ns: int) -> str:
    """Return what a node that refuses its settings has said since; nothing if none does."""
    try:
        processes = supervisor.processes()
    except Failure:  # supervisord is not listening yet
        return ""
    for name in (name for name, info in processes.items() if info["statename"] not in QUIET):
        file = supervisor.paths.logs / f"{name}.out"
        words = last_words(file)
        ours = words.startswith(REFUSAL.format(node=name)) and LOCKED not in words
        if ours and file.stat().st_mtime_ns >= since_ns:
            return words.removeprefix("genesis ")
    return ""


def trouble(processes: dict[str, dict[str, Any]], logs: Path) -> str:
    """Return which programs do not stay up, and the last words of the first of them."""
    found = [name for name, info in processes.items() if info["statename"] not in QUIET]
    if not found:
        return ""
    named = ", ".join(found[:NAMED_MAX]) + (" …" if len(found) > NAMED_MAX else "")
    return f"; {named} cannot stay up: {last_words(logs / f'{found[0]}.out')}"


def last_words(file: Path) -> str:
    """Return the last line of *file*, or a dash."""
    try:
        lines = file.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace").split("\n")
    except OSError:
        return "-"
    return next((line for line in reversed(lines) if line.strip()), "-")


def tell(lacking: str) -> None:
    """Keep one line of a terminal up to date; say nothing where there is none."""
    if sys.stderr.isatty():
        words = f"waiting for {lacking}"[:78] if lacking else ""
        click.echo(f"\r\x1b[K{words}", nl=False, err=True)
