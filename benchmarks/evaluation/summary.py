"""What an evaluation came to: the figures over its episodes, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from benchmarks.statistics.intervals import bootstrap, wilson
from retrieval.text import to_unicode

_ADDED = tuple(
    "em f1 cover_em format_ok turns searches truncated limit_reached tokens prompt_tokens "
    "cost".split()
)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an evaluation.

    Attributes:
        agent: The agent's attribute `name`, or the name of its class.
        env: Id of the environment.
        env_options: Keyword arguments of the environment.
        questions: Number of questions, one episode each.
        failed: Episodes that failed: the agent gave no turn. They count as wrong in all figures.
        em: Share of exactly matching answers.
        em_interval: 95 % Wilson interval of `em`.
        cover_em: Share of answers that contain a golden one.
        cover_em_interval: 95 % Wilson interval of `cover_em`.
        f1: Mean token F1.
        f1_interval: 95 % bootstrap interval of `f1`.
        format_rate: Share of episodes in the right format.
        searches: Tool calls per episode, mean.
        turns: Turns per episode, mean.
        retrieval_recall: Mean share of the supporting titles that were retrieved, over the
            episodes whose questions name some; None where none does.
        truncations: Episodes cut off because the agent's budget ended.
        limit_hits: Episodes that reached the limit of tool calls.
        tool_failures: Episodes in which a tool failed.
        tokens: Tokens that the agent sampled in all.
        prompt_tokens: Tokens that it read, in all calls together.
        cost: US dollars, at the prices that the agent was given.
        failures: Question and error of each episode that failed.
        card: What was evaluated on what.
        seconds: Time that this call took; not in the summary.
        episodes: The record of every episode, in the order of the questions; with a folder they
            are read from it when asked for.
    """

    agent: str
    env: str
    env_options: Mapping[str, Any]
    questions: int
    failed: int
    em: float
    em_interval: tuple[float, float]
    cover_em: float
    cover_em_interval: tuple[float, float]
    f1: float
    f1_interval: tuple[float, float]
    format_rate: float
    searches: float
    turns: float
    retrieval_recall: float | None
    truncations: int
    limit_hits: int
    tool_failures: int
    tokens: int
    prompt_tokens: int
    cost: float
    failures: Sequence[Mapping[str, str]]
    card: Mapping[str, Any] = field(repr=False)
    seconds: float
    episodes: Sequence[Mapping[str, Any]] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`: what does not depend on the clock."""
        left_out = ("seconds", "episodes")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}


def summarise(
    episodes: Sequence[Mapping[str, Any]], card: Mapping[str, Any], seconds: float
) -> Report:
    """Summarise the episodes in the order of the questions, whenever each of them was played.

    Args:
        episodes: The records, in the order of the questions, at least one.
        card: What was evaluated on what.
        seconds: Time that it took.

    Returns:
        The result; nothing in it but `seconds` depends on the clock.
    """
    columns: dict[str, list[float]] = {name: [] for name in (*_ADDED, "tool_failed", "recall")}
    failures = []
    for episode in episodes:
        for name in _ADDED:
            columns[name].append(float(episode[name]))
        columns["tool_failed"].append("tool_failed" in episode["flags"])
        if episode.get("retrieval_recall") is not None:
            columns["recall"].append(episode["retrieval_recall"])
        if episode["error"]:
            about = ("question_id", "question_key", "error")
            failures.append({name: to_unicode(episode[name]) for name in about})
    n = len(episodes)
    mean = {name: sum(values) / n for name, values in columns.items()}
    count = {name: round(sum(values)) for name, values in columns.items()}
    recall = columns["recall"]
    return Report(
        agent=card["agent"],
        env=card["env"],
        env_options=card["env_options"],
        questions=n,
        failed=len(failures),
        em=mean["em"],
        em_interval=wilson(mean["em"], n),
        cover_em=mean["cover_em"],
        cover_em_interval=wilson(mean["cover_em"], n),
        f1=mean["f1"],
        f1_interval=bootstrap(np.array([columns["f1"]])),
        format_rate=mean["format_ok"],
        searches=mean["searches"],
        turns=mean["turns"],
        retrieval_recall=sum(recall) / len(recall) if recall else None,
        truncations=count["truncated"],
        limit_hits=count["limit_reached"],
        tool_failures=count["tool_failed"],
        tokens=count["tokens"],
        prompt_tokens=count["prompt_tokens"],
        cost=sum(columns["cost"]),
        failures=failures,
        card=card,
        seconds=seconds,
        episodes=episodes,
    )
