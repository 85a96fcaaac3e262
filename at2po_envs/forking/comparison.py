"""Finds the first place in which two structures differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

_SHOWN = 120


def difference(before: Any, now: Any, where: str = "", depth: int = 30) -> str | None:
    """Return where and how two values differ, None if they do not.

    Objects without an equality of their own are compared by their attributes, generators by their
    state, NaN equals NaN.

    Args:
        before: One value.
        now: The other.
        where: What the values are called.
        depth: Levels that are looked into; what lies deeper counts as equal.

    Returns:
        A phrase such as `"info['turns'] was 1, is 2"`.
    """
    if before is now or depth == 0:
        return None
    if type(before) is not type(now):
        return _said(where, before, now)
    if isinstance(before, np.random.Generator):
        return difference(before.bit_generator.state, now.bit_generator.state, f"{where} state")
    if isinstance(before, np.ndarray):
        same = np.array_equal(before, now, equal_nan=before.dtype.kind in "fc")
        return None if same and before.dtype == now.dtype else _said(where, before, now)
    if isinstance(before, Mapping):
        return _mappings(before, now, where, depth)
    if isinstance(before, str | bytes | Set):
        return None if before == now else _said(where, before, now)
    if isinstance(before, Sequence):
        if len(before) != len(now):
            return _said(where, before, now)
        pairs = zip(before, now, strict=True)
        return _first(
            difference(a, b, f"{where}[{i}]", depth - 1) for i, (a, b) in enumerate(pairs)
        )
    if "__eq__" in {name for kind in type(before).__mro__[:-1] for name in vars(kind)}:
        same = bool(before == now) or (before != before and now != now)
        return None if same else _within(before, now, where, depth) or _said(where, before, now)
    return _within(before, now, where, depth)


def _mappings(
    before: Mapping[Any, Any], now: Mapping[Any, Any], where: str, depth: int
) -> str | None:
    for key in [*before, *(key for key in now if key not in before)]:
        name = f"{where}[{key!r}]"
        if key not in now:
            return f"{name} was {before[key]!r:.{_SHOWN}}, is missing"
        if key not in before:
            return f"{name} was missing, is {now[key]!r:.{_SHOWN}}"
        if found := difference(before[key], now[key], name, depth - 1):
            return found
    return None


def _within(before: Any, now: Any, where: str, depth: int) -> str | None:
    old, new = _attributes(before), _attributes(now)
    names = [*old, *(name for name in new if name not in old)]
    return _first(
        difference(old.get(name), new.get(name), f"{where}.{name}", depth - 1) for name in names
    )


def _attributes(value: Any) -> dict[str, Any]:
    slots = (s for kind in type(value).__mro__ for s in getattr(kind, "__slots__", ()))
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return found | getattr(value, "__dict__", {})


def _first(found: Any) -> str | None:
    return next((each for each in found if each), None)


def _said(where: str, before: Any, now: Any) -> str:
    old, new = repr(before), repr(now)
    # Long texts are shown from shortly before the place where they part.
    part = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    start = max(0, part - 40)
    dots = "..." if start else ""
    old, new = (dots + text[start : start + _SHOWN] for text in (old, new))
    return f"{where} was {old}, is {new}"
