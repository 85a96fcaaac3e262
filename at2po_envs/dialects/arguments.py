"""Tool arguments as models write them: JSON text, checked against the tool's schema."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

from at2po_envs.tools import ToolSpec

_SHOWN = 200
"""Most characters of a complaint, which may quote what the agent wrote."""


def read_json(text: str) -> Any:
    """Read JSON strictly: no NaN, no infinity, nothing that the parser cannot hold.

    Args:
        text: What the agent wrote.

    Returns:
        The value.

    Raises:
        ValueError: If the text is anything else.
    """
    text = text.strip()
    value, end = decode_json(text)
    if end < len(text):
        raise ValueError(f"there is more behind it: {text[end : end + 20]!r}")
    return value


def decode_json(text: str, start: int = 0) -> tuple[Any, int]:
    """Read the JSON value that begins at a position, as strictly as `read_json`.

    Args:
        text: What the agent wrote.
        start: Where the value begins.

    Returns:
        The value, and where it ends.

    Raises:
        ValueError: If no such value begins there.
    """
    try:
        return _DECODER.raw_decode(text, start)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number[:20]} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def argument_problem(tool: ToolSpec, arguments: Any) -> str:
    """Return why arguments do not fit a tool, or an empty string.

    Args:
        tool: The tool, with its JSON schema.
        arguments: What the agent gave, as read from JSON.

    Raises:
        ValueError: If the tool's schema is not a JSON schema, which is a fault of the tool.
    """
    if not isinstance(arguments, dict):
        return "its arguments are not a JSON object"
    try:
        message = _complaint(tool, arguments)
    except RecursionError:
        message = "its arguments are nested too deeply"
    if message:
        return message if len(message) <= _SHOWN else message[:_SHOWN] + "..."
    value = arguments.get(tool.argument) if tool.argument else None
    if isinstance(value, str) and is_blank(value):
        return f"the {tool.argument} is empty"
    return ""


def is_blank(query: str) -> bool:
    """Return whether a query has nothing to search for: quotation marks alone are nothing too."""
    return not query.replace('"', "").strip()


def _complaint(tool: ToolSpec, arguments: dict[str, Any]) -> str:
    from jsonschema.exceptions import best_match  # here: importing environments has to stay fast

    error = best_match(_validator(tool).iter_errors(arguments))
    return str(error.message) if error else ""


@lru_cache(maxsize=64)
def _validator(tool: ToolSpec) -> Any:
    import jsonschema

    schema = dict(tool.parameters)
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(
            f"expected a JSON schema as parameters of the tool {tool.name!r}, found one that is "
            f"not: {error.message}"
        ) from None
    return jsonschema.Draft202012Validator(schema)
