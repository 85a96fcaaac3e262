"""The learning curve of a training run, drawn as SVG, and the looks of all our curves."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from benchmarks.statistics.intervals import wilson
from retrieval.storage.files import replace_own

Row = Mapping[str, Any]
Over = Literal["steps", "sampled tokens"]


class Colours(NamedTuple):
    """Colours of text and axes, grid lines, greedy evaluation, and training rollouts.

    In other charts the last two are those of the first and the second line.
    """

    ink: str
    grid: str
    greedy: str
    sampled: str


PAPER = Colours("#1f2328", "#d0d7de", "#0969da", "#bc4c00")
# In a page the curve takes the page's colours: these stand-ins are replaced by CSS.
_STAND_IN = Colours("#010203", "#010204", "#010205", "#010206")
_CSS = Colours("currentColor", "var(--line)", "var(--accent)", "var(--second)")
# Typed loosely: the names of matplotlib's settings are types in some of its versions only.
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 10, "axes.linewidth": 0.8}


def inline_curves(rows: Sequence[Row]) -> list[str]:
    """Draw EM against steps and against sampled tokens, for an HTML page.

    Args:
        rows: Rows of `metrics.jsonl`.

    Returns:
        Two SVG elements that follow the page's colours and fonts.
    """
    overs: tuple[Over, Over] = ("steps", "sampled tokens")
    return [inline(partial(_draw, rows, over), f"Exact match over {over}") for over in overs]


def inline(draw: Callable[[Axes, Colours], None], label: str, height: float = 3.6) -> str:
    """Draw axes for an HTML page.

    Args:
        draw: Draws them in these colours.
        label: What they show, for those who cannot see it; no two drawings of a page share it.
        height: In inches; the width is 5.2.

    Returns:
        An SVG element that follows the page's colours and fonts.
    """
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": label}):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw(axes, _STAND_IN)
        svg = _svg(figure)
    for stand_in, css in zip(_STAND_IN, _CSS, strict=True):
        svg = svg.replace(stand_in, css)
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
        _draw(rows, "steps", left, PAPER)
        _draw(rows, "sampled tokens", right, PAPER)
        right.get_legend().remove()
        right.set_ylabel("")
        replace_own(path, _svg(figure), ">sampled tokens<")


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg ") :], flags=re.DOTALL)


def _draw(rows: Sequence[Row], over: Over, axes: Axes, colours: Colours) -> None:
    tokens = accumulate(row.get("tokens/sampled") or 0 for row in rows)
    places = [row["step"] for row in rows] if over == "steps" else list(tokens)
    _plot_training(axes, rows, places, colours.sampled)
    _plot_evaluation(axes, rows, places, colours.greedy)
    axes.set_ylabel("exact match", color=colours.ink)
    show_percent(axes)
    if over == "steps":
        show_steps(axes, colours)
    else:
        axes.set_xlabel("sampled tokens", color=colours.ink)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    dress(axes, colours)
    axes.legend(loc="lower right", frameon=False, labelcolor=colours.ink)


def show_percent(axes: Axes) -> None:
    """Let the vertical axis run from 0 to 100 %.

    Args:
        axes: The axes.
    """
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def show_steps(axes: Axes, colours: Colours) -> None:
    """Let the horizontal axis show training steps.

    Args:
        axes: The axes.
        colours: Colours of the page.
    """
    axes.set_xlabel("training step", color=colours.ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def dress(axes: Axes, colours: Colours) -> None:
    """Give axes the looks of all our curves.

    Args:
        axes: The axes.
        colours: Colours of the page.
    """
    axes.tick_params(colors=colours.ink)
    axes.grid(color=colours.grid, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours.ink)


def _plot_training(axes: Axes, rows: Sequence[Row], places: Sequence[float], colour: str) -> None:
    # A row may have measured none; null stands for a value that is not finite.
    found = ((x, row.get("rollout/em")) for x, row in zip(places, rows, strict=True))
    points = [(x, em) for x, em in found if em is not None]
    x, em = zip(*points, strict=True) if points else ((), ())
    label = "training questions, sampled"
    axes.plot(x, em, color=colour, linewidth=1, alpha=0.65, label=label)


def _plot_evaluation(axes: Axes, rows: Sequence[Row], places: Sequence[float], colour: str) -> None:
    points = [(x, row) for x, row in zip(places, rows, strict=True) if "eval/em" in row]
    x = [place for place, _ in points]
    em = [row["eval/em"] for _, row in points]
    bounds = [wilson(row["eval/em"], row["eval/questions"]) for _, row in points]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    label = "evaluation questions, greedy"
    axes.plot(x, em, color=colour, linewidth=2, marker="o", markersize=4, label=label)
