"""What a time line comes to: shares that add up, of time that counts once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.monitoring.trace import WORK, Span
from benchmarks.report.processes import (
    Piece,
    Processes,
    processes_of,
    read_processes,
    trace_events,
)
from tests.benchmarks.report.report_samples import EVIL, LINES, write_timeline


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    write_timeline(tmp_path)
    found = read_processes(tmp_path)
    assert found is not None
    return found


def test_no_time_line_no_processes(tmp_path: Path) -> None:
    assert read_processes(tmp_path) is None
    (tmp_path / "timeline.jsonl").write_text('{"actor": "dri')
    assert read_processes(tmp_path) is None


def test_lanes_are_ordered_by_kind_and_number(processes: Processes) -> None:
    assert list(processes.lanes) == ["driver", "collector-9", "collector-10", "learner-0"]
    assert [piece.span.start for piece in processes.lanes["learner-0"]] == [4, 10, 18]


def test_a_step_goes_on_until_its_last_piece_ends(processes: Processes) -> None:
    assert processes.steps == [(1, 0, 8), (2, 8, 20)]


def test_a_step_that_was_done_again_is_there_twice() -> None:
    steps = [3, 4, 3, 4]
    pieces = [Piece(step, Span("rank-0", "update", i, i + 1)) for i, step in enumerate(steps)]
    found = processes_of(pieces)
    assert found.steps == [(3, 0, 1), (4, 1, 2), (3, 2, 3), (4, 3, 4)]
    assert found.stages == [("update", 4, 1, None)]


def test_stages_and_kinds_come_to_what_they_are(processes: Processes) -> None:
    assert processes.seconds == 20
    # Tokens a second: 600 in the 5 seconds that anyone collected, 2100 in 12 of updates.
    assert processes.stages == [
        ("collect", 7, 7 / 80, 120),
        ("weights", 1, 1 / 80, None),
        ("update", 12, 12 / 80, 175),
        ("wait", 6, 6 / 80, None),
        (EVIL, 0.5, 0.5 / 80, None),
    ]
    assert processes.kinds == [
        ("driver", 1, 0, pytest.approx(6.5 / 20), pytest.approx(13.5 / 20)),
        ("collector", 2, 8 / 40, 0, 32 / 40),
        ("learner", 1, 12 / 20, 0, 8 / 20),
    ]


def test_time_counts_once_where_pieces_of_a_lane_overlap() -> None:
    spans = [Span("rank-0", "collect", 0, 10), Span("rank-0", "update", 5, 12)]
    found = processes_of([Piece(1, span) for span in spans])
    assert [(stage.name, stage.seconds) for stage in found.stages] == [
        ("collect", 10),
        ("update", 2),
    ]
    assert found.kinds == [("rank", 1, 1, 0, 0)]


def test_a_trace_names_its_processes_and_holds_every_piece(processes: Processes) -> None:
    trace = trace_events(processes)
    named = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events(trace, "M")}
    assert [name for (what, _, _), name in named.items() if what == "process_name"] == [
        *("steps", "driver", "collector", "learner")
    ]
    found, steps = [], []
    for event in events(trace, "X"):
        times = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
        if event["pid"] == 0:
            steps.append((event["name"], *times))
            continue
        actor = named["thread_name", event["pid"], event["tid"]]
        assert actor.startswith(named["process_name", event["pid"], 0])
        args = event["args"]
        found.append((actor, event["name"], args["step"], *times, args.get("tokens", 0)))
    assert sorted(found) == sorted(LINES)
    assert steps == [("step 1", 0, 8), ("step 2", 8, 20)]
    (last,) = [e for e in events(trace, "X") if e["ts"] == 18_000_000]
    assert last["args"] == {"step": 2, "tokens": 600, "tokens_per_s": 300}


def events(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    """The events of a phase, each checked for what the format requires."""
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert all(type(event[name]) is int for name in ("ts", "pid", "tid"))
        assert event["ph"] == "M" or (type(event["dur"]) is int and event["dur"] >= 0)
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def a_piece(actor: str, stage: str, step: int, start: float, length: float, tokens: int) -> Piece:
    return Piece(step, Span(actor, stage, start, start + length, tokens))


pieces = st.builds(
    a_piece,
    st.sampled_from(["driver", "collector-0", "collector-1", "learner-0", "rank-2", "-", ""]),
    st.sampled_from([*WORK, "wait", "other"]),
    st.integers(0, 3),
    st.floats(-10, 100),
    st.floats(-1, 50),  # clocks may be set back
    st.integers(0, 1000),
)


@given(st.lists(pieces, min_size=1, max_size=20))
def test_shares_add_up_and_nothing_is_negative(found: list[Piece]) -> None:
    processes = processes_of(found)
    shares = [stage.share for stage in processes.stages]
    assert min(shares) >= 0
    assert sum(shares) <= 1 + 1e-9
    for kind in processes.kinds:
        assert min(kind.busy, kind.waiting, kind.idle) >= 0
        assert kind.busy + kind.waiting + kind.idle == pytest.approx(1)
    assert sum(kind.actors for kind in processes.kinds) == len(processes.lanes)
    noted = sum((k.busy + k.waiting) * k.actors for k in processes.kinds) * processes.seconds
    assert sum(stage.seconds for stage in processes.stages) == pytest.approx(noted)
    assert all(stage.tokens_per_s is None or stage.tokens_per_s > 0 for stage in processes.stages)
    ends = [step.end for step in processes.steps]
    assert [step.start for step in processes.steps[1:]] == ends[:-1]
    assert ends[-1] - processes.steps[0].start == pytest.approx(processes.seconds)
    assert sorted(found) == sorted(piece for lane in processes.lanes.values() for piece in lane)
    assert len(events(trace_events(processes), "X")) == len(found) + len(processes.steps)
