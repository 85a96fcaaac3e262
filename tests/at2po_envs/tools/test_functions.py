from __future__ import annotations

import pickle
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs.tools import ToolCall, ToolResult, call_tools
from at2po_envs.tools.functions import FunctionToolError, function_tool


def weather(
    town: str,
    days: int = 1,
    *,
    exact: bool = False,
    scale: float = 1.0,
    words: list[str] | None = None,
    note: Optional[str] = None,  # noqa: UP045 the older spelling has to work too
) -> str:
    """Tells the weather of a town.

    It never changes.

    Args:
        town: Name of the town.
        days (int): How many days ahead,
            counted from today.
        exact: Whether to be exact.

    Returns:
        town: not an argument.
    """
    return repr((town, days, exact, scale, words, note))


def call(tool, **arguments):
    (result,) = tool([arguments])
    return result


def test_the_schema_follows_from_the_function():
    spec = function_tool(weather).spec
    assert (spec.name, spec.description, spec.argument) == (
        "weather",
        "Tells the weather of a town.",
        "town",
    )
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "town": {"type": "string", "description": "Name of the town."},
            "days": {
                "type": "integer",
                "description": "How many days ahead, counted from today.",
                "default": 1,
            },
            "exact": {"type": "boolean", "description": "Whether to be exact.", "default": False},
            "scale": {"type": "number", "default": 1.0},
            "words": {"type": ["array", "null"], "items": {"type": "string"}},
            "note": {"type": ["string", "null"]},
        },
        "required": ["town"],
    }


def test_it_is_called_once_a_call_with_fitting_types():
    tool = function_tool(weather)
    assert tool.batched is False
    assert call(tool, town="Oslo").text == "('Oslo', 1, False, 1.0, None, None)"
    texts = {"days": "2", "exact": "True", "scale": "0.5", "words": '["a", "b"]', "note": "n"}
    assert call(tool, town="Oslo", **texts).text == "('Oslo', 2, True, 0.5, ['a', 'b'], 'n')"
    typed = {"days": 2.0, "exact": True, "scale": 1, "words": ["a"], "note": None}
    assert call(tool, town=7, **typed).text == "('7', 2, True, 1.0, ['a'], None)"
    assert call(tool, town="Oslo", words="a", scale=0).text.endswith("0.0, ['a'], None)")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "needs 'town'; its arguments: town, days, exact, scale, words, note."),
        ({"town": "O", "day": 1}, "has no argument 'day'; its arguments: town"),
        ({"town": "O", "days": "two"}, "expected days to be of type integer, found 'two'"),
        ({"town": "O", "days": 1.5}, "expected days to be of type integer, found 1.5"),
        ({"town": "O", "days": True}, "expected days to be of type integer, found True"),
        ({"town": "O", "days": None}, "expected days to be of type integer, found None"),
        ({"town": "O", "days": float("inf")}, "expected days to be of type integer, found inf"),
        ({"town": "O", "exact": "perhaps"}, "expected exact to be of type boolean"),
        ({"town": "O", "scale": "x"}, "expected scale to be of type number"),
        ({"town": "O", "scale": False}, "expected scale to be of type number"),
        ({"town": None}, "expected town to be of type string, found None"),
        ({"town": "O", "words": [{}]}, "expected words to be of type string, found {}"),
    ],
)
def test_arguments_that_do_not_fit_are_answered_with_the_reason(arguments, reason):
    result = call(function_tool(weather), **arguments)
    assert result.ok and reason in result.text and result.text.startswith("The weather tool ")


def fails(number: int) -> int:
    """Divides by a number."""
    return 1 // number


def titled() -> ToolResult:
    """Returns a result of its own."""
    return ToolResult(True, "text", titles=("A",))


def test_what_the_function_returns_or_raises():
    tools = {tool.spec.name: tool for tool in (function_tool(fails), function_tool(titled))}
    calls = [ToolCall("fails", {"number": n}) for n in (1, 0)] + [ToolCall("titled")]
    one, failed, own = call_tools(tools, calls)
    assert (one.ok, one.text) == (True, "1")
    assert (failed.ok, failed.error) == (False, "The fails tool failed. Try again.")
    assert own == ToolResult(True, "text", titles=("A",))


def no_docstring(number: int) -> int:
    return number


def no_annotation(number):
    """Has none."""


def mapping(numbers: dict[str, int]) -> int:
    """Takes a mapping."""
    return 0


def either(number: int | str) -> int:
    """Takes two types."""
    return 0


def rest(*numbers: int) -> int:
    """Takes any number of them."""
    return 0


def answer(number: int) -> int:
    """Is named like a tag."""
    return 0


def CamelCase(number: int) -> int:  # noqa: N802
    """Is named like a class."""
    return 0


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (no_docstring, "no_docstring: expected a docstring .* found none; add one"),
        (no_annotation, r"no_annotation\(number\): expected .* found no annotation"),
        (mapping, r"mapping\(numbers\): expected .* found the annotation dict"),
        (either, r"either\(number\): expected .* found the annotation int | str"),
        (rest, r"rest: expected arguments that can be given by name, found \*numbers"),
        (answer, "not one of think, answer, result, found 'answer'"),
        (CamelCase, "lower-case letters, .* found 'CamelCase'"),
        (lambda number: number, "found '<lambda>'; define it with `def`"),
    ],
)
def test_functions_that_cannot_be_tools(function, reason):
    with pytest.raises(FunctionToolError, match=reason):
        function_tool(function)


def test_a_tool_of_a_module_pickles():
    tool = function_tool(weather)
    again = pickle.loads(pickle.dumps(tool))
    assert again == tool and call(again, town="Oslo") == call(tool, town="Oslo")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["town", "days", "exact", "scale", "words", "x"]), values))
def test_any_arguments_have_an_answer(arguments):
    assert call(function_tool(weather), **arguments).ok
