"""Files of a run or an evaluation, each checked as it is read."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.errors import RunFolderError
from benchmarks.evaluation.records import (
    EPISODE,
    EVALUATED,
    FAULT,
    METRICS,
    STANDING,
    TRAINING,
    Record,
    check,
    is_number,
    read_json,
)
from retrieval.corpus import jsonl
from retrieval.storage.files import require_file

_log = logging.getLogger(__name__)


def read_settings(path: Path) -> tuple[str, Record]:
    """Return text and content of a run's configuration.

    Args:
        path: The file.

    Raises:
        RunFolderError: If it is no configuration.
    """
    try:
        require_file(path)
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: expected TOML, found: {error}; restore the file") from error
    algorithm = settings.get("algorithm")
    chains = ("initial_chains", "chains")
    if not isinstance(algorithm, dict) or not all(is_number(algorithm.get(n, 0)) for n in chains):
        raise RunFolderError(
            f"{path}: expected a table [algorithm] whose chains are numbers, found "
            f"{algorithm!r:.80}; restore the file"
        )
    return text, settings


def read_status(path: Path) -> Record | None:
    """Return how a run stands, None if it does not say; a damaged record is as good as none.

    Args:
        path: The file.
    """
    if not path.exists():
        return None
    try:
        status = read_json(path, RunFolderError, STANDING.name)
        check(STANDING, status, STANDING.fields, str(path), RunFolderError)
        for fault in status["faults"]:
            check(FAULT, fault, FAULT.fields, str(path), RunFolderError)
    except (RunFolderError, OSError) as error:
        _log.warning("%s; the report leaves it out", error)
        return None
    return status


def read_summary(path: Path) -> Record:
    """Return the summary of a training run.

    Args:
        path: The file.

    Raises:
        RunFolderError: If it is none.
    """
    summary = read_json(path, RunFolderError, TRAINING.name)
    needed = ("algorithm", "env", "model", "seed", "steps", "sampled_tokens")
    check(TRAINING, summary, needed, str(path), RunFolderError)
    return summary


def read_lines(
    path: Path, checked: Callable[[Record, str], None], *, growing: bool = False
) -> list[Record]:
    """Return the objects in a file of JSON lines.

    Args:
        path: The file.
        checked: Refuses an object; it also gets file and line.
        growing: Whether a last line that was cut off while it was written is left out.

    Raises:
        RunFolderError: If a line is none, or was refused.
    """
    require_file(path)
    rows: list[Record] = []
    for number, line in jsonl.read_lines(path, RunFolderError):
        where = f"{path}:{number}"
        try:
            row = jsonl.object_of(line, where, "a JSON object in each line", RunFolderError)
        except RunFolderError:
            if growing and not line.endswith(b"\n"):
                break
            raise
        checked(row, where)
        rows.append(row)
    return rows


def check_metrics(row: Record, where: str) -> None:
    """Refuse what are no metrics of a step; arguments as of `check`."""
    needed = EVALUATED if "eval/em" in row else ()
    check(METRICS, row, ("step", *needed), where, RunFolderError)


def check_episode(record: Any, where: str) -> None:
    """Refuse what is no record of an episode; arguments as of `check`."""
    needed = ("question_key", "question", "golden_answers", "em", "transcript")
    check(EPISODE, record, needed, where, RunFolderError)
