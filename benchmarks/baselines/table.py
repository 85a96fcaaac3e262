"""What docs/results.md says about the baselines, from `evaluations.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.baselines.study import WORLDS
from benchmarks.paper.table import SIZES, averages
from benchmarks.statistics.significance import detectable_paired

_DISCORDANT = 0.2  # share of questions that two agents answer differently; an assumption
_MODEL, _METHODS = "Qwen3-4B", ("ReAct", "GRPO", "AT²PO")
_HEADS = (
    "set",
    "n",
    "agent",
    "EM % (95 %)",
    "F1 % (95 %)",
    "cover-EM % (95 %)",
    "in form %",
    "cut off",
    "failed",
)


def question_sets(result: Mapping[str, Any]) -> str:
    """Return the table of the seven sets, with both averages.

    Args:
        result: The content of `evaluations.json`.
    """
    agents = [each for each in result["agents"].values() if SIZES.keys() <= each["sets"].keys()]
    rows = [row for name in SIZES for row in _set_rows(name, agents)]
    for key, name in (("micro", "all questions (micro)"), ("macro", "mean of sets (macro)")):
        number = str(agents[0]["micro"]["questions"]) if agents and key == "micro" else ""
        rows += _blanked([[name, number, each["label"], *_figures(each[key])] for each in agents])
    return "\n".join(_table(_HEADS, rows))


def worlds(result: Mapping[str, Any]) -> str:
    """Return the table of the generated worlds.

    Args:
        result: The content of `evaluations.json`.
    """
    agents = list(result["agents"].values())
    return "\n".join(_table(_HEADS, [row for name in WORLDS for row in _set_rows(name, agents)]))


def card(result: Mapping[str, Any]) -> str:
    """Return what all evaluations on the question sets share, and the settings of each agent.

    Args:
        result: The content of `evaluations.json`.
    """
    machine = result["environment"]
    shared = {part.replace("_", " "): values for part, values in result["card"].items() if values}
    rows = [[name, ", ".join(f"`{value}`" for value in values)] for name, values in shared.items()]
    rows.append(["questions", f"the first {result['limit']} of each test split, or all there are"])
    for agent in result["agents"].values():
        left_out = ("own_prompt", "stop")
        settings = {k: v for k, v in agent["settings"].items() if k not in left_out}
        if settings:
            rows.append([agent["label"], ", ".join(f"{k} `{v}`" for k, v in settings.items())])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    rows.append(["versions", versions])
    rows.append(["source", f"`{machine['git_commit']}`"])
    return "\n".join(_table(("card", ""), rows))


def paper(result: Mapping[str, Any]) -> str:
    """Return the paper's numbers, beside what our questions could tell apart.

    Args:
        result: The content of `evaluations.json`; of it the numbers of questions.
    """
    table = [row for row in averages() if row.model == _MODEL]
    asked = {
        name: figures["questions"]
        for agent in result["agents"].values()
        for name, figures in agent["sets"].items()
    }
    rows = []
    for name, size in SIZES.items():
        cells = {row.method: row.cells[name] for row in table if name in row.cells}
        shown = [f"{float(cells[method]):.2f}" for method in _METHODS]
        found = [_detectable(number) for number in (size, asked.get(name, 0))]
        rows.append([name, f"{size:,}", *shown, found[0], str(asked.get(name, "")), found[1]])
    heads = ("set", "n, paper", *_METHODS, "detectable", "n, here", "detectable here")
    return "\n".join(_table(heads, rows))


def _set_rows(name: str, agents: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    found = [(each["label"], each["sets"][name]) for each in agents if name in each["sets"]]
    return _blanked(
        [[name, str(of["questions"]), label, *_figures(of), *_counts(of)] for label, of in found]
    )


def _figures(figures: Mapping[str, Any]) -> Iterator[str]:
    for name in ("em", "f1", "cover_em"):
        low, high = figures[f"{name}_interval"]
        yield f"{100 * figures[name]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _counts(figures: Mapping[str, Any]) -> list[str]:
    formed = f"{100 * figures['format_rate']:.0f}"
    return [formed, *(str(figures[name]) for name in ("truncations", "failures"))]


def _detectable(questions: int) -> str:
    least = detectable_paired(questions, _DISCORDANT) if questions else None
    return "" if least is None else f"{100 * least:.1f}"


def _blanked(rows: Sequence[list[str]]) -> list[list[str]]:
    """Name the set in its first row only."""
    return [row if not number else ["", "", *row[2:]] for number, row in enumerate(rows)]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    padded = [[*row, *[""] * (len(heads) - len(row))] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *padded)]
