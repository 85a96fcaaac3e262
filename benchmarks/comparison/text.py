"""A comparison of evaluations for people: tables, and what can and cannot be concluded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.comparison.compare import MACRO, MICRO
from benchmarks.statistics.intervals import ALPHA
from retrieval.storage.files import replace_own

# Discordant pairs below which a bootstrap interval of a difference is no more than a hint.
_FEW = 10

_HEADS = (
    "set",
    "questions",
    "agent",
    "EM % (95 %)",
    "minus {} (95 %)",
    "p",
    "p (Holm)",
    "detectable",
)


def cells(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of the table: percentages, and percentage points for differences.

    Args:
        comparison: As of `compare`.
    """
    heads = [head.format(comparison["reference"]) for head in _HEADS]
    rows = []
    for row in comparison["rows"]:
        for number, (name, figures) in enumerate(row["methods"].items()):
            label = [] if number else [row["name"], f"{row['questions']:,}"]
            low, high = figures["interval"]
            shown = f"{100 * figures['em']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
            rows.append([*(label or ["", ""]), name, shown, *_compared(figures)])
    return heads, rows


def rich_table(comparison: Mapping[str, Any]) -> Table:
    """Return the table for a terminal.

    Args:
        comparison: As of `compare`.
    """
    heads, rows = cells(comparison)
    table = Table(*heads)
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    return table


def markdown(comparison: Mapping[str, Any]) -> str:
    """Return the content of `comparison.md`.

    Args:
        comparison: As of `compare`.
    """
    heads, rows = cells(comparison)
    others = [name for name in comparison["methods"] if name != comparison["reference"]]
    lines = [f"# {', '.join(others)} compared with {comparison['reference']}", ""]
    table = [[_escaped(text) for text in row] for row in (heads, *rows)]
    lines += [f"| {' | '.join(row)} |" for row in (table[0], ["---"] * len(heads), *table[1:])]
    lines += ["", *(f"- {sentence}" for sentence in conclusions(comparison))]
    if comparison["warnings"]:
        lines += ["", "Warnings:", "", *(f"- {warning}" for warning in comparison["warnings"])]
    lines += ["", note(comparison), "", "| agent | evaluations |", "|---|---|"]
    for name, folders in comparison["methods"].items():
        shown = ", ".join(f"`{_escaped(folder)}`" for folder in folders)
        lines.append(f"| {_escaped(name)} | {shown} |")
    return "\n".join(lines) + "\n"


def write(comparison: Mapping[str, Any], out: Path) -> None:
    """Write `comparison.json` and `comparison.md`.

    Args:
        comparison: As of `compare`.
        out: The folder; made if missing, files of an earlier comparison are
            replaced, others of their names renamed.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {**comparison, "conclusions": conclusions(comparison)}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    replace_own(out / "comparison.json", text + "\n", '"conclusions": [')
    replace_own(out / "comparison.md", markdown(comparison), "Holm's correction over")


def note(comparison: Mapping[str, Any]) -> str:
    """Return how the figures were made.

    Args:
        comparison: As of `compare`.
    """
    used = {
        figures["test"]
        for row in comparison["rows"]
        for figures in row["methods"].values()
        if "test" in figures
    }
    return (
        f"p: {', '.join(sorted(used))}; Holm's correction over {comparison['tests']} tests. "
        f"Differences: paired bootstrap, {comparison['draws']:,} draws. Detectable: the least "
        "difference, in points, found with 80 % power at the share of questions answered "
        "differently here."
    )


def conclusions(comparison: Mapping[str, Any]) -> list[str]:
    """Say in plain sentences what can and what cannot be concluded.

    Args:
        comparison: As of `compare`.
    """
    rows = comparison["rows"]
    sets = [row for row in rows if row["name"] not in (MICRO, MACRO)]
    (overall,) = [row for row in rows if row["name"] == MICRO] or sets
    first, *others = comparison["methods"]
    sentences = []
    for name in others:
        sentences.append(_verdict(name, first, overall))
        if len(sets) > 1:
            sentences.append(_by_set(name, first, sets))
        sentences += _few(name, sets)
    return [*sentences, *_reach(comparison)]


def _verdict(name: str, first: str, row: Mapping[str, Any]) -> str:
    figures = row["methods"][name]
    low, high = figures["difference_interval"]
    facts = (
        f"{100 * figures['difference']:+.1f} points (95 % {100 * low:+.1f} to {100 * high:+.1f}, "
        f"adjusted p {_p(figures['p_holm'])}, {row['questions']:,} questions)"
    )
    if figures["p_holm"] <= ALPHA:
        better = "better" if figures["difference"] > 0 else "worse"
        return f"{name} is {better} than {first}: {facts}."
    missed = figures["detectable"]
    reach = "any difference" if missed is None else f"a difference below {100 * missed:.1f} points"
    return (
        f"It cannot be concluded that {name} and {first} differ: {facts}. Nor that they are equal: "
        f"these questions would miss {reach} more often than one time in five."
    )


def _by_set(name: str, first: str, sets: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for row in sets:
        figures = row["methods"][name]
        better = "better" if figures["difference"] > 0 else "worse"
        groups[better if figures["p_holm"] <= ALPHA else "undecided"].append(row["name"])
    parts = [f"{what} on {', '.join(where)}" for what, where in groups.items() if where]
    return f"{name} against {first}, set by set: {'; '.join(parts)}."


def _few(name: str, sets: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn of intervals that rest on next to nothing."""
    few = []
    for row in sets:
        figures = row["methods"][name]
        if "won" in figures:
            won, lost, n = figures["won"], figures["lost"], row["questions"]
            few += [row["name"]] if n - max(won, lost, n - won - lost) < _FEW else []
    if few:
        yield (
            f"{name}: on {', '.join(few)} fewer than {_FEW} questions came out otherwise than the "
            "rest; the interval of the difference there is too narrow, go by p."
        )


def _reach(comparison: Mapping[str, Any]) -> Iterator[str]:
    """Say what the intervals do not cover."""
    seeds = {len(folders) for folders in comparison["methods"].values()}
    if min(seeds) == 1:
        yield (
            "One evaluation does not show how much training seeds matter: for a claim about a "
            "training method rather than these models, give several seeds as name=folder,folder."
        )
    if any(1 < number < 5 for number in seeds):
        yield "With fewer than five seeds the intervals are too narrow rather than too wide."
    if comparison["warnings"]:
        yield "The evaluations were not made alike (see the warnings): that may be what differs."


def _compared(figures: Mapping[str, Any]) -> list[str]:
    if "difference" not in figures:
        return ["", "", "", ""]
    low, high = figures["difference_interval"]
    shown = f"{100 * figures['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    if "p" not in figures:
        return [shown, "", "", ""]
    missed = figures["detectable"]
    least = "none" if missed is None else f"{100 * missed:.1f}"
    return [shown, _p(figures["p"]), _p(figures["p_holm"]), least]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _escaped(text: str) -> str:
    """Return a text that ends neither its cell of a Markdown table nor its row."""
    return " ".join(text.replace("|", "\\|").split())
