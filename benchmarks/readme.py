"""Measured figures into README.md and docs: `python -m benchmarks.readme [runs/demo]`.

They come from the JSON files in `benchmarks/results`; none is typed by hand. With the folder of a
demo run, that run is put on record first, together with the environment it was made in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from at2po_agents.monitoring.metrics_log import read_metrics
from benchmarks.baselines import table as results_table
from benchmarks.curves import save_curves
from benchmarks.environment import environment
from benchmarks.methods.summary import table
from benchmarks.scale.tables import scale
from benchmarks.speed.tables import rollout_speed, scaling, train_speed
from benchmarks.statistics.intervals import wilson

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "demo.svg"


def demo(result: Mapping[str, Any]) -> str:
    """Return what the README says about the demo.

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


def forking(result: Mapping[str, Any]) -> str:
    """Return what the README says about the speed of environments.

    Args:
        result: The content of `env_throughput.json`.

    Returns:
        Two Markdown tables and where they come from.
    """
    depths, steps = result["forking_by_depth"], result["steps_per_second"]
    lines = [f"| after | {' | '.join(f'{depth} turns' for depth in depths)} |"]
    lines.append("|---|" + "---:|" * len(depths))
    for name, label in (
        ("snapshot_us", "`snapshot`, µs"),
        ("restore_us", "`restore`, µs"),
        ("fork_us", "`fork`, µs"),
        ("replay_us", "replaying the turns instead, µs"),
        ("deepcopy_us", "`copy.deepcopy` instead, µs"),
    ):
        cells = (f"{figures[name]:,.1f}" for figures in depths.values())
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", f"| turns per second, {result['envs']} episodes | at once | tool of 5 ms |"]
    lines.append("|---|---:|---:|")
    rows = {"one by one": ("one_by_one", steps), "`make_vec`": ("vector", steps)}
    if result["peer"]:
        peer = result["peer"]["steps_per_second"]
        package = result["peer"]["package"]
        rows[f"{package}, vector"] = ("sync_vector", peer)
        rows[f"{package}, vector of {result['envs']} threads"] = ("thread_vector", peer)
    for label, (name, rates) in rows.items():
        cells = (f"{rates[delay][name]:,.0f}" for delay in ("no_delay", "delay"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _machine(result)])


def retrieval(result: Mapping[str, Any]) -> str:
    """Return what the README says about the quality of retrieval.

    Args:
        result: The content of `retrieval_quality.json`.

    Returns:
        A Markdown table and where it comes from.
    """
    measures = ("answer_recall@3", "answer_recall@10", "title_recall@3", "title_recall@10")
    lines = [f"| recall, % | {' | '.join(m.replace('_recall@', ' in top ') for m in measures)} |"]
    lines.append("|---|" + "---:|" * len(measures))
    for name, sets in result["retrievers"].items():
        cells = (f"{100 * sets['all'][measure]:.1f}" for measure in measures)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    questions = next(iter(result["retrievers"].values()))["all"]["questions"]
    return "\n".join([*lines, "", f"{questions:,} questions of seven sets, 49,265 passages."])


def comparison(result: Mapping[str, Any]) -> str:
    """Return what the README says about the comparison of all methods.

    Args:
        result: The content of `compare.json`.

    Returns:
        A Markdown table, the figure, and how far it can be trusted.
    """
    seeds, machine = result["seeds"], result["environment"]
    over = f"{seeds} seeds and {result['questions']}" if seeds > 1 else f"{result['questions']}"
    lines = [*table(result["methods"]), ""]
    if result["quick"]:
        lines += [
            "**A first look (`make methods QUICK=1`): one seed and a small budget, so these "
            "figures rank nothing.** Intervals cover questions, not seeds.",
            "",
        ]
    clear = [
        method["label"]
        for method in result["methods"].values()
        if (apart := method["difference"]) and (apart["low"] > 0 or apart["high"] < 0)
    ]
    lines += [f"Clearly apart from AT²PO at the end: {', '.join(clear) or 'none'}.", ""]
    if missing := result["runs"] - result["runs_complete"]:
        lines += [f"{missing} of {result['runs']} runs are missing.", ""]
    lines += [
        f"MiniWiki, embedded model, {result['budget']:,} sampled tokens per run, learning rate "
        f"{result['learning_rate']:g} and {result['mini_batches']} updates per step for all; 95 % "
        f"bootstrap intervals over {over} unseen questions; {machine['cores']} cores of an "
        f"{machine['cpu']}.",
        "",
        "![Exact match against sampled tokens](docs/compare.svg)",
    ]
    return "\n".join(lines)


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["environment"]
    load = f"; load average at the start {result['load_average']:.1f}"
    return f"{machine['cores']} cores of an {machine['cpu']}{load}."


Blocks = dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]]

DOCUMENTS: dict[str, Blocks] = {
    "README.md": {
        "compare": ("compare.json", comparison),
        "demo": ("demo.json", demo),
        "forking": ("env_throughput.json", forking),
        "retrieval": ("retrieval_quality.json", retrieval),
    },
    "docs/speed.md": {
        "rollout_speed": ("rollout_speed.json", rollout_speed),
        "train_speed": ("train_speed.json", train_speed),
        "scaling": ("scaling.json", scaling),
    },
    "docs/scale.md": {
        "scale": ("scale.json", scale),
    },
    "docs/results.md": {
        "question-sets": ("evaluations.json", results_table.question_sets),
        "worlds": ("evaluations.json", results_table.worlds),
        "card": ("evaluations.json", results_table.card),
        "paper": ("evaluations.json", results_table.paper),
    },
}
"""Document -> names of its blocks -> the file in `benchmarks/results`, and what writes it."""


def fill(document: str, name: str, text: str) -> str:
    """Return a document with a text between the markers of a block.

    Args:
        document: Its text.
        name: Name of the block.
        text: What is to stand there.

    Raises:
        ValueError: If the markers are missing.
    """
    begin, finish = f"<!-- {name}:begin", f"<!-- {name}:end -->"
    start, end = document.find(begin), document.find(finish)
    if start < 0 or end < start:
        raise ValueError(f"expected the markers {begin!r} and {finish!r}, found them not")
    head = document[: document.index("\n", start) + 1]
    return f"{head}{text}\n{document[end:]}"


def fill_all(document: str, blocks: Blocks) -> str:
    """Return a document with all blocks as their files say.

    Args:
        document: Its text.
        blocks: Its blocks, as in `DOCUMENTS`.
    """
    for name, (file, write) in blocks.items():
        result = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        document = fill(document, name, write(result))
    return document


def record(run: Path) -> None:
    """Put a demo run on record: `demo.json` and its curve.

    Args:
        run: The run's folder.
    """
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
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    save_curves(rows, FIGURE)


def main(arguments: Sequence[str]) -> None:
    """Record a demo run if one is named, and write the figures."""
    if arguments:
        record(Path(arguments[0]))
    for name, blocks in DOCUMENTS.items():
        path = ROOT / name
        path.write_text(fill_all(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
