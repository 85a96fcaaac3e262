"""Evaluation: any agent on any environment, many episodes at a time, each of them on record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium

import at2po_envs
from at2po_agents.agents import Agent, Reply
from at2po_agents.environments import make_env
from at2po_envs.errors import nearest
from benchmarks.environment import library_versions
from benchmarks.errors import EvaluationError, ReplyError
from benchmarks.intervals import wilson


@dataclass(frozen=True, slots=True)
class Report:
    """The result of an evaluation.

    Attributes:
        agent: Name of the agent's class, or its attribute `name`.
        env: Id of the environment.
        env_options: Keyword arguments of the environment.
        questions: Number of questions, one episode each.
        em: Share of exactly matching answers.
        em_interval: 95 % Wilson interval of `em`.
        f1: Mean token F1.
        format_rate: Share of episodes in the right format.
        searches: Tool calls per episode, mean.
        turns: Turns per episode, mean.
        truncations: Episodes cut off because the agent's budget ended.
        limit_hits: Episodes that reached the limit of tool calls.
        tool_failures: Episodes in which a tool failed.
        tokens: Tokens that the agent sampled in all.
        seconds: Time that the evaluation took.
        versions: Versions of the libraries used.
        episodes: The record of every episode, in the order of the questions.
    """

    agent: str
    env: str
    env_options: Mapping[str, Any]
    questions: int
    em: float
    em_interval: tuple[float, float]
    f1: float
    format_rate: float
    searches: float
    turns: float
    truncations: int
    limit_hits: int
    tool_failures: int
    tokens: int
    seconds: float
    versions: Mapping[str, str]
    episodes: Sequence[Mapping[str, Any]] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """Return everything but the episodes: the content of `summary.json`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "episodes"}


def evaluate(
    agent: Agent,
    env: str | gymnasium.Env[Any, Any],
    *,
    env_options: Mapping[str, Any] | None = None,
    questions: Sequence[str] | None = None,
    limit: int | None = None,
    batch: int = 64,
    out: Path | None = None,
) -> Report:
    """Let an agent answer questions, one episode each.

    Args:
        agent: Writes the turns.
        env: Id of an at2po environment, or the environment itself.
        env_options: Keyword arguments for an environment made from its id; for one that is made
            already they are only put on record.
        questions: Ids of the questions; all of the environment's by default.
        limit: Only the first so many of them, >= 1.
        batch: Episodes that run at a time, >= 1; the results do not depend on it, apart from the
            floating-point noise of a model.
        out: Folder for `episodes.jsonl`, written as episodes end and so in any order, and
            `summary.json`; both are overwritten.

    Returns:
        The result.

    Raises:
        EvaluationError: If a question is unknown, there is none, or a number is below 1.
        ReplyError: If the agent does not write one turn for each episode.
    """
    start = time.monotonic()
    options = dict(env_options or {})
    played: Any = make_env(env, options) if isinstance(env, str) else env.unwrapped
    chosen = _choose(played.questions, questions, limit)
    if batch < 1:
        raise EvaluationError(f"expected batch >= 1, found {batch}; raise it")
    episodes: dict[int, dict[str, Any]] = {}
    for number, record in _recorded(_play(agent, played, chosen, batch), out):
        episodes[number] = record
    report = _report(
        [episodes[number] for number in range(len(chosen))],
        agent=getattr(agent, "name", type(agent).__name__),
        env=played.spec.id if played.spec else type(played).__name__,
        env_options=options,
        seconds=round(time.monotonic() - start, 3),
        versions=library_versions(),
    )
    if out is not None:
        text = json.dumps(report.summary(), indent=2, ensure_ascii=False, default=repr)
        (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    return report


def _choose(
    known: Sequence[at2po_envs.Question], ids: Sequence[str] | None, limit: int | None
) -> list[at2po_envs.Question]:
    """Return the questions to ask, in order."""
    by_id = {question.id: question for question in known}
    for name in ids or ():
        if name not in by_id:
            raise EvaluationError(
                f"expected the id of one of {len(known)} questions, found {name!r}; "
                + nearest(name, by_id)
            )
    if limit is not None and limit < 1:
        raise EvaluationError(f"expected limit >= 1, found {limit}; raise it or leave it out")
    chosen = list(known if ids is None else (by_id[name] for name in ids))[:limit]
    if not chosen:
        raise EvaluationError("expected at least one question, found none; name some or no list")
    return chosen


@dataclass(slots=True)
class _Episode:
    """An episode that runs.

    Attributes:
        number: Position of its question among those asked.
        state: State now.
        transcript: What the agent has seen and written.
        before: State before the latest turn, None until there is one.
        tokens: Tokens sampled so far.
    """

    number: int
    state: at2po_envs.State
    transcript: list[str]
    before: at2po_envs.State | None = None
    tokens: int = 0


def _play(
    agent: Agent, env: Any, questions: Sequence[at2po_envs.Question], batch: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and record of each episode as it ends; a new one takes its place."""
    waiting = iter(enumerate(questions))
    running: list[_Episode] = []
    while True:
        for number, question in islice(waiting, batch - len(running)):
            state, prompt = env.core.begin(question)
            running.append(_Episode(number, state, [prompt]))
        if not running:
            return
        replies = _replies(agent, running)
        pending = [
            () if reply.truncated else env.core.pending_calls(episode.state, reply.text)
            for episode, reply in zip(running, replies, strict=True)
        ]
        results = iter(env.run_tools([call for calls in pending for call in calls]))
        going = []
        for episode, reply, calls in zip(running, replies, pending, strict=True):
            step = _turn(env.core, episode, reply, [next(results) for _ in calls])
            if step.terminated or step.truncated:
                record = env.record(step.state, {**step.info, "truncated": step.truncated})
                yield episode.number, {**record, "tokens": episode.tokens}
            else:
                going.append(episode)
        running = going


def _replies(agent: Agent, running: Sequence[_Episode]) -> list[Reply]:
    replies = agent.act([tuple(episode.transcript) for episode in running])
    if len(replies) != len(running):
        raise ReplyError(f"expected {len(running)} turns, one an episode, found {len(replies)}")
    for reply in replies:
        if not isinstance(reply, str | Reply):
            raise ReplyError(f"expected a str or Reply as turn, found {type(reply).__name__}")
    return [Reply(reply) if isinstance(reply, str) else reply for reply in replies]


def _turn(core: Any, episode: _Episode, reply: Reply, results: Sequence[Any]) -> Any:
    """Move an episode on by the agent's turn, and return the transition."""
    state, episode.tokens = episode.state, episode.tokens + reply.tokens
    if reply.truncated and not (reply.text or reply.tokens) and episode.before is not None:
        # Not a token was left to read the last observation with: as in training, the episode
        # ends with the turn that asked for it.
        return core.truncate(episode.before, state.turns[-1].action)
    if reply.truncated:
        return core.truncate(state, reply.text)
    step = core.transition(state, reply.text, results)
    episode.before, episode.state = state, step.state
    episode.transcript += [reply.text, step.observation]
    return step


def _recorded(
    ended: Iterator[tuple[int, dict[str, Any]]], out: Path | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Pass episodes on, and write each as a line of `episodes.jsonl` first."""
    if out is None:
        yield from ended
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / "episodes.jsonl").open("w", encoding="utf-8", buffering=1) as file:
        for number, record in ended:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            yield number, record


def _report(episodes: list[dict[str, Any]], **facts: Any) -> Report:
    n = len(episodes)

    def mean(name: str) -> float:
        return sum(float(episode[name]) for episode in episodes) / n

    def count(name: str) -> int:
        return sum(bool(episode[name]) for episode in episodes)

    return Report(
        questions=n,
        em=mean("em"),
        em_interval=wilson(mean("em"), n),
        f1=mean("f1"),
        format_rate=mean("format_ok"),
        searches=mean("searches"),
        turns=mean("turns"),
        truncations=count("truncated"),
        limit_hits=count("limit_reached"),
        tool_failures=sum("tool_failed" in episode["flags"] for episode in episodes),
        tokens=sum(episode["tokens"] for episode in episodes),
        episodes=episodes,
        **facts,
    )
