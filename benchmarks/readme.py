"""Write the demo's figures into README.md: `python -m benchmarks.readme runs/demo`.

The figures come from `benchmarks/results/demo.json`, which this script makes from a run's folder
together with the environment that the run was made in; none is typed by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from at2po_agents.metrics import read_metrics
from benchmarks.curves import save_curves
from benchmarks.environment import environment
from benchmarks.intervals import wilson

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "demo.json"
FIGURE = ROOT / "docs" / "demo.svg"
BEGIN, END = "<!-- demo:begin", "<!-- demo:end -->"


def block(result: Mapping[str, Any]) -> str:
    """Return the README's text about the demo.

    Args:
        result: The content of `demo.json`.

    Returns:
        A Markdown table, the figure and where they come from.
    """
    summary, machine = result["summary"], result["environment"]
    questions = summary["questions"]
    lines = ["| | warm start | after training |", "|---|---:|---:|"]
    cells = []
    for name in ("em_before", "em_after"):
        low, high = wilson(summary[name], questions)
        cells.append(f"{summary[name]:.3f} ({low:.3f} to {high:.3f})")
    lines.append(f"| greedy EM, {questions} unseen questions (95 %) | {' | '.join(cells)} |")
    first, last = result["evaluations"][0], result["evaluations"][-1]
    for name, label in (("searches", "searches"), ("turns", "turns"), ("format_rate", "format")):
        lines.append(f"| {label} | {first[f'eval/{name}']:.2f} | {last[f'eval/{name}']:.2f} |")
    minutes, tokens = summary["seconds"] / 60, summary["sampled_tokens"]
    lines += [
        "",
        f"{summary['steps']} AT²PO steps, {tokens:,} sampled tokens, {minutes:.1f} minutes with "
        f"all evaluations on {machine['cores']} cores of an {machine['cpu']} "
        f"(torch {machine['versions']['torch']}, seed {summary['seed']}).",
        "",
        "![Exact match against steps and sampled tokens](docs/demo.svg)",
    ]
    return "\n".join(lines)


def fill(readme: str, text: str) -> str:
    """Return the README with the text between its markers.

    Args:
        readme: The README.
        text: What is to stand there.

    Raises:
        ValueError: If the markers are missing.
    """
    start, end = readme.find(BEGIN), readme.find(END)
    if start < 0 or end < start:
        raise ValueError(f"README.md: expected the markers {BEGIN!r} and {END!r}, found them not")
    head = readme[: readme.index("\n", start) + 1]
    return f"{head}{text}\n{readme[end:]}"


def main(arguments: Sequence[str]) -> None:
    """Record a demo run, draw its curve and write the README's figures."""
    run = Path(arguments[0] if arguments else "runs/demo")
    rows = read_metrics(run / "metrics.jsonl")
    result = {
        "summary": json.loads((run / "summary.json").read_text(encoding="utf-8")),
        "evaluations": [
            {name: row[name] for name in row if name == "step" or name.startswith("eval/")}
            for row in rows
            if "eval/em" in row
        ],
        "environment": environment(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    save_curves(rows, FIGURE)
    readme = ROOT / "README.md"
    filled = fill(readme.read_text(encoding="utf-8"), block(result))
    readme.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
