"""Baselines on all sets: `python -m benchmarks.baselines --limit 100`.

It needs the data pack (`$AT2PO_DATA`). Episodes are kept under `runs/evaluations`, so a run that
was interrupted is resumed; after each agent it writes what there is so far into
`benchmarks/results/evaluations.json`. `python -m benchmarks.readme` puts that into
docs/results.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from at2po_agents.config.train import override
from at2po_agents.engines import EngineName
from at2po_agents.evaluation.settings import EvalConfig, agent_factory
from at2po_agents.rollout.environments import on_test_split
from benchmarks.environment import environment
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.records import SUMMARY, read_json
from benchmarks.evaluation.suite import evaluate_suite
from benchmarks.paper.table import SIZES
from retrieval.storage.files import write_whole

ROOT = Path(__file__).parents[2]
WORLDS = ("MiniWiki", "Calculator", "Household")
"""Generated environments; their scripted agents know their rules."""

_FIGURES = (
    "questions em em_interval f1 f1_interval cover_em cover_em_interval format_rate truncations"
).split()
_CARD = (
    "split scorer_version dialect prompt_hash max_tool_calls retriever index_hash documents "
    "corpus_hash top_k passage_chars"
).split()


@dataclass(frozen=True, slots=True)
class Entry:
    """An agent, and where it plays.

    Attributes:
        label: Name for the table.
        sets: Names of the environments: worlds or question sets, never both.
        settings: Dotted names and values of `EvalConfig`.
    """

    label: str
    sets: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _model(agent: str, label: str, **settings: Any) -> Entry:
    settings |= {"agent": agent, "model.name": "smollm2-135m"}
    return Entry(f"{label}, SmolLM2-135M", tuple(SIZES), settings)


AGENTS: dict[str, Entry] = {
    "scripted": Entry("scripted", WORLDS, {"agent": "scripted"}),
    "scripted-erring": Entry(
        "scripted, 30 % of turns wrong", WORLDS, {"agent": "scripted", "error_rate": 0.3}
    ),
    "mini": Entry("ReAct, embedded model", ("MiniWiki",), {"agent": "react", "model.name": "mini"}),
    "random-worlds": Entry("random actions", WORLDS, {"agent": "random"}),
    "titles": Entry(
        "scripted: searches once, answers with a title", tuple(SIZES), {"agent": "scripted"}
    ),
    "random": Entry("random actions", tuple(SIZES), {"agent": "random"}),
    "direct": _model("direct", "direct answer"),
    "direct-plain": _model("direct", "direct answer, plain", plain_answers=True),
    "rag": _model("rag", "one search (RAG)"),
    "rag-plain": _model("rag", "one search (RAG), plain", plain_answers=True),
    "react": _model("react", "ReAct"),
}
"""What is evaluated, the quick ones first."""


@dataclass(frozen=True, kw_only=True)
class EvaluationsConfig:
    """Evaluate the baselines on the generated worlds and the seven question sets."""

    limit: int = 100
    """Questions of each set, the first ones of its test split."""
    agents: tuple[str, ...] = tuple(AGENTS)
    """Agents to evaluate now; what was evaluated before stays in the result."""
    batch: int = 32
    """Episodes that run at a time."""
    max_response_tokens: int = 1024
    """Most tokens of a model after the prompt, passages included; the paper's limit is 6192."""
    engine: EngineName = "transformers"
    """What generates for the models; `vllm` needs the extra of that name."""
    runs: Path = Path("runs/evaluations")
    """Where the episodes are kept, a folder for each limit and agent."""
    out: Path = ROOT / "benchmarks" / "results" / "evaluations.json"
    """Where the result goes."""

    def __post_init__(self) -> None:
        """Check names now rather than after the first agent."""
        if unknown := set(self.agents) - AGENTS.keys():
            raise EvaluationError(
                f"agents: expected some of {', '.join(AGENTS)}, found {', '.join(sorted(unknown))}"
            )

    def folder(self, name: str) -> Path:
        """Return where an agent's episodes are."""
        return self.runs / f"limit-{self.limit}" / name


def evaluate_all(config: EvaluationsConfig) -> dict[str, Any]:
    """Evaluate the agents one after the other; the record is written again after each.

    Args:
        config: What to evaluate.

    Returns:
        The content of `evaluations.json`.
    """
    record: dict[str, Any] = {}
    for name in config.agents:
        entry = AGENTS[name]
        changes = {
            **entry.settings,
            "batch": config.batch,
            "max_response_tokens": config.max_response_tokens,
            "engine.name": config.engine,
        }
        settings = override(EvalConfig(), changes)
        evaluate_suite(
            agent_factory(settings),
            [f"at2po/{each}-v0" for each in entry.sets],
            env_options=lambda env_id: on_test_split(env_id, {}),
            limit=config.limit,
            batch=config.batch,
            out=config.folder(name),
        )
        record = collect(config)
        write_whole(config.out, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        sys.stderr.write(f"{name}: done\n")
    return record


def collect(config: EvaluationsConfig) -> dict[str, Any]:
    """Gather the finished evaluations of this limit.

    Args:
        config: Where they are.

    Returns:
        `limit`; `agents`: for each its `label`, `settings`, `micro`, `macro`, and the figures of
        its `sets`; `card`: the values that the evaluations on question sets have of each part, one
        where all agree; `environment`.
    """
    agents: dict[str, Any] = {}
    cards: list[Mapping[str, Any]] = []
    for name, entry in AGENTS.items():
        folder = config.folder(name)
        if not (folder / "summary.json").exists():
            continue
        summary = _read(folder)
        found = [_read(folder / each)["card"] for each in entry.sets]
        cards += [] if entry.sets[0] in WORLDS else found
        agents[name] = {
            "label": entry.label,
            "settings": found[0]["agent_settings"],
            "micro": summary["micro"],
            "macro": summary["macro"],
            "sets": {each: _figures(summary["sets"][each]) for each in entry.sets},
        }
    return {
        "limit": config.limit,
        "agents": agents,
        "card": {part: _values(part, cards) for part in _CARD},
        "environment": environment(),
    }


def _read(folder: Path) -> dict[str, Any]:
    return read_json(folder / "summary.json", EvaluationError, SUMMARY.name)


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: summary[name] for name in _FIGURES} | {"failures": len(summary["failures"])}


def _values(part: str, cards: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The different values that cards have of a part; an agent without search has no retriever."""
    values: list[Any] = []
    for value in (card.get(part) for card in cards):
        if value is not None and value not in values:
            values.append(value)
    return values


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, and say where the result is.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    config = tyro.cli(EvaluationsConfig, prog="python -m benchmarks.baselines", args=arguments)
    evaluate_all(config)
    sys.stdout.write(f"{config.out}\n")
