"""The calculator: exact arithmetic on an expression that is read, never executed."""

from __future__ import annotations

import ast
import decimal
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from at2po_envs.errors import At2poEnvError
from at2po_envs.tools.base import ToolResult, ToolSpec

CALCULATOR = ToolSpec(
    "calculator",
    "Calculates exactly with + - * / // % ** and parentheses; 15% is 15/100.",
    {
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "What to calculate, in numbers."}
        },
        "required": ["expression"],
    },
)

MAX_CHARACTERS = 500
"""Longest expression."""

MAX_BITS = 4096
"""Largest numerator, denominator and power, about 1,200 digits."""

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "^": "**", "$": None})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# A percent sign is one unless a number or a parenthesis follows, which makes it a remainder.
# Possessive and from the start of a number on, so that a long one is read once.
_PERCENT = re.compile(r"(?<![0-9.])([0-9]++\.?[0-9]*+|\.[0-9]++) ?%(?! ?[0-9.(])")
_FOREIGN = re.compile(r"[^0-9.+\-*/%() eE]")
_LITERAL = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")

_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class ExpressionError(At2poEnvError, ValueError):
    """An expression has no value, or none that the calculator may work out."""


@dataclass(frozen=True)
class CalculatorTool:
    """Calculates expressions; what cannot be calculated is answered with the reason."""

    spec: ClassVar[ToolSpec] = CALCULATOR
    batched: ClassVar[bool] = True

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Calculate each expression.

        Args:
            arguments: `{"expression": text}` for each.

        Returns:
            A result for each; `ok` even where the expression is bad, as the tool did its work.
        """
        return [ToolResult(True, self._answer(each.get("expression"))) for each in arguments]

    def _answer(self, expression: object) -> str:
        try:
            return written(calculate(str(expression)))
        except ExpressionError as error:
            return f"Cannot calculate: {error}."


def calculate(expression: str) -> Fraction:
    """Return the exact value of an expression.

    Args:
        expression: Numbers (`12`, `1,000`, `0.5`, `2e3`, `15%`), `+ - * / // % **` and
            parentheses; `×`, `÷`, `^`, `$` and `15% of 80` are understood too.

    Returns:
        Its value.

    Raises:
        ExpressionError: If it is malformed, divides by zero or is beyond the bounds.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ExpressionError(
            f"expected at most {MAX_CHARACTERS} characters, found {len(expression)}"
        )
    text = " ".join(expression.translate(_SIGNS).split())
    text = _PERCENT.sub(r"(\1/100)", _THOUSANDS.sub("", text)).replace("/100) of ", "/100) * ")
    if not text:
        raise ExpressionError("the expression is empty")
    foreign = _FOREIGN.search(text)
    if foreign:
        raise ExpressionError(
            "expected numbers, + - * / // % ** and parentheses, found "
            + foreign.group().encode("unicode_escape").decode("ascii")
        )
    try:
        return _value(ast.parse(text, mode="eval").body, text)
    except ZeroDivisionError:
        raise ExpressionError("it divides by zero") from None
    except (SyntaxError, RecursionError, MemoryError):
        raise ExpressionError("it is not well-formed; check operators and parentheses") from None


def written(value: Fraction) -> str:
    """Return a number as an integer or a finite decimal, else as fraction and rounded decimal."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest == 1 and places <= 30:
        digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
        return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
    with decimal.localcontext(decimal.Context(prec=12)):
        rounded = decimal.Decimal(value.numerator) / decimal.Decimal(value.denominator)
    fraction = f"{value.numerator}/{value.denominator}"
    return f"{fraction} (about {rounded})" if len(fraction) <= 60 else f"about {rounded}"


def _value(node: ast.expr, text: str) -> Fraction:
    """The value of a node of the syntax tree of `text`, which is ASCII."""
    match node:
        case ast.Constant():
            return _bounded(_literal(text[node.col_offset : node.end_col_offset]))
        case ast.UnaryOp(ast.UAdd(), operand):
            return _value(operand, text)
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand, text)
        case ast.BinOp(left, ast.Pow(), right):
            return _bounded(_power(_value(left, text), _value(right, text)))
        case ast.BinOp(left, sign, right) if type(sign) in _OPERATORS:
            first, second = _value(left, text), _value(right, text)
            return _bounded(Fraction(_OPERATORS[type(sign)](first, second)))
    raise ExpressionError("expected one expression of numbers and operators")


def _literal(number: str) -> Fraction:
    # Read from the text, because the syntax tree holds decimals as inexact floats.
    if not _LITERAL.fullmatch(number):
        raise ExpressionError(f"expected a number, found {number[:20]}")
    return Fraction(number)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ExpressionError("expected a whole number as exponent")
    if _bits(base) * abs(exponent) > MAX_BITS and base not in (0, 1, -1):
        raise ExpressionError("a power is too large")
    # The bases that any exponent leaves small need no more than its parity and its sign.
    sign = -1 if exponent < 0 else 1
    small = exponent if base not in (0, 1, -1) else sign * (2 - exponent % 2 if exponent else 0)
    return Fraction(base ** int(small))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise ExpressionError("a number is too large")
    return value
