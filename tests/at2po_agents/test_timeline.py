"""Time lines: what is appended is read back, whatever became of the last line."""

from __future__ import annotations

from pathlib import Path

from at2po_agents import timeline
from at2po_agents.timeline import Span

SPANS = [Span("rank-0", "collect", 1003.0, 1005.5, 70), Span("rank-0", "wait", 1005.5, 1006.25)]
SINCE = [Span("rank-0", "collect", 3.0, 5.5, 70), Span("rank-0", "wait", 5.5, 6.25)]


def test_spans_are_read_back_in_seconds_since_the_run_began(tmp_path: Path) -> None:
    assert timeline.read(tmp_path) == []
    timeline.append(tmp_path, 1, SPANS, 1000.0)
    timeline.append(tmp_path, 2, SPANS[:1], 1000.0)
    assert timeline.read(tmp_path) == [(1, SINCE[0]), (1, SINCE[1]), (2, SINCE[0])]


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    timeline.append(tmp_path, 1, SPANS, 1000.0)
    path = tmp_path / timeline.FILE
    whole = path.read_bytes()
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        found = timeline.read(tmp_path)
        assert found == [(1, span) for span in SINCE][: len(found)]
        assert len(found) == whole[: end + 1].count(b"\n")
    path.write_bytes(whole[:-9])
    timeline.append(tmp_path, 2, SPANS, 1000.0)  # its first line is glued to the rest of the other
    assert timeline.read(tmp_path) == [(1, SINCE[0]), (2, SINCE[1])]
