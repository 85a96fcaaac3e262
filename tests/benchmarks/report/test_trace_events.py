"""Trace events: every span of a time line in the row of its actor, and every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.monitoring.trace import WORK, Span
from benchmarks.report.trace_events import read_trace, trace_events
from tests.benchmarks.report.report_samples import LINES, write_timeline


def test_no_time_line_no_trace(tmp_path: Path) -> None:
    assert read_trace(tmp_path) is None
    (tmp_path / "timeline.jsonl").write_text('{"actor": "dri')
    assert read_trace(tmp_path) is None


def test_a_step_that_was_done_again_is_there_twice() -> None:
    steps = [3, 4, 3, 4]
    trace = trace_events([(n, Span("rank-0", "update", i, i + 1)) for i, n in enumerate(steps)])
    assert rows(trace)["steps", "steps"] == [(f"step {n}", i, i + 1) for i, n in enumerate(steps)]


def test_a_trace_names_its_processes_and_holds_every_span(tmp_path: Path) -> None:
    write_timeline(tmp_path)
    trace = read_trace(tmp_path)
    assert trace is not None
    found = rows(trace)
    # By kind, the driver first, and by number.
    assert list(found) == [
        ("steps", "steps"),
        ("driver", "driver"),
        ("collector", "collector-9"),
        ("collector", "collector-10"),
        ("learner", "learner-0"),
    ]
    assert found["steps", "steps"] == [("step 1", 0, 8), ("step 2", 8, 20)]
    for (_, name), row in list(found.items())[1:]:
        spans = [line for line in LINES if line[0] == name]
        assert row == [(stage, start, end) for _, stage, _, start, end, _ in spans]
    (last,) = [e for e in events(trace, "X") if e["ts"] == 18_000_000]
    assert last["args"] == {"step": 2, "tokens": 600, "tokens_per_s": 300}


def rows(trace: dict[str, Any]) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """The rows that a viewer shows, in its order, by process and thread: name, start, end."""
    named = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events(trace, "M")}
    found: dict[tuple[int, int], list[Any]] = {}
    for event in events(trace, "X"):
        times = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
        found.setdefault((event["pid"], event["tid"]), []).append((event["name"], *times))
    return {
        (named["process_name", pid, 0], named["thread_name", pid, tid]): found[pid, tid]
        for pid, tid in sorted(found)
    }


def events(trace: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    """The events of a phase, each checked for what the format requires."""
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert all(type(event[name]) is int for name in ("ts", "pid", "tid"))
        assert event["ph"] == "M" or (type(event["dur"]) is int and event["dur"] >= 0)
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


spans = st.builds(
    lambda actor, stage, start, length: Span(actor, stage, start, start + length),
    st.sampled_from(["driver", "collector-0", "collector-1", "learner-0", "rank-2", "-", ""]),
    st.sampled_from([*WORK, "wait", "other"]),
    st.floats(-10, 100),
    st.floats(-1, 50),  # clocks may be set back
)


@given(st.lists(st.tuples(st.integers(0, 3), spans), min_size=1, max_size=20))
def test_every_span_is_an_event_and_steps_follow_each_other(found: list[tuple[int, Span]]) -> None:
    shown = rows(trace_events(found))
    steps = shown.pop(("steps", "steps"))
    assert [start for _, start, _ in steps[1:]] == [end for _, _, end in steps[:-1]]
    actors = [actor for (_, actor), row in shown.items() for _ in row]
    assert sorted(actors) == sorted(span.actor for _, span in found)
