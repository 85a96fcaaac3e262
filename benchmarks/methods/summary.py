"""What the comparison's runs say: intervals over seeds and questions, a table, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from benchmarks.curves import dress
from benchmarks.methods.run import METHODS, Result
from benchmarks.statistics.intervals import Scores, bootstrap

OWN, START = "atpo", "react"


def summarise(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, Any]]:
    """Summarise each method's runs, and compare it with AT²PO.

    Args:
        results: The runs of each method; methods and seeds may be missing.

    Returns:
        By name: label, seeds, EM at the end with its interval, the difference to AT²PO over the
        seeds and questions that both have (none for AT²PO itself), and the mean EM at each mark.
    """
    scores = {name: _scores(runs) for name, runs in results.items() if runs}
    summary = {}
    for name, by_seed in scores.items():
        low, high = bootstrap(np.stack(list(by_seed.values())))
        runs = results[name]
        summary[name] = {
            "label": METHODS[name].label,
            "ablation": METHODS[name].ablation,
            "seeds": sorted(by_seed),
            "em": float(np.mean([by_seed[seed].mean() for seed in by_seed])),
            "low": low,
            "high": high,
            "difference": _difference(by_seed, scores.get(OWN, {})) if name != OWN else None,
            "curve": [
                {
                    key: float(np.mean([run["evaluations"][i][key] for run in runs]))
                    for key in ("mark", "tokens", "em", "searches", "format_rate")
                }
                for i in range(len(runs[0]["evaluations"]))
            ],
        }
    return summary


def table(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table, the best of methods and of ablations first.

    Args:
        summary: As of `summarise`.
    """
    heads = ("", "greedy EM (95 %)", "minus AT²PO (95 %)", "mean of the curve")
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---:|---:|"]
    for ablation in (False, True):
        group = [entry for entry in summary.values() if entry["ablation"] == ablation]
        for entry in sorted(group, key=lambda entry: -entry["em"]):
            curve = [point["em"] for point in entry["curve"]]
            cells = [
                ("AT²PO, " if ablation else "") + entry["label"],
                f"{entry['em']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})",
                _signed(entry["difference"]),
                f"{sum(curve) / len(curve):.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def save_curves(summary: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw greedy EM against sampled tokens: all methods, and AT²PO with its ablations.

    Args:
        summary: As of `summarise`.
        path: The SVG file; overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "compare"}):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, summary, [name for name in summary if not METHODS[name].ablation])
        _draw(right, summary, [OWN, *(name for name in summary if METHODS[name].ablation)])
        left.set_ylabel("exact match")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(axes: Axes, summary: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    start = summary[START]["curve"] if START in summary else []
    for name in names:
        if name == START or name not in summary:
            continue
        points = [*start, *summary[name]["curve"]]
        x, y = [point["tokens"] for point in points], [point["em"] for point in points]
        width = 2.4 if name == OWN else 1.3
        axes.plot(x, y, linewidth=width, marker="o", markersize=3, label=summary[name]["label"])
    axes.set_xlabel("sampled tokens")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    dress(axes)
    if axes.lines:
        axes.legend(loc="best", frameon=False, fontsize=8)


def _scores(runs: Sequence[Result]) -> dict[int, Scores]:
    return {run["seed"]: np.array([float(c) for c in run["correct"]]) for run in runs}


def _difference(scores: Mapping[int, Scores], own: Mapping[int, Scores]) -> dict[str, float] | None:
    """Compare with AT²PO question by question; the same seeds saw the same training questions."""
    shared = sorted(scores.keys() & own.keys())
    if not shared:
        return None
    paired = np.stack([scores[seed] - own[seed] for seed in shared])
    low, high = bootstrap(paired)
    return {"em": float(paired.mean()), "low": low, "high": high}


def _signed(difference: Mapping[str, float] | None) -> str:
    if difference is None:
        return ""
    return "{em:+.3f} ({low:+.3f} to {high:+.3f})".format(**difference)
