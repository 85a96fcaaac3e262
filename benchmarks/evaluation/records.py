"""What evaluations and runs left in files, checked as it is read: damage has a file and a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.storage.files import require_file

Record = Mapping[str, Any]
Test = Callable[[Any], bool]

_MOST = 1e18  # beyond all figures of ours; infinities and what is not a number are beyond it, too
_YEAR_9999 = 253_370_764_800  # in seconds since 1970; no date comes later


class Kind(NamedTuple):
    """What a record can be.

    Attributes:
        name: What it is, for messages.
        fix: What to do where it is damaged.
        fields: Fields that are read again, and the test of their values.
    """

    name: str
    fix: str
    fields: Mapping[str, Test]


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number, or true or false."""
    return isinstance(value, int | float) and abs(value) < _MOST


def _is(*kinds: type) -> Test:
    return lambda value: isinstance(value, kinds)


def _maybe(holds: Test) -> Test:
    return lambda value: value is None or holds(value)


def _all(holds: Test) -> Test:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _values(holds: Test) -> Test:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MOST


def _is_size(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_time(value: Any) -> bool:
    return is_number(value) and 0 <= value < _YEAR_9999


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not value > _MOST


def _each(names: str, holds: Test) -> dict[str, Test]:
    return dict.fromkeys(names.split(), holds)


EPISODE = Kind(
    "the record of an episode",
    "take the line out, and the evaluation plays that episode again",
    {
        **_each("question_key question_id question error", _is(str)),
        **_each("golden_answers flags", _all(_is(str))),
        "transcript": _all(_values(_is(str))),
        **_each("em f1 cover_em format_ok", _is_share),
        **_each("turns searches truncated limit_reached tokens prompt_tokens cost", is_number),
        "retrieval_recall": _maybe(_is_share),
    },
)

SUMMARY = Kind(
    "the summary of an evaluation",
    "run the evaluation again with the same command",
    {
        **_each("env agent", _is(str)),
        "card": _is(dict),
        "failures": _is(list),
        **_each("questions tokens failed", _maybe(_is_count)),
        **_each("em f1 cover_em format_rate retrieval_recall", _maybe(_is_share)),
        **_each("searches turns", _maybe(is_number)),
        **_each("em_interval f1_interval cover_em_interval", _maybe(_is_interval)),
    },
)
TIMING = Kind("the times of an evaluation", "take the file away", {"sessions": _is(list)})
SESSION = Kind(
    "a session of an evaluation",
    "take the file away",
    {"started": _is(str), "seconds": is_number},
)
SUITE = Kind(
    "the summary of an evaluation of several sets",
    "run the evaluation again with the same command",
    {
        "agent": _is(str),
        **_each("questions failures", _is_count),
        **_each("sets micro macro", _is(dict)),
    },
)
TRAINING = Kind(
    "the summary of a training run",
    "restore the file",
    {
        **_each("algorithm env model", _is(str)),
        **_each("steps sampled_tokens", _is_count),
        "seconds": is_number,
    },
)
METRICS = Kind(
    "the metrics of a step",
    "restore the line, or take it out",
    {
        "step": _is_count,
        **_each("eval/em eval/f1 eval/format_rate", _is_share),
        **_each("eval/searches eval/turns", is_number),
        "eval/questions": _is_size,
        "rollout/em": _maybe(_is_share),
        "tokens/sampled": _maybe(is_number),
    },
)
EVALUATED = tuple(name for name in METRICS.fields if name.startswith("eval/"))
"""What the metrics of a step that was evaluated hold."""

STANDING = Kind(
    "how a run stands",
    "take the file away",
    {**_each("state why", _is(str)), "step": _is_count, "updated": _is_time, "faults": _is(list)},
)
FAULT = Kind(
    "what happened to a run",
    "take the file away",
    {"time": _is_time, "step": _is_count, **_each("actor what done", _is(str))},
)
TREE = Kind("a rollout tree", "take the line out", {"nodes": _is(list)})
NODE = Kind(
    "a node of a rollout tree",
    "take the line out",
    {
        "parent": _maybe(_is_count),
        **_each("action observation", _is(str)),
        "inserted": _is(list),
        "logprobs": _all(_is_logprob),
        **_each("surprisal value advantage row_advantage reward", _maybe(_is(int, float))),
        "info": _is(dict),
    },
)
"""Figures of a node may be infinite or no numbers: a page says so then."""

ASKED = Kind(
    "the question of a rollout tree",
    "take the line out",
    {"question": _is(str), "golden_answers": _all(_is(str))},
)
ENDED = Kind("the end of an episode", "take the line out", {"flags": _is(list)})


def check(
    kind: Kind, record: Any, needed: Iterable[str], where: str, error: type[Exception]
) -> None:
    """Refuse a record that lacks a field, or has one of another type.

    Args:
        kind: What it should be.
        record: What was read.
        needed: Fields that must be there, and not null; the others are tested where they are.
        where: File, or file and line, for the message.
        error: Class of the error to raise.

    Raises:
        Exception: As `error`.
    """
    if not isinstance(record, Mapping):
        found = f"a JSON {type(record).__name__}"
    elif missing := [name for name in needed if record.get(name) is None]:
        found = f"no {missing[0]}"
    elif wrong := [n for n, holds in kind.fields.items() if n in record and not holds(record[n])]:
        found = f"{wrong[0]} = {record[wrong[0]]!r:.80}"
    else:
        return
    raise error(f"{where}: expected {kind.name}, found {found}; {kind.fix}")


def parsed(text: bytes, where: str, error: type[Exception], expected: str) -> dict[str, Any]:
    """Return the JSON object that a text holds.

    Args:
        text: UTF-8.
        where: File, or file and line, for the message.
        error: Class of the error to raise.
        expected: What the text should be, for the message.

    Returns:
        The object.

    Raises:
        Exception: As `error`, if it holds anything else.
    """
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: expected {expected}, found {problem}; restore it") from None
    if not isinstance(value, dict):
        found = f"a JSON {type(value).__name__}"
        raise error(f"{where}: expected {expected}, found {found}; restore it")
    return value


def read_json(path: Path, error: type[Exception], expected: str) -> dict[str, Any]:
    """Return the JSON object in a file; arguments and errors are those of `parsed`."""
    require_file(path)
    return parsed(path.read_bytes(), str(path), error, f"JSON with {expected}")
