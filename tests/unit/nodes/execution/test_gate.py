"""Gate: only risk, only what was approved, only lately, and only what the mode allows."""

from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest

from mesh.protocol.mode import SystemMode
from nodes.domain.decisions import ApprovedIntent, RiskDecision
from nodes.domain.market import SELL
from nodes.domain.orders import OrderIntent, OrderKind
from nodes.execution.gate import Scene, closed_to, mode_closed_to, reduces

INTENT = OrderIntent(
    client_order_id="s-1-1",
    strategy="s",
    epoch=1,
    account="paper",
    instrument="BTC-USDT.BINANCE",
    side=SELL,
    kind=OrderKind.MARKET,
    quantity=Decimal(2),
)
APPROVED = ApprovedIntent(INTENT, RiskDecision("s-1-1", "s", True, ts_decided=1_000))
SCENE = Scene(caller="risk", mode=SystemMode.NORMAL, now=1_500, age_max_ns=1_000, account="paper")


def code(approved: ApprovedIntent, scene: Scene) -> str:
    closed = closed_to(approved, scene)
    return closed.code if closed else ""


def test_fresh_approval_of_risk_passes() -> None:
    assert code(APPROVED, SCENE) == ""


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (replace(SCENE, caller="strategy"), "NOT_RISK"),
        (replace(SCENE, account="other"), "NOT_OWNER"),
        (replace(SCENE, now=2_001), "APPROVAL_EXPIRED"),
        (replace(SCENE, now=-1), "APPROVAL_EXPIRED"),
        (replace(SCENE, mode=SystemMode.SAFE), "MODE_BLOCKED"),
        (replace(SCENE, mode=SystemMode.EMERGENCY, held=Decimal(5)), "MODE_BLOCKED"),
        (replace(SCENE, mode=SystemMode.SAFE, held=Decimal(2)), ""),
        (
            replace(SCENE, mode=SystemMode.SAFE, held=Decimal(3), working=Decimal(2)),
            "MODE_BLOCKED",
        ),
    ],
)
def test_gate_names_what_closed_it(scene: Scene, expected: str) -> None:
    assert code(APPROVED, scene) == expected


def test_approval_of_another_order_does_not_cover_this_one() -> None:
    other = RiskDecision("s-1-2", "s", True, ts_decided=1_000)
    refused = RiskDecision("s-1-1", "s", False, ts_decided=1_000)
    assert code(ApprovedIntent(INTENT, other), SCENE) == "APPROVAL_MISMATCH"
    assert code(ApprovedIntent(INTENT, refused), SCENE) == "APPROVAL_MISMATCH"


def test_reduce_only_may_not_grow() -> None:
    intent = msgspec.structs.replace(INTENT, reduce_only=True)
    closed = mode_closed_to(intent, SCENE)
    assert closed is not None
    assert closed.code == "REDUCE_ONLY"


@pytest.mark.parametrize(
    ("held", "working", "expected"), [(2, 0, True), (2, 1, False), (0, 0, False), (-5, 0, False)]
)
def test_reducing_is_neither_growing_nor_flipping(held: int, working: int, expected: bool) -> None:
    assert reduces(INTENT, Decimal(held), Decimal(working)) is expected
