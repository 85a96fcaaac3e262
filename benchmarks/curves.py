"""The learning curve of a training run, drawn as SVG: for a page, and as a file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from benchmarks.statistics.intervals import wilson
from retrieval.storage.files import replace_own

Row = Mapping[str, Any]
Over = Literal["steps", "sampled tokens"]

_INK, _GRID, _GREEDY, _SAMPLED = "#1f2328", "#d0d7de", "#0969da", "#bc4c00"
_CSS = {
    _INK: "currentColor",
    _GRID: "var(--line)",
    _GREEDY: "var(--accent)",
    _SAMPLED: "var(--second)",
}
"""What stands for the colours in a page, which has a light and a dark scheme."""

# Typed loosely: the names of matplotlib's settings are types in some of its versions only.
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 10, "axes.linewidth": 0.8}


def inline_curves(rows: Sequence[Row]) -> list[str]:
    """Draw EM against steps and against sampled tokens, for an HTML page.

    Args:
        rows: Rows of `metrics.jsonl`.

    Returns:
        Two SVG elements that follow the page's colours and fonts.
    """
    return [_inline(rows, "steps"), _inline(rows, "sampled tokens")]


def _inline(rows: Sequence[Row], over: Over) -> str:
    label = f"Exact match over {over}"
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": label}):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        _draw(rows, over, axes)
        svg = _svg(figure)
    for colour, css in _CSS.items():
        svg = svg.replace(colour, css)
    # A page forbids styles but its own; two pictures in it must not share the names of their parts.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def save_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw both curves side by side into an SVG file on white ground.

    Args:
        rows: Rows of `metrics.jsonl`.
        path: The file; earlier curves are replaced, anything else of its name is renamed.
    """
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": "both"}):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(rows, "steps", left)
        _draw(rows, "sampled tokens", right)
        right.get_legend().remove()
        right.set_ylabel("")
        replace_own(path, _svg(figure), ">sampled tokens<")


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg ") :], flags=re.DOTALL)


def _draw(rows: Sequence[Row], over: Over, axes: Axes) -> None:
    tokens = accumulate(row.get("tokens/sampled") or 0 for row in rows)
    places = [row["step"] for row in rows] if over == "steps" else list(tokens)
    _plot_training(axes, rows, places)
    _plot_evaluation(axes, rows, places)
    axes.set_ylabel("exact match", color=_INK)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if over == "steps":
        axes.set_xlabel("training step", color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.set_xlabel("sampled tokens", color=_INK)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    dress(axes)
    axes.legend(loc="lower right", frameon=False, labelcolor=_INK)


def dress(axes: Axes) -> None:
    """Give axes the looks of all our curves."""
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)


def _plot_training(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    # EM is null where it was not finite.
    ems = [(x, row.get("rollout/em")) for x, row in zip(places, rows, strict=True)]
    points = [(x, em) for x, em in ems if em is not None]
    label = "training questions, sampled"
    x, em = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, em, color=_SAMPLED, linewidth=1, alpha=0.65, label=label)


def _plot_evaluation(axes: Axes, rows: Sequence[Row], places: Sequence[float]) -> None:
    points = [(x, row) for x, row in zip(places, rows, strict=True) if "eval/em" in row]
    x = [place for place, _ in points]
    em = [row["eval/em"] for _, row in points]
    bounds = [wilson(row["eval/em"], row["eval/questions"]) for _, row in points]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    axes.fill_between(x, low, high, color=_GREEDY, alpha=0.18, linewidth=0)
    label = "evaluation questions, greedy"
    axes.plot(x, em, color=_GREEDY, linewidth=2, marker="o", markersize=4, label=label)
