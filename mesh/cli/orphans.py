"""Nodes that outlived their supervisord: known by the run locks they hold, ended in good order.

Never here: nodes that a supervisord still has; it would start them again.
"""

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from mesh.cli.failures import Failure
from mesh.cli.supervision import wait_gone
from mesh.runtime.settings import Paths

DRAIN_S = 20.0  # a node takes 12 s at most
KILL_S = 5.0


def end_orphans(paths: Paths) -> set[int]:
    """End every node of this mesh that still runs; return their pids."""
    pids = {pid for lock in paths.run.rglob("*.lock") if (pid := holder(lock))}
    send(pids, signal.SIGTERM)
    try:
        wait_gone(pids, DRAIN_S)
    except Failure:
        send(pids, signal.SIGKILL)
        wait_gone(pids, KILL_S)
    return pids


def holder(lock: Path) -> int:
    """Return the pid of who holds *lock*, 0 if nobody does: the kernel knows, files may lie."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0
    except BlockingIOError:
        words = os.read(descriptor, 100).split()
        return int(words[0]) if words and words[0].isdigit() else 0
    finally:
        os.close(descriptor)


def send(pids: set[int], number: signal.Signals) -> None:
    """Send a signal to all that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
