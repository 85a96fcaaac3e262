"""The record of each episode that an agent plays, as it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from at2po_agents.rollout.agents import Agent, play_agent
from at2po_envs import ForkableEnv, Question
from benchmarks.evaluation.card import prompt_hash
from benchmarks.evaluation.replies import ask


def play(
    agent: Agent,
    env: ForkableEnv,
    questions: Sequence[Question],
    batch: int,
    seed: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Play questions, one episode each.

    Args:
        agent: Writes the turns.
        env: The environment.
        questions: What is asked.
        batch: Episodes that run at a time, >= 1.
        seed: Of the agent, for the record.

    Yields:
        The record of each episode as it ends; a new one takes its place.

    Raises:
        ReplyError: If the agent does not write one turn for each episode.
        AgentUnusableError: If the agent says that it cannot write any.
    """
    for episode, outcome in play_agent(partial(ask, agent), env, questions, batch):
        record = env.record(episode.state, outcome)
        error = episode.reply.error
        if error:
            # There is no such turn, and what half an episode gives is no answer.
            record |= {"turns": record["turns"] - 1, "transcript": record["transcript"][:-1]}
            record |= {"prediction": None, "em": False, "f1": 0.0, "cover_em": False}
            record |= {"format_ok": False}
        yield record | {
            "tokens": episode.tokens,
            "prompt_tokens": episode.prompt_tokens,
            "cost": episode.cost,
            "error": error,
            "seed": seed,
            "prompt_hash": prompt_hash(episode.transcript[0]),
        }
