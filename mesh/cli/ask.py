"""Ask the running mesh: one connection, one request, one plain answer.

Never here: printing, verbs, knowledge of any node's types.
"""

import asyncio
from typing import Any

from mesh.cli.failures import NOT_RUNNING, TIMEOUT, Failure, innermost
from mesh.cli.supervision import Supervisor
from mesh.errors import NoService, Unavailable
from mesh.runtime.client import Client
from mesh.runtime.settings import Paths, load_paths

NOT_RUNNING_LINE = "the mesh is not running; start it with `genesis up`"


def ask(method: str, arg: object = None, *, target: str | None = None, wait_s: float = 2.0) -> Any:
    """Return the plain answer of *method*. Raises MeshError, or Failure if nothing runs."""
    paths = load_paths()
    try:
        return asyncio.run(request(paths, method, arg, target, wait_s))
    except (Unavailable, OSError, BaseExceptionGroup) as error:
        known = innermost(error)
        if isinstance(known, Unavailable | OSError) and not Supervisor(paths).pid():
            raise Failure(NOT_RUNNING, NOT_RUNNING_LINE) from error
        if isinstance(known, NoService) and target is None:
            line = f"nobody answers {method} now; try again, logs/error.log tells more"
            raise Failure(TIMEOUT, line) from error
        raise


async def request(
    paths: Paths, method: str, arg: object, target: str | None, wait_s: float
) -> Any:
    """Connect, ask once, leave."""
    async with Client(paths) as mesh:
        return await mesh.call(method, arg, timeout_s=wait_s, target=target)
