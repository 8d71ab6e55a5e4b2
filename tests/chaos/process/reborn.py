"""Run a node again each time it is killed, in a child of a process that has it all imported.

A start so takes a tenth of what a new interpreter takes. The parent has no context of ZeroMQ,
no loop and no thread, so nothing is forked that does not survive it.

Never here: what the nodes do, tests.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType


def keep_alive(run: Callable[[], int]) -> int:
    """Call *run* in a child, again whenever SIGKILL ended it; return how it ended otherwise.

    SIGTERM goes on to the child, and no other is born then.
    """
    child, told = 0, False

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal told
        told = True
        with suppress(ProcessLookupError):
            os.kill(child, number)

    while not told:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        child = os.fork()
        signal.signal(signal.SIGTERM, pass_on if child else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        if not child:
            sys.exit(run())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (-signal.SIGKILL, -signal.SIGTERM):
            return code
    return 0
