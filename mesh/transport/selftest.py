"""The start-up proof that the authenticator works: a key that nobody knows must be refused.

ZAP fails open where it is set up wrongly, and nobody would notice. So each start tries it.

Never here: the authenticator itself.
"""

import asyncio
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from mesh.errors import ConfigError
from mesh.transport.sockets import Sockets, Stranger

TIMEOUT_S: Final = 2.0
REFUSED: Final = 400


async def refuse_strangers(sockets: Sockets, timeout_s: float = TIMEOUT_S) -> None:
    """Return once a stranger was refused; takes milliseconds. Cancelling is safe.

    Raises ConfigError if it was let in, or if nobody refused it in *timeout_s*.
    """
    loop = asyncio.get_running_loop()
    stranger = sockets.stranger()
    fd = int(stranger.events.getsockopt(zmq.FD))
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(timeout_s):
            while (refused := _outcome(stranger)) is None:
                await ready.wait()
                ready.clear()
    except TimeoutError:
        refused = False
    finally:
        loop.remove_reader(fd)
        stranger.close()
    if not refused:
        raise ConfigError("the authenticator lets strangers in, or is dead; refusing to start")


def _outcome(stranger: Stranger) -> bool | None:
    """Return whether the first handshake that ended was refused by name, None if none has."""
    try:
        event = recv_monitor_message(stranger.events, zmq.NOBLOCK)
    except zmq.Again:
        return None
    return event["event"] == zmq.EVENT_HANDSHAKE_FAILED_AUTH and event["value"] == REFUSED
