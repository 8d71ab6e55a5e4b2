"""Run: who a process is, and by what rules it lives.

Never here: how it lives (bus, runner).
"""

from collections.abc import Callable
from dataclasses import dataclass

from mesh.protocol.access import Access, is_node
from mesh.protocol.conflation import SNAIL_S
from mesh.runtime.keys import Keyring
from mesh.runtime.logs import Logs
from mesh.runtime.planes import open_journal
from mesh.runtime.settings import Paths
from mesh.storage.journal import Journal, Retention


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one node."""

    node: str
    epoch: int
    cluster: str
    paths: Paths
    log: Logs
    access: Access
    retention: Retention
    listen: str = ""
    advertise: str = ""
    keys: Keyring | None = None
    snail_s: float = SNAIL_S
    is_node: Callable[[str, str], bool] = is_node  # whether a user may greet as that node
    open_journal: Callable[[Paths, str, Retention], Journal] = open_journal
