"""What evaluations and runs left in files, checked as it is read: damage has a file and a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

_MOST = 1e18  # beyond all figures of evaluations; not-a-number and infinities are beyond it, too


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number, or true or false."""
    return isinstance(value, int | float) and abs(value) < _MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_transcript(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict) and all(isinstance(text, str) for text in turn.values())
        for turn in value
    )


def _is_number_or_nothing(value: Any) -> bool:
    return value is None or is_number(value)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("question_key", "question_id", "question", "error"), _is_text),
    **dict.fromkeys(("golden_answers", "flags"), _is_texts),
    "transcript": _is_transcript,
    **dict.fromkeys(("em", "f1", "cover_em", "format_ok", "turns", "searches"), is_number),
    **dict.fromkeys(("truncated", "limit_reached"), is_number),
    **dict.fromkeys(("tokens", "prompt_tokens", "cost"), is_number),
    "retrieval_recall": _is_number_or_nothing,
}
"""Fields of an episode's record that are read again, and the test of their values."""

ADDED_UP = tuple(name for name in _FIELDS if name not in ("question", "golden_answers"))
"""Fields that an evaluation needs to add an episode up."""

FIGURES = tuple(
    "em f1 cover_em format_rate retrieval_recall searches turns questions tokens".split()
)
"""Figures of a summary that reports show, beside their `_interval`s."""


def parsed(text: bytes, where: str, error: type[ValueError], expected: str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Args:
        text: UTF-8.
        where: File, or file and line, for the message.
        error: Class of the error to raise.
        expected: What the text should be, for the message.

    Returns:
        The object.

    Raises:
        ValueError: As `error`, if it holds anything else.
    """
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: expected {expected}, found {problem}; restore it") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise error(f"{where}: expected {expected}, found a JSON {kind}; restore it")
    return value


def read_json(path: Path, error: type[ValueError], expected: str = "JSON") -> dict[str, Any]:
    """Return the JSON object in a file; arguments and errors are those of `parsed`."""
    return parsed(path.read_bytes(), str(path), error, expected)


def checked_episode(
    record: Record, needed: Iterable[str], where: str, error: type[ValueError]
) -> None:
    """Refuse the record of an episode that lacks a field, or has one of another type.

    Args:
        record: What was read.
        needed: Names of the fields that it must have; others that are known must have their type.
        where: File and line, for the message.
        error: Class of the error to raise.

    Raises:
        ValueError: As `error`.
    """
    missing = next((name for name in needed if name not in record), None)
    wrong = missing or next(
        (name for name, holds in _FIELDS.items() if name in record and not holds(record[name])),
        None,
    )
    if wrong is not None:
        found = f"no {wrong}" if missing else f"{wrong} = {record[wrong]!r:.80}"
        raise error(
            f"{where}: expected the record of an episode, found {found}; take the line out, "
            "and the evaluation plays that episode again"
        )


def checked_figures(
    summary: Record, needed: Iterable[str], where: str, error: type[ValueError]
) -> None:
    """Refuse a summary that lacks a field, or whose figures are no finite numbers.

    Args:
        summary: Figures by name, with intervals.
        needed: Names that must be there.
        where: The file, for the message.
        error: Class of the error to raise.

    Raises:
        ValueError: As `error`.
    """
    wrong = [name for name in needed if summary.get(name) is None]
    for name in FIGURES:
        low_high = summary.get(f"{name}_interval", [0, 0])
        pair = isinstance(low_high, list) and len(low_high) == 2 and all(map(is_number, low_high))
        wrong += [] if pair and _is_number_or_nothing(summary.get(name)) else [name]
    if wrong:
        raise error(
            f"{where}: expected the summary of an evaluation, found {wrong[0]} = "
            f"{summary.get(wrong[0])!r:.80}; run the evaluation again with the same command"
        )
