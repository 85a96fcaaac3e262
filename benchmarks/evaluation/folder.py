"""The folder of an evaluation: whose it is, and what is written beside the episodes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.errors import EvaluationError
from benchmarks.evaluation.card import differences
from benchmarks.evaluation.episode_log import FILE
from benchmarks.evaluation.records import SESSION, TIMING, check, parsed, read_json
from benchmarks.evaluation.summary import Report
from retrieval.storage.files import Held, require_file, write_whole

_log = logging.getLogger(__name__)

_CARD, _TIMING, _SUMMARY = "card.json", "timing.json", "summary.json"
_WRITTEN = (_SUMMARY, _TIMING, "report.html")
"""Files that are written after the card, and never without one."""


class EvaluationFolder:
    """Where an evaluation is kept, held by this process.

    Args:
        path: The folder.
        card: What is evaluated on what.
        held: Says whether it is still in its place.

    Raises:
        EvaluationError: If the folder holds another evaluation, or files that none wrote.
    """

    def __init__(self, path: Path, card: Mapping[str, Any], held: Held) -> None:
        self.path, self.held = path, held
        _check(path, card)
        self._card, self._sessions = card, _sessions(path / _TIMING)

    def begin(self) -> None:
        """Write the card, and note when this call began."""
        write_whole(self.path / _CARD, as_json(self._card))
        self._sessions.append({"started": datetime.now(UTC).isoformat(timespec="seconds")})
        write_whole(self.path / _TIMING, as_json(self._timing()))

    def finish(self, report: Report, played: int) -> None:
        """Write the summary, and how long it took."""
        self._sessions[-1] |= {"seconds": report.seconds, "episodes": played}
        write_whole(self.path / _TIMING, as_json(self._timing()))
        write_whole(self.path / _SUMMARY, as_json(report.summary()))

    def _timing(self) -> dict[str, Any]:
        """When an evaluation ran; a session that was killed has no seconds."""
        return {
            "started": self._sessions[0]["started"],
            "seconds": round(sum(session.get("seconds", 0.0) for session in self._sessions), 3),
            "sessions": self._sessions,
        }


def as_json(value: Mapping[str, Any]) -> str:
    """Write what goes into a file of its own as JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_suite_folder(path: Path) -> None:
    """Refuse to put a suite's summary where another file has that name, or an evaluation is.

    Args:
        path: The folder.

    Raises:
        EvaluationError: If it is not that of a suite, nor without files of these names.
    """
    there = [name for name in (_CARD, FILE) if (path / name).exists()]
    summary = path / _SUMMARY
    if not there and summary.exists():
        try:
            there = [] if "sets" in read_json(summary, EvaluationError, "a summary") else [_SUMMARY]
        except EvaluationError:
            there = [_SUMMARY]
    if there:
        raise EvaluationError(
            f"{path}: expected the folder of a suite, or an empty one, found {there[0]} of "
            "something else; choose another folder"
        )


def _check(path: Path, card: Mapping[str, Any]) -> None:
    there = path / _CARD
    if not there.exists():
        episodes = path / FILE
        found = [FILE] if episodes.exists() and episodes.stat().st_size else []
        if found := found + [name for name in _WRITTEN if (path / name).exists()]:
            raise EvaluationError(
                f"{path}: expected {_CARD} beside {found[0]}, found none, so that what was "
                "evaluated there is unknown; choose another folder"
            )
        return
    expected = "the card of an evaluation"
    try:
        require_file(there)
        found = differences(card, parsed(there.read_bytes(), str(there), EvaluationError, expected))
    except EvaluationError as error:
        raise EvaluationError(f"{error}, or choose another folder") from None
    if found:
        raise EvaluationError(
            f"{path}: expected the same evaluation, to resume it, found one that differs in\n  "
            + "\n  ".join(found)
            + "\nchoose another folder"
        )


def _sessions(path: Path) -> list[dict[str, Any]]:
    """Return the earlier sessions; damaged ones decide about nothing, and are dropped."""
    if not path.exists():
        return []
    try:
        timing = read_json(path, EvaluationError, TIMING.name)
        check(TIMING, timing, TIMING.fields, str(path), EvaluationError)
        for session in timing["sessions"]:
            check(SESSION, session, ("started",), str(path), EvaluationError)
    except (EvaluationError, OSError) as error:
        _log.warning("%s; earlier times are lost, the evaluation is resumed", error)
        return []
    return list(timing["sessions"])
