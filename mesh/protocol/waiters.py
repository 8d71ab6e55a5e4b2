"""Waiters: frames to those who wait for a work, and their leaving.

Never here: deciding what they are told.
"""

from collections.abc import Callable

from mesh.errors import UnknownSession
from mesh.protocol import envelope, rpcs
from mesh.protocol.control import Failure
from mesh.protocol.envelope import ERR, REQ, Kind, Rpc
from mesh.protocol.sessions import Session, Sessions
from mesh.protocol.work import Send, Work


def say(session: Session[Work], kind: Kind, body: bytes, method: int = 0, corr: int = 0) -> Send:
    """Return a frame to one session; without corr it is about the session."""
    return Send(session.peer, Rpc(kind, method, corr, session.caller.epoch, body))


def refuse(session: Session[Work], method: int, corr: int, why: Failure) -> Send:
    """Return the error that answers a request."""
    return say(session, ERR, rpcs.encoded(why), method, corr)


def strange(peer: bytes, rpc: Rpc) -> list[Send]:
    """Answer a connection that did not greet; only what awaits an answer gets one."""
    if rpc.kind not in (REQ, rpcs.PING, rpcs.CANCEL):
        return []
    corr = rpc.corr if rpc.kind is REQ else 0
    body = rpcs.encoded(rpcs.failure(UnknownSession, "greet first"))
    return [Send(peer, Rpc(ERR, rpc.method, corr, rpc.client_epoch, body))]


def pong(session: Session[Work], rpc: Rpc, stamp: Callable[[], int]) -> Send:
    """Answer a ping. stamp gives ns UTC. Raises RemoteProtocolError."""
    t2, ping = stamp(), envelope.decode_value(rpc.body, rpcs.Ping)
    session.pings = True
    answer = rpcs.Pong(ping.t1, t2, stamp(), ping.asked, tuple(session.open))
    return say(session, rpcs.PONG, rpcs.encoded(answer))


def wait(session: Session[Work], corr: int, work: Work, size: int) -> None:
    """Let *corr* of a session wait for *work*. size: bytes it counts in the session's window."""
    work.waiters.append((session.peer, corr))
    session.open[corr] = work, size
    session.bytes += size


def leave(session: Session[Work], corr: int) -> Work | None:
    """Let *corr* wait no longer; return what it waited for."""
    found = session.take(corr)
    if found is None:
        return None
    found[0].waiters.remove((session.peer, corr))
    return found[0]


def tell(sessions: Sessions[Work], work: Work, kind: Kind, body: bytes) -> list[Send]:
    """Return a frame to each who waits for *work*."""
    effects = []
    for peer, corr in work.waiters:
        session = sessions.get(peer)
        assert session is not None
        effects.append(say(session, kind, body, work.method_id, corr))
    return effects


def dismiss(sessions: Sessions[Work], work: Work) -> None:
    """Let nobody wait for *work* any longer."""
    for peer, corr in work.waiters:
        session = sessions.get(peer)
        assert session is not None
        session.take(corr)
    work.waiters.clear()
