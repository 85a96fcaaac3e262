"""The report of a training run: one HTML file that needs nothing else.

`python -m benchmarks.report RUN` writes `RUN/report.html` and the learning curve as
`RUN/learning_curve.svg`.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import markup
from benchmarks.curves import inline_curves, save_curves
from benchmarks.errors import RunFolderError
from benchmarks.intervals import wilson
from benchmarks.style import CSS

Record = Mapping[str, Any]

_SHOWN = (
    ("Turned from wrong to right", False, True, 6),
    ("Turned from right to wrong", True, False, 2),
    ("Still wrong", False, False, 4),
)
"""Heading, right before, right after, and how many such questions are shown."""

_COLUMNS = (
    ("F1", "f1", ".3f"),
    ("format", "format_rate", ".1%"),
    ("searches", "searches", ".2f"),
    ("turns", "turns", ".2f"),
)
"""Heading, metric under "eval/", and format of an evaluation's further columns."""


@dataclass(frozen=True)
class _Run:
    """What a run's folder holds.

    Attributes:
        config: Text of `config.toml`.
        summary: Content of `summary.json`.
        rows: Rows of `metrics.jsonl`.
        before: Records of the first evaluation.
        after: Records of the last one.
        trees: Rollout trees of the last evaluated step; none in a run of 0 steps.
    """

    config: str
    summary: Record
    rows: Sequence[Record]
    before: Sequence[Record]
    after: Sequence[Record]
    trees: Sequence[Record]

    @property
    def evaluated(self) -> list[Record]:
        """The rows that hold an evaluation."""
        return [row for row in self.rows if "eval/em" in row]


def write_report(run_dir: Path) -> Path:
    """Write the report of a complete training run.

    Args:
        run_dir: Folder of the run.

    Returns:
        Path of `report.html` in it.

    Raises:
        RunFolderError: If the folder is not that of a complete run.
    """
    run = _read(run_dir)
    save_curves(run.rows, run_dir / "learning_curve.svg")
    title = f"{run.summary['algorithm'].upper()} on {run.summary['env']}"
    body = "".join((_head(run, title), _curves(run), _comparison(run), _tree(run), _config(run)))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body>{body}</body></html>\n"
    )
    path = run_dir / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _read(folder: Path) -> _Run:
    episodes = sorted((folder / "episodes").glob("step_*.jsonl"), key=_step)
    trees = sorted((folder / "trees").glob("step_*.jsonl"), key=_step)
    try:
        run = _Run(
            config=(folder / "config.toml").read_text(encoding="utf-8"),
            summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            rows=_lines(folder / "metrics.jsonl"),
            before=_lines(episodes[0]) if episodes else (),
            after=_lines(episodes[-1]) if episodes else (),
            trees=_lines(trees[-1]) if trees else (),
        )
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{folder}: expected a complete training run, found no {Path(error.filename).name}; "
            "let the run end (at2po train --resume), or name another folder"
        ) from error
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{folder}: expected JSON in the files of the run, found: {error}; restore the file"
        ) from error
    if not (run.evaluated and run.before):
        raise RunFolderError(
            f"{folder}: expected at least one evaluation, found none in metrics.jsonl or episodes; "
            "restore the files, or name another folder"
        )
    return run


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _lines(path: Path) -> list[Record]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _head(run: _Run, title: str) -> str:
    summary, first, last = run.summary, run.evaluated[0], run.evaluated[-1]
    questions = last["eval/questions"]
    gain = 100 * (last["eval/em"] - first["eval/em"])
    totals = [
        (f"{_share(first)} → {_share(last)}", f"greedy exact match ({gain:+.1f} points)"),
        (f"{questions:,}", "evaluation questions"),
        (f"{summary['steps']:,}", "training steps"),
        (f"{summary['sampled_tokens']:,}", "sampled tokens"),
        (_duration(summary["seconds"]), "wall-clock time"),
    ]
    changes = [
        (f"{first[f'eval/{key}']:{form}} → {last[f'eval/{key}']:{form}}", name)
        for name, key, form in _COLUMNS
    ]
    facts = f"model {summary['model']} · seed {summary['seed']}"
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(facts)}</p></header>'
        f"{_tiles(totals, first=' main')}{_tiles(changes)}"
    )


def _tiles(figures: Sequence[tuple[str, str]], first: str = "") -> str:
    """Show figures with their names, side by side; `first` is a further class of the first one."""
    boxes = "".join(
        f'<div class="tile{"" if place else first}"><b>{escape(value)}</b>'
        f"<span>{escape(name)}</span></div>"
        for place, (value, name) in enumerate(figures)
    )
    return f'<div class="tiles">{boxes}</div>'


def _curves(run: _Run) -> str:
    heads = "".join(f"<th>{name}</th>" for name, _, _ in _COLUMNS)
    lines = "".join(
        f"<tr><td>{row['step']}</td><td>{_share(row)}</td><td>{_interval(row)}</td>"
        + "".join(f"<td>{row[f'eval/{key}']:{form}}</td>" for _, key, form in _COLUMNS)
        + "</tr>"
        for row in run.evaluated
    )
    return (
        "<section><h2>Learning curve</h2><p>Greedy exact match on the evaluation questions, with "
        "its 95 % Wilson interval, and the exact match of the sampled training rollouts.</p>"
        f'<div class="charts">{"".join(inline_curves(run.rows))}</div>'
        "<details><summary>All evaluations</summary>"
        f'<div class="scroll"><table><thead><tr><th>step</th><th>EM</th><th>95 %</th>{heads}'
        f"</tr></thead><tbody>{lines}</tbody></table></div></details></section>"
    )


def _comparison(run: _Run) -> str:
    after = {record["question_key"]: record for record in run.after}
    pairs = [(record, after[record["question_key"]]) for record in run.before]
    parts = []
    for heading, was, became, shown in _SHOWN:
        these = [(b, a) for b, a in pairs if (bool(b["em"]), bool(a["em"])) == (was, became)]
        cards = "".join(_card(before, later) for before, later in these[:shown])
        count = f'<span class="note">({len(these)} of {len(pairs)})</span>'
        parts.append(f"<h3>{heading} {count}</h3>{cards}")
    return (
        "<section><h2>The same questions before and after</h2><p>Greedy rollouts of the policy "
        "that training started from and of the one it ended with, the first few of each kind. "
        "Unfold one to read it whole: what the agent wrote, and indented what the search tool "
        f"answered.</p>{''.join(parts)}</section>"
    )


def _card(before: Record, after: Record) -> str:
    golds = " | ".join(before["golden_answers"])
    return (
        f'<article class="card"><div class="asked">{escape(before["question"])}</div>'
        f'<div class="gold">golden answer: {escape(golds)}</div><div class="pair">'
        f"{markup.episode(before, label='before')}{markup.episode(after, label='after')}"
        "</div></article>"
    )


def _tree(run: _Run) -> str:
    if not run.trees:
        return ""
    tree = markup.telling(run.trees)
    question = tree["question"]
    golds = " | ".join(question["golden_answers"])
    chains = tomllib.loads(run.config)["algorithm"].get("chains", math.inf)
    return (
        "<section><h2>One expanded tree</h2><p>A question of the last training step. Every line is "
        "a turn, the turns below it follow from what it was answered; click to read it. The "
        "surprisal of a turn, the mean of −log p over its tokens in nats, decides which turns are "
        "sampled again (<em>fork</em>); its value is estimated from the rewards of all that "
        "follows, and its advantage weighs its tokens in the loss.</p>"
        f'<div class="asked">{escape(question["question"])}</div>'
        f'<div class="gold">golden answer: {escape(golds)}</div>'
        '<div class="columns"><span class="does">turn</span><span class="figures">'
        "<span>surprisal</span><span>value</span><span>advant.</span><span>reward</span></span>"
        f"</div>{markup.tree(tree, chains)}</section>"
    )


def _config(run: _Run) -> str:
    return (
        f"<section><h2>Configuration</h2><pre>{escape(run.config.strip())}</pre></section>"
        "<footer>Made by at2po from config.toml, metrics.jsonl, summary.json, episodes/ and trees/ "
        "of this folder.</footer>"
    )


def _share(row: Record) -> str:
    return f"{row['eval/em']:.1%}"


def _interval(row: Record) -> str:
    low, high = wilson(row["eval/em"], row["eval/questions"])
    return f"{low:.1%} – {high:.1%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a training run")
    try:
        path = write_report(parser.parse_args().run)
    except RunFolderError as error:
        parser.error(str(error))
    parser.exit(message=f"{path}\n")


if __name__ == "__main__":
    _main()
