"""A training run's page: what happened, and the trace of its processes beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import write_report
from tests.benchmarks.report.report_page import Page
from tests.benchmarks.report.report_samples import (
    EVIL,
    FAULT,
    LINES,
    training_run,
    write_status,
    write_timeline,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return training_run(tmp_path)


def read(run: Path) -> tuple[str, str]:
    """The page of a run, and its text."""
    html = write_report(run).read_text(encoding="utf-8")
    assert html.count(EVIL) == 0
    return html, Page(html).text


def test_a_run_that_says_nothing_has_none_of_it(run: Path) -> None:
    html, _ = read(run)
    for name in ("happened", "processes"):
        assert f'id="{name}"' not in html
    assert not (run / "trace.json").exists()


def test_a_run_in_which_all_went_well_says_so_in_a_line(run: Path) -> None:
    write_status(run)
    html, text = read(run)
    assert "Finished at step 2, 2026-11-25 18:32:15 UTC. Nothing went wrong." in text
    assert "what was done" not in text
    assert 'id="processes"' not in html


def test_what_went_wrong_is_in_a_table(run: Path) -> None:
    write_status(run, faults=[FAULT, FAULT | {"step": 77}])
    _, text = read(run)
    assert "Nothing went wrong" not in text
    assert f"2026-11-25 18:31:42 UTC77{EVIL}died {EVIL}replaced" in text


@pytest.mark.parametrize("state", ["running", "paused", "stopped", "diverged", "failed"])
def test_a_run_that_has_not_ended_well_has_a_report(run: Path, state: str) -> None:
    config = 'env = "E"\nseed = 7\n\n[algorithm]\nname = "atpo"\nchains = 2\n'
    config += f'\n[model]\nname = "{EVIL}"\n'
    (run / "config.toml").write_text(config)
    (run / "summary.json").unlink()
    write_status(run, state, f"expected x, found {EVIL}")
    _, text = read(run)
    assert f"{state.capitalize()} at step 2, " in text
    assert f"expected x, found {EVIL}" in text
    assert "ATPO on E" in text
    assert "12,345sampled tokens" in text
    assert "wall-clock time" not in text


def test_the_trace_is_written_beside_the_page(run: Path) -> None:
    write_timeline(run)
    (run / "trace.json").write_text("not ours")
    for _ in range(2):
        assert "open trace.json" in read(run)[1]
    trace = json.loads((run / "trace.json").read_text())
    assert [event["ph"] for event in trace["traceEvents"]].count("X") == len(LINES) + 2
    assert [path.read_text() for path in run.glob("trace.json.*")] == ["not ours"]


def test_the_same_run_gives_the_same_files(run: Path) -> None:
    write_timeline(run)
    write_status(run, faults=[FAULT])
    files = ("report.html", "learning_curve.svg", "trace.json")
    read(run)
    first = [(run / name).read_bytes() for name in files]
    read(run)
    assert [(run / name).read_bytes() for name in files] == first
    assert first[1].startswith(b"<svg ")
