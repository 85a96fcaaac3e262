from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs.tools.calculator import (
    MAX_BITS,
    CalculatorTool,
    ExpressionError,
    calculate,
    written,
)


def answer(expression):
    (result,) = CalculatorTool()([{"expression": expression}])
    assert result.ok and not result.error
    return result.text


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 * 12", "84"),
        ("0.1 + 0.2", "0.3"),
        ("1/8", "0.125"),
        ("-1/8", "-0.125"),
        ("1/3", "1/3 (about 0.333333333333)"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2**-2", "0.25"),
        ("2^10", "1024"),
        ("-2**2", "-4"),
        ("2**3**2", "512"),
        ("(1 + 2) * (3 - 4.50)", "-4.5"),
        ("1,234,567 + 1", "1234568"),
        ("15%", "0.15"),
        ("15% of 80", "12"),
        ("200/50%", "400"),
        ("80 * 25% - 1", "19"),
        ("7 % 4", "3"),
        ("7 % (4)", "3"),
        ("$3.50 × 4", "14"),
        ("6 ÷ 4 − 1", "0.5"),
        ("2e3 + 1E-2", "2000.01"),
        ("  \n7\n+\n1 ", "8"),
        ("0**0", "1"),
        ("(-1)**99999999999999", "-1"),
        ("(-1)**-99999999999998", "1"),
        ("1**99999999999999", "1"),
        ("0**99999999999999", "0"),
        ("--3", "3"),
        ("0.12345678901234567890123 * 1", "0.12345678901234567890123"),
        ("1/3**200", "about 3.76486194960E-96"),
    ],
)
def test_what_it_calculates(expression, expected):
    assert answer(expression) == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "the expression is empty"),
        ("   ", "the expression is empty"),
        ("1/0", "it divides by zero"),
        ("1 % 0", "it divides by zero"),
        ("1 // (2 - 2)", "it divides by zero"),
        ("0**-1", "it divides by zero"),
        ("9**9**9", "a power is too large"),
        ("9**(9**9)", "a power is too large"),
        ("(1/9)**99999999", "a power is too large"),
        ("*".join(["9**400"] * 12), "a number is too large"),
        ("2**0.5", "expected a whole number as exponent"),
        ("1e9999", "it is not well-formed|expected a number"),
        ("1e", "it is not well-formed"),
        ("(1", "it is not well-formed"),
        ("1 2", "it is not well-formed"),
        ("(" * 400, "it is not well-formed"),
        ("2(3)", "expected one expression"),
        ("1" * 501, "expected at most 500 characters, found 501"),
        ("__import__('os').system('ls')", "expected numbers, .* found _"),
        ("x + 1", "found x"),
        ("0x1f", "found x"),
        ("3j", "found j"),
        ("1_000", "found _"),
        ("1 if 1 else 2", "found i"),
        ("[1][0]", r"found \["),
        ("1 < 2", "found <"),
        ("\u0663 + 1", r"found \\u0663"),
        ("\ud800", r"found \\ud800"),
        ("1\x00", r"found \\x00"),
    ],
)
def test_what_it_refuses_with_the_reason(expression, reason):
    with pytest.raises(ExpressionError, match=reason):
        calculate(expression)
    text = answer(expression)
    assert text.startswith("Cannot calculate: ") and text.endswith(".")
    text.encode("utf-8")


def test_an_argument_that_is_no_text_or_missing():
    assert [r.text for r in CalculatorTool()([{"expression": 7}, {}, {"expression": [1]}])] == [
        "7",
        "Cannot calculate: expected numbers, + - * / // % ** and parentheses, found N.",
        "Cannot calculate: expected numbers, + - * / // % ** and parentheses, found [.",
    ]


# Each of them would never end, or break the interpreter, were it worked out step by step.
@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("9**" * 166 + "9", "Cannot calculate: a power is too large."),
        ("(9**999)" + "*9**999" * 50, "Cannot calculate: a number is too large."),
        ("-" * 499 + "1", "-1"),
    ],
)
def test_bombs(expression, text):
    assert answer(expression) == text


@pytest.mark.parametrize("piece", ["1", "1.", "1 ", ".1", "1%", "1,000", "%", "1 %("])
def test_expressions_are_read_in_linear_time(piece):
    text = (piece * 500)[:500]
    for number in range(500):  # were it cubic, this would take a quarter of an hour
        CalculatorTool()([{"expression": text[number % 9 :]}])


SIGNS = st.sampled_from("+ - * / // %".split())
numbers = st.one_of(
    st.integers(0, 10**9).map(str),
    st.decimals(0, 10**6, places=3, allow_nan=False).map(str),
)
expressions = st.recursive(
    numbers,
    lambda inner: st.builds(
        lambda a, sign, b: f"({a} {sign} {b})",
        inner,
        st.sampled_from("+ - * / // %".split()),
        inner,
    ),
    max_leaves=8,
)


def exact(text):
    """The same by Python's own fractions; an integer divided by another would be a float."""
    text = re.sub(r"\d+(\.\d+)?", r'F("\g<0>")', text.replace("(", "F("))
    return eval(text, {"F": Fraction})


@given(expressions)
def test_it_agrees_with_fractions(text):
    try:
        expected = exact(text)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="divides by zero"):
            calculate(text)
        return
    if len(text) <= 500:
        assert calculate(text) == expected


@given(st.fractions())
def test_what_is_written_reads_back(value):
    text = written(value)
    if "about" not in text:
        assert Fraction(text) == value
        assert "." not in text or not text.endswith("0")
    elif text.startswith("about"):
        assert abs(Fraction(text.removeprefix("about ")) - value) <= abs(value) / 10**11
    else:
        assert Fraction(text.partition(" ")[0]) == value


@given(st.one_of(st.text(max_size=600), st.text("0123456789.+-*/%()eE ,^$", max_size=60)))
def test_any_text_has_an_answer(text):
    assert answer(text)


@given(st.text("0123456789.+-*/%() ", max_size=40))
def test_no_result_is_beyond_the_bounds(text):
    try:
        value = calculate(text)
    except ExpressionError:
        return
    assert max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS
