"""Charts of how the processes of a run worked, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from matplotlib.axes import Axes

from benchmarks.curves import Colours, dress, inline, show_shares, show_steps
from benchmarks.evaluation.records import Record

Line = tuple[Sequence[int], Sequence[float]]
"""Steps, and a figure at each."""

_KINDS = {"rollout workers": "rollout_worker", "learner workers": "learner_worker", "ranks": "rank"}
_HEIGHT = 2.6


class Chart(NamedTuple):
    """Figures that are drawn together.

    Attributes:
        title: What is on the vertical axis.
        figures: Labels of lines, and names of figures in `metrics.jsonl`, there or under `time`.
        shares: Whether they are shares of 1.
    """

    title: str
    figures: Mapping[str, str]
    shares: bool = False


CHARTS = (
    Chart("busy, share of the step", {s: f"busy_{k}" for s, k in _KINDS.items()}, shares=True),
    Chart("tokens per second", {s: f"tokens_per_s_{s}" for s in ("collect", "update")}),
    Chart("waiting, seconds", {"driver": "driver_wait_s", "ranks": "rank_wait_s"}),
    Chart(
        "queues, mean length",
        {"jobs": "queue_jobs", "turns at tools": "queue_tools"},
    ),
    Chart("turns in an engine, mean", {"turns": "queue_engine"}),
    Chart("staleness, updates", {"mean of the trees": "rollout/staleness"}),
    Chart("trees dropped so far", {"trees": "rollout/dropped"}),
)


def work_charts(rows: Sequence[Record]) -> list[str]:
    """Draw the charts that rows have figures for.

    Args:
        rows: Rows of `metrics.jsonl`.

    Returns:
        SVG elements that follow the page's colours and fonts.
    """
    charts = []
    for chart in CHARTS:
        lines = {label: _line(rows, name) for label, name in chart.figures.items()}
        found = {label: line for label, line in lines.items() if line[0]}
        if found:
            label = f"{chart.title}, over steps"
            charts.append(inline(partial(_draw, chart, found), label, _HEIGHT))
    return charts


def _line(rows: Sequence[Record], name: str) -> Line:
    """Where rows have a figure; null stands for a value not finite."""
    values = [(row["step"], row.get(name, row.get("time", {}).get(name))) for row in rows]
    there = [(step, value) for step, value in values if value is not None]
    return [step for step, _ in there], [value for _, value in there]


def _draw(chart: Chart, lines: Mapping[str, Line], axes: Axes, colours: Colours) -> None:
    inks = (colours.greedy, colours.sampled, colours.ink)
    for (label, (steps, values)), colour in zip(lines.items(), inks, strict=False):
        mark = "o" if len(steps) == 1 else None  # a line of one point is invisible
        axes.plot(steps, values, color=colour, linewidth=1.2, marker=mark, label=label)
    axes.set_ylabel(chart.title, color=colours.ink)
    if chart.shares:
        show_shares(axes)
    else:
        axes.set_ylim(bottom=0)
    show_steps(axes, colours)
    dress(axes, colours)
    if len(chart.figures) > 1:
        axes.legend(frameon=False, labelcolor=colours.ink)
