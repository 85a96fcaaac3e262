"""Timelines of runs: read, and added up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.errors import EvaluationError
from benchmarks.timeline import Piece, read, shares, stage_seconds, step_seconds


def test_timelines_are_read_and_added_up(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(3):
        begin = 10.0 * step
        for actor, stage, start, end in (
            ("collector-0", "collect", 0, 4),
            ("collector-1", "collect", 0, 6),
            ("collector-1", "wait", 6, 10),
            ("learner-0", "update", 6, 9 + step / 10),
        ):
            where = {"start": begin + start, "end": begin + end}
            rows.append({"actor": actor, "stage": stage, "step": step, **where, "tokens": 5})
    path = tmp_path / "timeline.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pieces = read(tmp_path)
    assert step_seconds(pieces) == pytest.approx(10.1)
    assert stage_seconds(pieces, "collect") == pytest.approx(6)
    assert stage_seconds(pieces, "update", skip=2) == pytest.approx(3.2)
    assert stage_seconds(pieces, "eval") == 0.0
    assert shares(pieces, "collector-1") == pytest.approx({"collect": 0.6, "wait": 0.4})
    with pytest.raises(EvaluationError, match="more than 3 updates, found 3"):
        step_seconds(pieces, skip=3)
    path.write_text('{"actor": "x"}\n')
    with pytest.raises(EvaluationError, match=r"timeline\.jsonl:1"):
        read(tmp_path)
    path.unlink()
    with pytest.raises(EvaluationError, match="found none"):
        read(tmp_path)


def test_pieces_know_how_long_they_are() -> None:
    assert Piece("driver", "save", 0, 1.5, 4.0).seconds == 2.5
