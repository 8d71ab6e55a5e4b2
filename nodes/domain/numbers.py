"""Decimals: made in one place, bounded, exact; printed in one spelling.

Never here: floats, rounding without being asked.
"""

import re
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DecimalException,
    Inexact,
    InvalidOperation,
    Overflow,
    Rounded,
    Subnormal,
)
from typing import Final

from mesh.errors import Invalid

ZERO: Final = Decimal(0)

_BOUNDS: Final = Context(
    prec=38, Emax=19, Emin=-18, traps=[InvalidOperation, Overflow, Inexact, Rounded, Subnormal]
)
_FINEST: Final = Decimal("1E-18")
EXACT: Final = Context(prec=76, traps=[InvalidOperation, Overflow, Inexact])
_PLAIN: Final = re.compile(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?", re.ASCII)
_VENUE: Final = re.compile(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,18})?([eE]-?[0-9]{1,2})?", re.ASCII)


def bounded(value: Decimal) -> Decimal:
    """Return *value* if it is finite, <= 38 digits, < 10^20 and no finer than 10^-18.

    Any zero becomes ZERO and no exponent is positive. Raises Invalid otherwise.
    """
    if type(value) is not Decimal or not value.is_finite():
        raise Invalid(f"not a finite decimal: {str(value)[:40]}")
    if not value:
        return ZERO
    try:
        _BOUNDS.quantize(value, _FINEST)  # traps what is too large, too long or too fine
    except DecimalException:
        raise Invalid(f"decimal out of bounds: {str(value)[:40]}") from None
    return EXACT.add(value, ZERO)  # adding zero spells 1E+5 as 100000 and keeps 1.50


def parse(text: str) -> Decimal:
    """Return the decimal written in *text*, plain ASCII notation only. Raises Invalid."""
    if not isinstance(text, str) or not _PLAIN.fullmatch(text):
        raise Invalid(f"not a plain decimal: {str(text)[:40]!r}")
    return Decimal(text) or ZERO  # in bounds by its form


def parse_venue(text: str) -> Decimal:
    """Return the decimal that a venue or CSV wrote, exponents allowed. Raises Invalid."""
    if not isinstance(text, str) or not (match := _VENUE.fullmatch(text)):
        raise Invalid(f"not a decimal: {str(text)[:40]!r}")
    value = Decimal(text)
    return bounded(value) if match[3] else value or ZERO  # plain text is in bounds by its form


def canon(value: Decimal) -> str:
    """Return the one spelling of *value*: plain, no trailing zeros, no exponent."""
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def mul(a: Decimal, b: Decimal) -> Decimal:
    """Return a * b exactly. Raises Inexact above 76 digits."""
    return EXACT.multiply(a, b)


def add(a: Decimal, b: Decimal) -> Decimal:
    """Return a + b exactly. Raises Inexact above 76 digits."""
    return EXACT.add(a, b)


def ratio(a: Decimal, b: Decimal, places: int = 12) -> Decimal:
    """Return a / b rounded half-even to *places*; the only division of money."""
    context = Context(prec=76, rounding=ROUND_HALF_EVEN)
    return context.quantize(context.divide(a, b), Decimal(1).scaleb(-places))


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of *step* that is not above *value* (value >= 0)."""
    return EXACT.multiply(EXACT.divide_int(value, step), step) if step else value


def is_multiple(value: Decimal, step: Decimal) -> bool:
    """Say whether *value* lies on the grid of *step*; a zero step is no grid."""
    return not step or not EXACT.remainder(value, step)
