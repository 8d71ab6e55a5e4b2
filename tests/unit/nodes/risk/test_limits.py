"""Checks: each denies by its own code, in the order in which they are listed."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from mesh.protocol.mode import SystemMode
from nodes.domain.decisions import Limits
from nodes.domain.instruments import Instrument, InstrumentStatus
from nodes.domain.market import BUY, SELL, Quote
from nodes.domain.orders import OrderIntent, OrderKind
from nodes.risk.limits import CHECKS, View, first_denial, reduces

BTC = "BTC-USDT.BINANCE"
LIMITS = Limits(Decimal(1_000), Decimal(2_000), 3, 200, 2_000)
INSTRUMENT = Instrument(
    symbol=BTC,
    venue_symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    tick=Decimal("0.5"),
    lot=Decimal("0.1"),
    quantity_min=Decimal("0.2"),
    quantity_max=Decimal(50),
    notional_min=Decimal(25),
)
QUOTE = Quote(BTC, Decimal(99), Decimal(1), Decimal(101), Decimal(1))
VIEW = View(
    mode=SystemMode.NORMAL, ready=True, instrument=INSTRUMENT, quote=QUOTE, quote_age_ms=10
)
INTENT = OrderIntent(
    client_order_id="s-1-1",
    strategy="s",
    epoch=1,
    account="paper",
    instrument=BTC,
    side=BUY,
    kind=OrderKind.LIMIT,
    quantity=Decimal(5),
    price=Decimal(100),
)


def code(view: View = VIEW, **changes: Any) -> str:
    deny = first_denial(msgspec.structs.replace(INTENT, **changes), view, LIMITS)
    return deny.code if deny else ""


def view(**changes: Any) -> View:
    return replace(VIEW, **changes)


def with_instrument(**changes: Any) -> View:
    return view(instrument=msgspec.structs.replace(INSTRUMENT, **changes))


def test_good_intent_passes() -> None:
    assert code() == ""
    assert code(kind=OrderKind.MARKET, price=Decimal(0)) == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quantity": Decimal(0)}, "BAD_NUMBER"),
        ({"quantity": Decimal(-1)}, "BAD_NUMBER"),
        ({"price": Decimal(0)}, "BAD_NUMBER"),
        ({"kind": OrderKind.MARKET}, "BAD_NUMBER"),
        ({"kind": OrderKind.STOP_LIMIT}, "KIND_UNSUPPORTED"),
        ({"price": Decimal("100.1")}, "PX_TICK"),
        ({"quantity": Decimal("5.01")}, "QTY_LOT"),
        ({"quantity": Decimal("0.1")}, "QTY_MIN"),
        ({"quantity": Decimal("50.1")}, "QTY_MAX"),
        ({"quantity": Decimal("0.2")}, "NOTIONAL_MIN"),
        ({"quantity": Decimal("10.1")}, "NOTIONAL_MAX"),
        ({"price": Decimal("102.5")}, "COLLAR"),
        ({"price": Decimal("97.5")}, "COLLAR"),
        ({"reduce_only": True}, "REDUCE_ONLY"),
    ],
)
def test_intent_is_denied_by_code(changes: dict[str, Any], expected: str) -> None:
    assert code(**changes) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (view(known=msgspec.structs.replace(INTENT, quantity=Decimal(1))), "ID_CONFLICT"),
        (view(known=INTENT), ""),
        (view(mode=SystemMode.SAFE), "MODE_BLOCKED"),
        (view(mode=SystemMode.SAFE, held=Decimal(-9), reported=Decimal(-9)), ""),
        (view(mode=SystemMode.SAFE, held=Decimal(-9)), "MODE_BLOCKED"),
        (view(mode=SystemMode.EMERGENCY, held=Decimal(-9)), "MODE_BLOCKED"),
        (view(ready=False), "NOT_READY"),
        (view(instrument=None), "UNKNOWN_INSTRUMENT"),
        (with_instrument(status=InstrumentStatus.HALTED), "INSTRUMENT_STATUS"),
        (with_instrument(status=InstrumentStatus.POST_ONLY), "INSTRUMENT_STATUS"),
        (with_instrument(status=InstrumentStatus.REDUCE_ONLY), "INSTRUMENT_STATUS"),
        (with_instrument(quantity_max=Decimal(0)), ""),
        (view(quote=None), "NO_MARK"),
        (view(quote_age_ms=2_001), "STALE_BOOK"),
        (view(quote_age_ms=float("nan")), "STALE_BOOK"),
        (view(open_orders=3), "OPEN_ORDERS"),
        (view(held=Decimal(16)), "EXPOSURE_INSTRUMENT"),
        (view(reported=Decimal(16)), "EXPOSURE_INSTRUMENT"),
        (view(buying=Decimal(16)), "EXPOSURE_INSTRUMENT"),
        (view(selling=Decimal(30)), "EXPOSURE_INSTRUMENT"),
        (view(price_worst=Decimal(401)), "EXPOSURE_INSTRUMENT"),
        (view(held=Decimal(-30), reported=Decimal(-30)), ""),
    ],
)
def test_what_is_seen_is_denied_by_code(seen: View, expected: str) -> None:
    assert code(seen) == expected


def test_first_failing_check_answers() -> None:
    blind = View(mode=SystemMode.EMERGENCY, ready=False)
    assert code(blind, quantity=Decimal(0)) == "BAD_NUMBER"
    assert code(blind) == "MODE_BLOCKED"
    assert len(CHECKS) == len(set(CHECKS))


def test_reducing_needs_both_positions() -> None:
    sell = msgspec.structs.replace(INTENT, side=SELL)
    assert reduces(sell, view(held=Decimal(5), reported=Decimal(5)))
    assert not reduces(sell, view(held=Decimal(5), reported=Decimal(4)))
    assert not reduces(sell, view(held=Decimal(5), reported=Decimal(5), selling=Decimal(1)))
