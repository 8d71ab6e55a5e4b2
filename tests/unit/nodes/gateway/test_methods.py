"""Methods: what a client may call is a list, and its scope decides.

Never here: calls.
"""

from decimal import Decimal

import msgspec
import pytest

from mesh.errors import Denied, Invalid, NotFound, RemoteProtocolError
from mesh.protocol.mode import EMERGENCY, NORMAL, SAFE, SystemMode
from mesh.protocol.tokens import OPERATE, TRADE, VIEW, Scope
from nodes.domain.market import BookSnapshot
from nodes.gateway.methods import METHODS, permit, readable


def test_orders_cannot_be_slipped_past_risk() -> None:
    with pytest.raises(NotFound):
        permit("execution.submit", {}, OPERATE, NORMAL, "me")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_wants_its_scope(method: str) -> None:
    params = {"mode": "normal"}
    assert permit(method, params, OPERATE, NORMAL, "me") is not None
    if METHODS[method].scope is not VIEW:
        with pytest.raises(Denied):
            permit(method, params, VIEW, NORMAL, "me")


@pytest.mark.parametrize(
    ("scope", "current", "wanted", "fine"),
    [
        (VIEW, NORMAL, "safe", False),
        (TRADE, NORMAL, "EMERGENCY", True),
        (TRADE, EMERGENCY, "safe", False),
        (OPERATE, EMERGENCY, "safe", True),
        (TRADE, SAFE, "safe", True),
    ],
)
def test_trade_tightens_and_operate_loosens(
    scope: Scope, current: SystemMode, wanted: str, fine: bool
) -> None:
    if fine:
        argument = permit("mesh.set_mode", {"mode": wanted}, scope, current, "me")
        assert argument == {"mode": wanted.lower(), "reason": "", "by": "me"}
    else:
        with pytest.raises(Denied):
            permit("mesh.set_mode", {"mode": wanted}, scope, current, "me")


def test_client_cannot_say_who_it_is() -> None:
    params = {"mode": "safe", "by": "coordinator", "reason": "x"}
    assert permit("mesh.set_mode", params, TRADE, NORMAL, "me")["by"] == "me"


@pytest.mark.parametrize("params", [None, [], {}, {"mode": "fast"}, {"mode": None}])
def test_odd_modes_are_invalid(params: object) -> None:
    with pytest.raises(Invalid):
        permit("mesh.set_mode", params, OPERATE, NORMAL, "me")


def test_typed_replies_become_maps_with_decimals_as_text() -> None:
    book = BookSnapshot("BTC-USDT.X", 7, ((Decimal("1.10"), Decimal(2)),), ())
    reply = readable("market_data.snapshot", msgspec.msgpack.encode(book))
    assert reply["bids"] == [["1.1", "2"]]
    assert reply["instrument"] == "BTC-USDT.X"


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x01"])
def test_unreadable_reply_is_the_nodes_fault(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        readable("market_data.snapshot", payload)
