"""Run a node again each time it is killed, in a child of a process that has it all imported.

A start so takes a tenth of what a new interpreter takes. The parent has no context of ZeroMQ,
no loop and no thread, so nothing is forked that does not survive it.

Never here: what the nodes do, tests.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def keep_alive(run: Callable[[], int]) -> int:
    """Call *run* in a child, again whenever SIGKILL ended it; return how it ended otherwise.

    SIGTERM goes on to the child.
    """
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            sys.exit(run())

        def pass_on(number: int, frame: FrameType | None, child: int = child) -> None:
            os.kill(child, number)

        signal.signal(signal.SIGTERM, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != -signal.SIGKILL:
            return code
