import sys
from decimal import Decimal, Inexact, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.errors import Invalid
from nodes.domain.numbers import (
    ZERO,
    add,
    bounded,
    canon,
    floor_to,
    is_multiple,
    mul,
    parse,
    parse_venue,
    ratio,
)

LARGEST = "9" * 20 + "." + "9" * 18

HOSTILE = [
    *("NaN", "sNaN", "-NaN", "Infinity", "-Infinity", "inf", "1E+999999", "1e5", "1E-8"),
    *("", " ", "1 ", " 1", "1\n", "+1", "--1", "-", ".", ".5", "5.", "-.5", "007", "00", "-00"),
    *("1_000", "1,5", "1.2.3", "0x10", "1f", "\u0663", "\uff11\uff12", "1\u066b5", "1\x00", "½"),
    "1" * 21,
    "0." + "0" * 18 + "1",
    "9" * 5_000,
    "1." + "0" * 5_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_text_that_is_no_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text)


@pytest.mark.parametrize("value", [1, 1.5, None, True, b"1", Decimal(1), ["1"]])
def test_only_text_is_parsed(value: object) -> None:
    with pytest.raises(Invalid):
        parse(value)  # type: ignore[arg-type]  # what a careless caller does
    with pytest.raises(Invalid):
        parse_venue(value)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    "text", [text for text in HOSTILE if text not in ("1e5", "1E-8")], ids=lambda t: ascii(t)[:20]
)
def test_venues_may_write_exponents_and_nothing_else_more(text: str) -> None:
    with pytest.raises(Invalid):
        parse_venue(text)


@pytest.mark.parametrize("text", ["1e99", "1E-19", "1E+5", "1e20", "1e-", "1e100", "5E-1_0"])
def test_exponents_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_venue(text)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [("3.844E-5", "0.00003844"), ("1e5", "100000"), ("0E-8", "0"), ("-0", "0"), ("1E-18", None)],
)
def test_venue_exponents_are_read_exactly(text: str, spelled: str | None) -> None:
    assert canon(parse_venue(text)) == (spelled or "0." + "0" * 17 + "1")


@pytest.mark.parametrize("text", ["0", "-0", "0.0", "-0.00000000"])
def test_every_zero_is_the_same_zero(text: str) -> None:
    assert parse(text) is ZERO
    assert bounded(Decimal(text)) is ZERO
    assert parse_venue(text) is ZERO


@pytest.mark.parametrize("text", [LARGEST, "-" + LARGEST, "0." + "0" * 17 + "1"])
def test_the_bounds_themselves_are_inside(text: str) -> None:
    assert canon(parse(text)) == text


@pytest.mark.parametrize(
    "value", ["NaN", "sNaN", "Infinity", "1E+20", "1E-19", "1.5E-18", "1E+999999", "1E-999999"]
)
def test_decimals_out_of_bounds_are_refused(value: str) -> None:
    with pytest.raises(Invalid):
        bounded(Decimal(value))


@pytest.mark.parametrize("value", [1, 1.0, "1", None])
def test_bounded_takes_decimals_only(value: object) -> None:
    with pytest.raises(Invalid):
        bounded(value)  # type: ignore[arg-type]  # what msgspec alone would let pass


def test_positive_exponents_are_written_out() -> None:
    assert bounded(Decimal("1E+19")).as_tuple().exponent == 0
    assert str(bounded(Decimal("-12E+3"))) == "-12000"


def test_refusals_show_at_most_forty_characters() -> None:
    with pytest.raises(Invalid) as refusal:
        parse("9" * 100_000)
    assert len(str(refusal.value)) < 100


@given(st.decimals(allow_nan=False, allow_infinity=False))
@example(Decimal("1.10"))
def test_what_is_bounded_comes_back_equal_and_is_spelled_back(value: Decimal) -> None:
    try:
        inside = bounded(value)
    except Invalid:
        return
    assert inside == value
    assert abs(inside) < 10**20
    assert parse(canon(inside)) == inside


@given(st.text(max_size=12) | st.from_regex(r"-?\d{1,21}(\.\d{0,19})?", fullmatch=True))
def test_whatever_parses_is_spelled_back_or_refused(text: str) -> None:
    try:
        value = parse(text)
    except Invalid:
        return
    assert parse(canon(value)) == value == Decimal(text)


def test_sums_and_products_are_exact_whatever_the_context() -> None:
    with localcontext() as context:
        context.prec = 3
        product = mul(Decimal("99999.99999"), Decimal("99999.99999"))
        total = add(Decimal(LARGEST), Decimal("-0." + "0" * 17 + "9"))
    assert str(product) == "9999999998.0000000001"
    assert canon(total) == LARGEST[:-1]


def test_a_product_that_does_not_fit_is_an_error_not_a_rounding() -> None:
    square = mul(Decimal(LARGEST), Decimal(LARGEST))
    with pytest.raises(Inexact):
        mul(square, Decimal("1.1"))


@pytest.mark.parametrize(
    ("a", "b", "places", "quotient"),
    [("1", "3", 4, "0.3333"), ("2", "3", 4, "0.6667"), ("0.5", "1", 0, "0"), ("1.5", "1", 0, "2")],
)
def test_ratio_rounds_half_to_even(a: str, b: str, places: int, quotient: str) -> None:
    assert ratio(Decimal(a), Decimal(b), places) == Decimal(quotient)


def test_floor_goes_down_to_the_grid() -> None:
    assert floor_to(Decimal("1.239"), Decimal("0.01")) == Decimal("1.23")
    assert floor_to(Decimal("0.009"), Decimal("0.01")) == 0
    assert floor_to(Decimal("1.239"), ZERO) == Decimal("1.239")


def test_multiples_lie_on_the_grid() -> None:
    assert is_multiple(Decimal("61837.63"), Decimal("0.01"))
    assert not is_multiple(Decimal("61837.635"), Decimal("0.01"))
    assert is_multiple(Decimal("0.1234567"), ZERO)


def test_reading_long_digits_does_not_depend_on_the_interpreters_limit() -> None:
    assert sys.get_int_max_str_digits() > 0
    with pytest.raises(Invalid):
        parse("1" * (sys.get_int_max_str_digits() + 1))
