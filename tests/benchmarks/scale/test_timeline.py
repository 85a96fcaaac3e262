"""Timelines, added up."""

from __future__ import annotations

import pytest

from benchmarks.errors import EvaluationError
from benchmarks.scale.timeline import Piece, shares, stage_seconds, step_seconds


def test_timelines_are_added_up() -> None:
    pieces = [
        Piece(actor, stage, step, 10.0 * step + start, 10.0 * step + end)
        for step in range(3)
        for actor, stage, start, end in (
            ("collector-0", "collect", 0, 4),
            ("collector-1", "collect", 0, 6),
            ("collector-1", "wait", 6, 10),
            ("learner-0", "update", 6, 9 + step / 10),
        )
    ]
    assert pieces[2].seconds == 4
    assert step_seconds(pieces) == pytest.approx(10.1)
    assert stage_seconds(pieces, "collect") == pytest.approx(6)
    assert stage_seconds(pieces, "update", skip=2) == pytest.approx(3.2)
    assert stage_seconds(pieces, "eval") == 0.0
    assert shares(pieces, "collector-1") == pytest.approx({"collect": 0.6, "wait": 0.4})
    with pytest.raises(EvaluationError, match="at least 2 updates, found 1"):
        step_seconds([piece for piece in pieces if piece.step == 1])
