"""What clients may call, with which scope, and how answers become maps.

Whatever is not in the table cannot be called: execution.submit, for one, is risk's alone.

Never here: the calls themselves.
"""

from typing import Any, Final, NamedTuple

import msgspec

from mesh.errors import Denied, Invalid, MeshError, NotFound, RemoteProtocolError
from mesh.protocol.mode import SystemMode
from mesh.protocol.tokens import OPERATE, TRADE, VIEW, Scope, mode_scope
from nodes.domain.instruments import Instrument
from nodes.domain.market import BookSnapshot
from nodes.domain.orders import Order
from nodes.domain.plain import plain


class Method(NamedTuple):
    """The scope a method takes and the type of its reply."""

    scope: Scope
    reply: Any = Any


METHODS: Final = {
    "coordinator.status": Method(VIEW),
    "execution.orders": Method(VIEW),
    "execution.fills": Method(VIEW),
    "execution.positions": Method(VIEW),
    "execution.balances": Method(VIEW),
    "market_data.instruments": Method(VIEW, list[Instrument]),
    "market_data.snapshot": Method(VIEW, BookSnapshot),
    "analysis.history": Method(VIEW),
    "recorder.history": Method(VIEW),
    "execution.cancel": Method(TRADE, Order),
    "mesh.set_mode": Method(TRADE),  # and OPERATE to loosen
    "market_data.replay": Method(OPERATE),
}


def permit(method: str, params: Any, scope: Scope, mode: SystemMode, by: str) -> Any:
    """Return the argument to call *method* with. Raises NotFound, Invalid or Denied.

    mode: the one in force; by: who asks, written into what is journaled.
    """
    found = METHODS.get(method)
    if found is None:
        raise NotFound(f"no method {method[:80]!r} for clients")
    needed = found.scope
    if method == "mesh.set_mode":
        wanted, params = _mode_change(params, by)
        needed = mode_scope(wanted=wanted.severity, current=mode.severity)
    if not scope.covers(needed):
        raise Denied(f"{method} takes scope {needed}, this token has {scope}")
    return params


def readable(method: str, payload: bytes) -> Any:
    """Return a reply as plain maps. Raises RemoteProtocolError if it is not what it should be."""
    try:
        return plain(msgspec.msgpack.decode(payload, type=METHODS[method].reply))
    except (msgspec.MsgspecError, MeshError) as error:
        raise RemoteProtocolError(f"{method} answered what cannot be read: {error}") from error


def _mode_change(params: Any, by: str) -> tuple[SystemMode, dict[str, str]]:
    if not isinstance(params, dict):
        raise Invalid("mesh.set_mode takes {mode, reason}")
    try:
        wanted = SystemMode(str(params.get("mode")).lower())
    except ValueError:
        raise Invalid(f"mode is one of {', '.join(SystemMode)}") from None
    return wanted, {"mode": wanted.value, "reason": str(params.get("reason", ""))[:200], "by": by}
