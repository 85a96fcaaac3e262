"""What lies in a folder, read into what a report shows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at2po_agents.monitoring.status import FILE as STATUS
from benchmarks.errors import RunFolderError
from benchmarks.evaluation.records import SUITE, SUMMARY, Record, check, read_json
from benchmarks.report.cases import (
    Case,
    Collection,
    alone,
    check_tree,
    from_episode,
    from_tree,
    pair,
)
from benchmarks.report.files import (
    check_episode,
    check_metrics,
    read_lines,
    read_settings,
    read_status,
    read_summary,
)
from benchmarks.report.tiles import Tile, evaluation_tiles, training_tiles
from benchmarks.report.trace_events import read_trace
from benchmarks.statistics.intervals import wilson

_STEP = re.compile(r"step_[0-9]{1,18}\.jsonl")


@dataclass(frozen=True)
class ReportContent:
    """What a page shows.

    Attributes:
        name: Name of the folder.
        title: Heading.
        lead: What was run, in a line.
        tiles: The most important figures; the first one is shown large.
        results: Figures of each evaluation by name, with 95 % intervals as `*_interval`.
        collections: What the explorer shows.
        final: By name of the set, the cases that are compared with another folder's.
        details: Headings and texts of what was configured.
        curve: Rows of `metrics.jsonl` of a training run.
        status: How a training run stands, if it says so.
        trace: Trace events of a training run, if it was one of several processes.
    """

    name: str
    title: str
    lead: str
    tiles: Sequence[Tile]
    results: Mapping[str, Record]
    collections: Sequence[Collection]
    final: Mapping[str, Sequence[Case]]
    details: Mapping[str, str]
    curve: Sequence[Record] = ()
    status: Record | None = None
    trace: Mapping[str, Any] | None = None


def read(folder: Path) -> ReportContent:
    """Read a training run, an evaluation of one or several sets, or a folder of trees.

    Args:
        folder: The folder.

    Returns:
        What its report shows.

    Raises:
        RunFolderError: If it is none of these, incomplete or damaged.
    """
    try:
        return _reader(folder)(folder)
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{folder}: expected a complete training run or evaluation, found no "
            f"{Path(error.filename).name}; let it end, or name another folder"
        ) from error


def _reader(folder: Path) -> Callable[[Path], ReportContent]:
    if (folder / "metrics.jsonl").exists() or (folder / "config.toml").exists():
        return _training_run
    if (folder / "episodes.jsonl").exists() or (folder / "summary.json").exists():
        return _evaluation
    if any(folder.glob("*.jsonl")):
        return _trees
    raise RunFolderError(
        f"{folder}: expected a training run (metrics.jsonl), an evaluation (episodes.jsonl) or "
        "rollout trees (*.jsonl), found none of these; name another folder"
    )


def _training_run(folder: Path) -> ReportContent:
    config, settings = read_settings(folder / "config.toml")
    status = read_status(folder / STATUS)
    rows = read_lines(folder / "metrics.jsonl", check_metrics, growing=True)
    ended = status is None or status["state"] == "finished"
    summary = read_summary(folder / "summary.json") if ended else _so_far(settings, rows)
    evaluated = [row for row in rows if "eval/em" in row]
    episodes = [_episodes(path) for path in _by_step(folder / "episodes")]
    if not (evaluated and episodes):
        raise RunFolderError(
            f"{folder}: expected at least one evaluation, found none in metrics.jsonl or episodes; "
            "restore the files, or name another folder"
        )
    algorithm = settings["algorithm"]
    chains = algorithm.get("initial_chains") or algorithm.get("chains") or math.inf
    trees = [
        alone(f"Rollout trees of step {_step(path)}", _trees_of(path, chains))
        for path in reversed(_by_step(folder / "trees"))
    ]
    before_after = Collection(
        "Evaluation, before and after", ("before", "after"), pair(episodes[0], episodes[-1])
    )
    return ReportContent(
        name=folder.resolve().name,
        title=f"{summary['algorithm'].upper()} on {summary['env']}",
        lead=f"model {summary['model']} · seed {summary['seed']}",
        tiles=training_tiles(summary, evaluated[0], evaluated[-1]),
        results={f"step {row['step']}": _evaluated(row) for row in evaluated},
        collections=[*trees[:1], before_after, *trees[1:]],
        final={"": episodes[-1]},
        details={"Configuration": config.strip()},
        curve=rows,
        status=status,
        trace=read_trace(folder),
    )


def _so_far(settings: Record, rows: Sequence[Record]) -> dict[str, Any]:
    """What the summary of a run that has not ended well would hold."""
    model = settings.get("model", "?")
    return {
        "algorithm": str(settings["algorithm"].get("name", "?")),
        **{name: settings.get(name, "?") for name in ("env", "seed")},
        "model": model.get("name", "?") if isinstance(model, Mapping) else model,
        "steps": rows[-1]["step"] if rows else 0,
        "sampled_tokens": sum(row.get("tokens/sampled") or 0 for row in rows),
    }


def _evaluation(folder: Path) -> ReportContent:
    path = folder / "summary.json"
    summary = read_json(path, RunFolderError, SUMMARY.name)
    if "sets" in summary:
        return _evaluation_of_sets(folder, summary)
    check(SUMMARY, summary, ("agent", "env", "questions"), str(path), RunFolderError)
    cases = _episodes(folder / "episodes.jsonl")
    if len(cases) < summary["questions"]:
        raise RunFolderError(
            f"{folder / 'episodes.jsonl'}: expected the {summary['questions']} episodes that "
            f"summary.json counts, found {len(cases)}; evaluate again with the same --out"
        )
    card = summary.get("card", summary)
    return ReportContent(
        name=folder.resolve().name,
        title=summary["env"],
        lead=f"agent {summary['agent']} · {summary['questions']:,} questions",
        tiles=evaluation_tiles(summary),
        results={summary["env"]: summary},
        collections=[alone("Episodes", cases)],
        final={"": cases},
        details={"Evaluation": json.dumps(card, indent=2, ensure_ascii=False)},
    )


def _evaluation_of_sets(folder: Path, summary: Record) -> ReportContent:
    where = str(folder / "summary.json")
    check(SUITE, summary, ("agent", "questions", "sets"), where, RunFolderError)
    averages = {f"{n} average": summary[n] for n in ("micro", "macro") if n in summary}
    for average in averages.values():
        check(SUMMARY, average, (), where, RunFolderError)
    there = [each.name for each in folder.iterdir() if each.is_dir()]
    missing = [name for name in summary["sets"] if name not in there]
    if missing or not summary["sets"]:
        found = f"no folder {missing[0]!r:.80}" if missing else "no set"
        raise RunFolderError(
            f"{where}: expected sets, each with its folder, found {found}; {SUITE.fix}"
        )
    sets = {name: _evaluation(folder / name) for name in summary["sets"]}
    cases = {name: found for name, each in sets.items() for found in each.final.values()}
    return ReportContent(
        name=folder.resolve().name,
        title=", ".join(sets),
        lead=f"agent {summary['agent']} · {summary['questions']:,} questions",
        tiles=evaluation_tiles(
            {
                "questions": summary["questions"],
                "failed": summary.get("failures"),
                **summary.get("micro", {}),
            }
        ),
        results={name: each.results[each.title] for name, each in sets.items()} | averages,
        collections=[alone(name, found) for name, found in cases.items()],
        final=cases,
        details={name: each.details["Evaluation"] for name, each in sets.items()},
    )


def _trees(folder: Path) -> ReportContent:
    paths = sorted(folder.glob("*.jsonl"), key=lambda path: _natural(path.stem))
    cases = {path.stem: _trees_of(path, math.inf) for path in paths}
    leaves = [leaf for found in cases.values() for case in found for leaf in case.leaves]
    if not leaves:
        raise RunFolderError(f"{folder}: expected rollout trees, found none; name another folder")
    right = sum(leaf["right"] for leaf in leaves) / len(leaves)
    trees = sum(map(len, cases.values()))
    counts = [(f"{trees:,}", "trees"), (f"{len(leaves):,}", "leaves")]
    return ReportContent(
        name=folder.resolve().name,
        title="Rollout trees",
        lead=folder.resolve().name,
        tiles=[(f"{right:.1%}", "right leaves"), *counts],
        results={},
        collections=[alone(name, found) for name, found in cases.items()],
        final=cases,
        details={},
    )


def _evaluated(row: Record) -> dict[str, Any]:
    """The figures of a row of `metrics.jsonl`, named as in an evaluation's summary."""
    figures = {k.removeprefix("eval/"): v for k, v in row.items() if k.startswith("eval/")}
    return {**figures, "em_interval": wilson(figures["em"], figures["questions"])}


def _episodes(path: Path) -> list[Case]:
    """Read episodes; of a question that was tried again the last one counts."""
    records = {record["question_key"]: record for record in read_lines(path, check_episode)}
    ordered = sorted(records.values(), key=lambda each: _natural(each.get("question_id", "")))
    return [from_episode(record) for record in ordered]


def _trees_of(path: Path, chains: float) -> list[Case]:
    return [from_tree(tree, chains) for tree in read_lines(path, check_tree)]


def _by_step(folder: Path) -> list[Path]:
    """Files of steps, whose names we gave, in order; others there are none of ours."""
    numbered = [path for path in folder.glob("*.jsonl") if _STEP.fullmatch(path.name)]
    return sorted(numbered, key=_step)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _natural(name: str) -> tuple[list[Any], str]:
    """A sorting key by which 10 comes after 9; words and numbers alternate in it."""
    parts = re.split(r"([0-9]+)", name)
    # Numbers are compared by their digits: some names have more of them than Python converts.
    digits = (part.lstrip("0") for part in [*parts[1::2], ""])
    return [p for w, d in zip(parts[::2], digits, strict=True) for p in (w, (len(d), d))], name
