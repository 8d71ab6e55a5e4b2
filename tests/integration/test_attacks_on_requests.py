"""Attacks on the request plane over real sockets: lies about who asks, replays, deadlines."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from mesh.errors import (
    Denied,
    Expired,
    OutcomeUnknown,
)
from mesh.protocol import access, envelope
from mesh.protocol.access import CLI, GUEST, Access, Grants
from mesh.protocol.control import Hello, Snapshot, SnapshotPage
from mesh.protocol.envelope import REP, REQ, Rpc
from mesh.protocol.rpcs import BYE, CANCEL
from tests.integration.rawnode import CLUSTER, RawCaller
from tests.integration.shops import Shop, requester, shop_and_caller

Eventually: TypeAlias = Callable[..., Awaitable[None]]
KEY = bytes(range(16))


async def test_a19_replayed_request_gets_the_stored_answer(
    mesh: Any, eventually: Eventually
) -> None:
    shop, _ = await shop_and_caller(mesh)
    body = envelope.encode_value(9)
    with RawCaller(mesh.directory.endpoint("shop", "r")) as caller:
        caller.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        await eventually(lambda: caller.welcomed)
        for corr in (1, 2, 3):
            rpc = Rpc(REQ, envelope.method_id("shop.sell"), corr, 1, body, 2_000, idem=KEY)
            caller.send(envelope.encode_rpc(rpc))
        await eventually(lambda: len([a for a in caller.heard() if a.kind is REP]) == 3)
        assert {a.body for a in caller.answers if a.kind is REP} == {body}
    assert shop.entered["sell"] == 1
    assert shop.sold() == [9]


async def test_a24_deadlines_absent_past_and_too_long(mesh: Any, eventually: Eventually) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    with RawCaller(mesh.directory.endpoint("shop", "r")) as raw:
        raw.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        await eventually(lambda: raw.welcomed)
        number = envelope.method_id("shop.read")
        for corr, budget_ms in ((1, 0), (2, 365 * 86_400_000 % 2**32)):
            rpc = Rpc(REQ, number, corr, 1, envelope.encode_value(1), budget_ms)
            raw.send(envelope.encode_rpc(rpc))
        await eventually(lambda: raw.codes == ["DEADLINE"])
        await eventually(lambda: shop.entered["read"] == 2)
        left = shop.left[-1]
        assert left is not None
        assert left <= 60.0
    with pytest.raises(Expired):
        await caller.call("shop.read", 1, int, timeout_s=-1.0)


async def test_a25_late_reply_is_dropped_and_counted(mesh: Any, eventually: Eventually) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    with pytest.raises(OutcomeUnknown):
        await caller.call("shop.pay", 1, int, timeout_s=0.05)
    late = requester(mesh).asking.late
    shop.gate.set()
    await eventually(lambda: requester(mesh).asking.late == late + 1)
    assert await caller.call("shop.pay", 2, int) == 2
    assert requester(mesh).asking.inflight == 0


async def test_a6_duplicate_routing_id_hears_nothing_cancels_nothing_and_takes_no_session(
    mesh: Any, eventually: Eventually
) -> None:
    shop, caller = await shop_and_caller(mesh)
    shop.gate.clear()
    reading = asyncio.ensure_future(caller.call("shop.read", 7, int, timeout_s=30.0))
    await eventually(lambda: shop.entered["read"] == 2)
    answering = mesh.running["shop"][0]._responder.answering
    (session,) = [s for s in answering.sessions.all() if s.caller.node == "caller"]
    (corr,) = session.open
    epoch, accepted = session.caller.epoch, mesh.doors["shop"].zap.accepted
    with RawCaller(mesh.directory.endpoint("shop", "r"), routing_id=session.peer) as thief:
        await eventually(lambda: mesh.doors["shop"].zap.accepted > accepted)
        thief.greet(Hello(CLUSTER, "thief", 1, 1), epoch)
        thief.ask("shop.pay", 1, epoch, corr=99)
        for kind in (CANCEL, BYE):
            thief.send(envelope.encode_rpc(Rpc(kind, 0, corr, epoch, b"")))
        for _ in range(50):
            assert await caller.call("shop.stop", None, str, timeout_s=10.0) == "stopped"
        assert not reading.done()
        shop.gate.set()
        assert await reading == 7
        assert thief.heard() == []
    assert answering.sessions.get(session.peer) is session
    assert shop.entered == {"read": 2}
    answering.check()


async def test_a6_chosen_routing_id_begins_no_session(mesh: Any, eventually: Eventually) -> None:
    shop, _ = await shop_and_caller(mesh)
    with RawCaller(mesh.directory.endpoint("shop", "r"), routing_id=b"risk") as raw:
        raw.greet(Hello(CLUSTER, "raw", 1, 1), epoch=1)
        raw.ask("shop.pay", 1, epoch=1)
        await eventually(lambda: len(raw.heard()) == 2)
        assert raw.codes == ["DENIED", "UNKNOWN_SESSION"]
    assert shop.entered["pay"] == 0


async def test_a7_nobody_greets_by_another_name(mesh: Any, eventually: Eventually) -> None:
    mesh.is_node = access.is_node
    await mesh.start("shop", Shop())
    address = mesh.directory.endpoint("shop", "r")
    for name, welcome in (("risk", False), ("shop", False), ("cli.4711", True)):
        with RawCaller(address) as caller:
            caller.greet(Hello(CLUSTER, name, 1, 1), epoch=1)
            await eventually(lambda c=caller: c.heard())
            assert caller.welcomed is welcome
            assert caller.codes == ([] if welcome else ["DENIED"])


async def test_a8_method_beyond_the_role_is_denied_by_every_way(
    mesh: Any, eventually: Eventually
) -> None:
    may = Grants(sub=("t.open.",), call=("shop.read", "mesh."))
    mesh.access = Access({CLI: may, GUEST: may})
    shop, caller = await shop_and_caller(mesh)
    with pytest.raises(Denied):
        await caller.call("shop.pay", 1, int)
    with pytest.raises(Denied):
        await caller.request("shop", "shop.pay", 1)
    assert await caller.request("shop", "shop.read", 1) == 1
    assert shop.entered["pay"] == 0
    ask = Snapshot(("t.sold.",))
    with pytest.raises(Denied):
        await caller.call("mesh.snapshot", ask, SnapshotPage, target="shop")
    both = Snapshot(("t.open.", "t.sold."))
    assert await caller.call("mesh.snapshot", both, SnapshotPage, target="shop") == SnapshotPage(
        ()
    )
