"""A training run's page: what happened, its processes and their figures, charts of their work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.errors import RunFolderError
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


def add_figures(run: Path, **figures: Any) -> None:
    """Give the last row of the metrics more figures."""
    path = run / "metrics.jsonl"
    *rows, last = path.read_text().splitlines()
    path.write_text("\n".join([*rows, json.dumps(json.loads(last) | figures)]) + "\n")


def test_a_run_that_says_nothing_has_none_of_it(run: Path) -> None:
    html, _ = read(run)
    for name in ("happened", "processes", "work"):
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


def test_a_damaged_time_line_is_refused(run: Path) -> None:
    (run / "timeline.jsonl").write_text('{"step": 1, "other": 2}\n')
    with pytest.raises(RunFolderError, match="other lines"):
        write_report(run)


def test_the_tables_hold_the_figures_of_the_time_line(run: Path) -> None:
    write_timeline(run)
    _, text = read(run)
    assert "What 4 processes did in 20.0 seconds. To see when they did it, open trace.json" in text
    assert "collect7.08.8%120.0weights1.01.2%–update12.015.0%175.0wait6.07.5%–" in text
    assert "nothing noted53.566.9%–" in text
    assert "driver10.0%32.5%67.5%collector220.0%0.0%80.0%learner160.0%0.0%40.0%" in text
    assert "done again" not in text
    write_timeline(run, [*LINES, ("driver", "wait", 1, 20.0, 21.0, 0)])
    assert "Steps that were done again are in it twice." in read(run)[1]


def test_the_trace_is_written_beside_the_page(run: Path) -> None:
    write_timeline(run)
    (run / "trace.json").write_text("not ours")
    for _ in range(2):
        read(run)
    trace = json.loads((run / "trace.json").read_text())
    assert [event["ph"] for event in trace["traceEvents"]].count("X") == len(LINES) + 2
    assert [path.read_text() for path in run.glob("trace.json.*")] == ["not ours"]


def test_charts_are_drawn_of_the_figures_that_there_are(run: Path) -> None:
    time = {
        "busy_rollout_worker": 0.5,
        "busy_learner_worker": 0.25,
        "rank_wait_s": 3.0,
        "rollout": 9.0,
    }
    time |= {"queue_jobs": 0.5}
    add_figures(run, time=time, **{"rollout/staleness": 0.5, "rollout/dropped": None})
    html, text = read(run)
    drawn = re.findall(r'aria-label="([^"]*), over steps"', html)
    queues = "queues, mean length"
    assert drawn == ["busy, share of the step", "waiting, seconds", queues, "staleness, updates"]
    for label in ("rollout workers", "learner workers", "ranks"):
        assert label in text


def test_the_same_run_gives_the_same_files(run: Path) -> None:
    write_timeline(run)
    write_status(run, faults=[FAULT])
    add_figures(run, time={"busy_rank": 0.5})
    files = ("report.html", "learning_curve.svg", "trace.json")
    read(run)
    first = [(run / name).read_bytes() for name in files]
    read(run)
    assert [(run / name).read_bytes() for name in files] == first
    assert first[1].startswith(b"<svg ")
