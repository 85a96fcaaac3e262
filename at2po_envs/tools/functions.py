"""Tools made from plain typed Python functions."""

from __future__ import annotations

import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from at2po_envs.errors import At2poEnvError
from at2po_envs.tools.base import ToolResult, ToolSpec
from retrieval import RetrievalError

_TYPES: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESERVED = ("think", "answer", "result")
_ARGUMENT = re.compile(r"(\w+)(?: ?\([^)]*\))?: (.*)")
_SECTION = re.compile(r"[A-Z]\w+:")


class FunctionToolError(At2poEnvError, TypeError):
    """A function cannot be made into a tool as it is written."""


@dataclass(frozen=True)
class FunctionTool:
    """A function as a tool; it is called once a call, so a slow one delays only its own episode.

    Attributes:
        function: The function; one defined at the top of a module can be pickled.
        spec: What the agent is told about it.
    """

    function: Callable[..., Any]
    spec: ToolSpec

    batched: ClassVar[bool] = False

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Call the function for each set of arguments.

        Args:
            arguments: The arguments by name; texts are converted to the types that are annotated.

        Returns:
            What the function returns, as text; arguments that do not fit are answered with the
            reason, `ok` as the agent erred and not the tool.
        """
        return [self._call(each) for each in arguments]

    def _call(self, given: Mapping[str, Any]) -> ToolResult:
        schemas = self.spec.parameters["properties"]
        unknown = [name for name in given if name not in schemas]
        missing = [name for name in self.spec.parameters["required"] if name not in given]
        if unknown or missing:
            problem = f"has no argument {unknown[0]!r:.60}" if unknown else f"needs {missing[0]!r}"
            known = ", ".join(schemas) or "none"
            return ToolResult(True, f"The {self.spec.name} tool {problem}; its arguments: {known}.")
        try:
            fitting = {name: _fitted(value, schemas[name], name) for name, value in given.items()}
        except ValueError as error:
            return ToolResult(True, f"The {self.spec.name} tool was not called: {error}.")
        try:
            value = self.function(**fitting)
        except (At2poEnvError, RetrievalError) as error:
            # Of a tool in this package it would say that no episode can go well.
            raise RuntimeError(f"{self.spec.name} failed: {error}") from error
        return value if isinstance(value, ToolResult) else ToolResult(True, str(value))


def function_tool(function: Callable[..., Any]) -> FunctionTool:
    """Make a tool from a function: its name, its docstring and its annotations say everything.

    Args:
        function: Its arguments are `str`, `int`, `float`, `bool`, lists of one of these, or
            one of all these `| None`; the first line of its docstring describes it and the
            section `Args:` its arguments. It may return a `ToolResult` or anything that
            `str` turns into text. If it raises, the call has failed.

    Returns:
        The tool.

    Raises:
        FunctionToolError: If name, docstring or an annotation is missing or not of that kind.
    """
    name = getattr(function, "__name__", "")
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise FunctionToolError(
            f"expected a function with a name of lower-case letters, digits and _ that is not one "
            f"of {', '.join(_RESERVED)}, found {name or function!r}; define it with `def`"
        )
    lines = (inspect.getdoc(function) or "").splitlines()
    if not lines or not lines[0].strip():
        raise FunctionToolError(
            f"{name}: expected a docstring whose first line tells the agent what the function "
            "does, found none; add one"
        )
    hints = typing.get_type_hints(function)
    described = _described(lines)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise FunctionToolError(
                f"{name}: expected arguments that can be given by name, found {parameter}"
            )
        schema = _schema(hints.get(parameter.name), f"{name}({parameter.name})")
        if parameter.name in described:
            schema["description"] = described[parameter.name]
        if parameter.default is parameter.empty:
            required.append(parameter.name)
        elif parameter.default is not None:
            schema["default"] = parameter.default
        properties[parameter.name] = schema
    parameters = {"type": "object", "properties": properties, "required": required}
    return FunctionTool(function, ToolSpec(name, lines[0].strip(), parameters))


def _schema(annotation: Any, where: str) -> dict[str, Any]:
    """The JSON schema of an annotated type."""
    if annotation in _TYPES:
        return {"type": _TYPES[annotation]}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list and arguments[0] in _TYPES:
        return {"type": "array", "items": {"type": _TYPES[arguments[0]]}}
    others = [each for each in arguments if each is not types.NoneType]
    if origin in (typing.Union, types.UnionType) and len(others) == 1 < len(arguments):
        schema = _schema(others[0], where)
        return schema | {"type": [schema["type"], "null"]}
    found = "no annotation" if annotation is None else f"the annotation {annotation}"
    raise FunctionToolError(
        f"{where}: expected str, int, float, bool, a list of one of them, or one of these | None, "
        f"found {found}"
    )


def _described(lines: Sequence[str]) -> dict[str, str]:
    """The arguments' descriptions in the section `Args:` of a docstring."""
    described: dict[str, str] = {}
    current = ""
    start = next((i for i, line in enumerate(lines) if line.strip() == "Args:"), len(lines))
    for line in lines[start + 1 :]:
        if _SECTION.fullmatch(line.strip()) and not line.startswith(" "):
            break
        match = _ARGUMENT.fullmatch(line.strip())
        if match:
            current = match.group(1)
            described[current] = match.group(2).strip()
        elif current and line.strip():
            described[current] += " " + line.strip()
    return described


def _fitted(value: Any, schema: Mapping[str, Any], name: str) -> Any:
    """Return a value in the type of its schema; a text may stand for a value of any type."""
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "null" in kinds and value in (None, "null", "None"):
        return None
    kind = kinds[0]
    if kind == "array":
        return [_fitted(each, schema["items"], name) for each in _listed(value)]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if kind == "string" and (number or isinstance(value, str)):
            return str(value)
        if kind == "boolean" and str(value).strip().lower() in ("true", "false"):
            return str(value).strip().lower() == "true"
        if kind == "integer" and (isinstance(value, str) or (number and value == int(value))):
            return int(value)
        if kind == "number" and (number or isinstance(value, str)) and math.isfinite(float(value)):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"expected {name} to be of type {kind}, found {value!r:.60}")


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = [value]
    return value if isinstance(value, list) else [value]
