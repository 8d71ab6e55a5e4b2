"""The gate: the last look at an approved intent before it may reach a venue.

It trusts its own books, not risk's: the mode is read here again, and whether an order reduces
is judged on execution's own position.

Never here: limits, journal.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from mesh.protocol.mode import SystemMode
from nodes.domain.decisions import ApprovedIntent
from nodes.domain.market import BUY
from nodes.domain.numbers import ZERO, add
from nodes.domain.orders import OrderIntent

NORMAL = SystemMode.NORMAL
SAFE = SystemMode.SAFE


class Closed(NamedTuple):
    """Why the gate is closed: a code for programs, a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What the gate looks at; quantities in base, of the intent's strategy and instrument."""

    caller: str
    mode: SystemMode
    now: int  # ns
    age_max_ns: int
    account: str
    held: Decimal = ZERO  # signed
    working: Decimal = ZERO  # remaining of working orders on the intent's side


def reduces(intent: OrderIntent, held: Decimal, working: Decimal) -> bool:
    """Say whether *intent*, with all working same-side orders, neither grows nor flips *held*."""
    opposite = held < 0 if intent.side is BUY else held > 0
    return opposite and add(working, intent.quantity) <= held.copy_abs()


def closed_to(approved: ApprovedIntent, scene: Scene) -> Closed | None:
    """Return why *approved* may not be sent, or None."""
    intent, decision = approved.intent, approved.decision
    if scene.caller != "risk":
        return Closed("NOT_RISK", f"{scene.caller} may not submit orders, only risk may")
    if intent.account != scene.account:
        return Closed("NOT_OWNER", f"account {intent.account!r} is not served here")
    if not decision.approved or (decision.client_order_id, decision.strategy) != (
        intent.client_order_id,
        intent.strategy,
    ):
        return Closed("APPROVAL_MISMATCH", "the approval does not cover this intent")
    age = scene.now - decision.ts_decided
    if not (-scene.age_max_ns <= age <= scene.age_max_ns):  # wall clocks may step back as well
        return Closed("APPROVAL_EXPIRED", f"the approval is {age // 1_000_000} ms old")
    return mode_closed_to(intent, scene)


def mode_closed_to(intent: OrderIntent, scene: Scene) -> Closed | None:
    """Return why the mode forbids *intent*: EMERGENCY all of them, SAFE what does not reduce."""
    reducing = reduces(intent, scene.held, scene.working)
    if intent.reduce_only and not reducing:
        return Closed("REDUCE_ONLY", "the order would grow or flip the position")
    if scene.mode is NORMAL or (scene.mode is SAFE and reducing):
        return None
    return Closed("MODE_BLOCKED", f"mode {scene.mode.value} forbids this order")
