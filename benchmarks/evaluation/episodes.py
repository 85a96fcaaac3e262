"""Playing many episodes at a time, and the record of each as it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from at2po_agents.evaluation.policy_agent import Agent, Reply
from at2po_envs import (
    Core,
    ForkableEnv,
    Outcome,
    Question,
    State,
    ToolResult,
    Transition,
)
from benchmarks.evaluation.card import prompt_hash
from benchmarks.evaluation.replies import ask

NO_ROOM = (
    "the question leaves no room for a turn: expected a longer context of the model, or fewer "
    "tokens asked of a turn"
)
"""Error of an episode whose agent could not even read the question."""


@dataclass(slots=True)
class _Episode:
    """An episode that runs.

    Attributes:
        state: State now.
        transcript: What the agent has seen and written.
        before: State before the latest turn, None until there is one.
        tokens: Tokens sampled so far.
        prompt_tokens: Tokens read so far, in all calls together.
        cost: US dollars spent so far.
    """

    state: State
    transcript: list[str]
    before: State | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    cost: float = 0.0


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
    waiting = iter(questions)
    running: list[_Episode] = []
    while True:
        for question in islice(waiting, batch - len(running)):
            state, prompt = env.core.begin(question)
            running.append(_Episode(state, [prompt]))
        if not running:
            return
        replies = ask(agent, [tuple(episode.transcript) for episode in running])
        pending = [
            ()
            if reply.truncated or reply.error
            else env.core.pending_calls(episode.state, reply.text)
            for episode, reply in zip(running, replies, strict=True)
        ]
        results = iter(env.run_tools([call for calls in pending for call in calls]))
        going = []
        for episode, reply, calls in zip(running, replies, pending, strict=True):
            record = _turn(env, episode, reply, [next(results) for _ in calls])
            if record is None:
                going.append(episode)
            else:
                yield record | {"seed": seed, "prompt_hash": prompt_hash(episode.transcript[0])}
        running = going


def _turn(
    env: ForkableEnv, episode: _Episode, reply: Reply, results: Sequence[ToolResult]
) -> dict[str, Any] | None:
    """Move an episode on by the agent's turn; return its record if it has ended."""
    if reply.truncated and not (reply.text or reply.tokens or reply.error or episode.before):
        reply = replace(reply, truncated=False, error=NO_ROOM)
    episode.tokens += reply.tokens
    episode.prompt_tokens += reply.prompt_tokens
    episode.cost += reply.cost
    step = _step(env.core, episode, reply, results)
    if not (step.terminated or step.truncated):
        episode.transcript += [reply.text, step.observation]
        return None
    outcome = Outcome.from_info(step.info, truncated=step.truncated and not reply.error)
    record = env.record(step.state, outcome)
    if reply.error:
        # It had no such turn, and whatever an environment makes of half an episode is no answer.
        record |= {"turns": record["turns"] - 1, "transcript": record["transcript"][:-1]}
        record |= {"prediction": None, "em": False, "f1": 0.0, "cover_em": False}
        record |= {"format_ok": False}
    counts = {"tokens": episode.tokens, "prompt_tokens": episode.prompt_tokens}
    return record | counts | {"cost": episode.cost, "error": reply.error}


def _step(core: Core, episode: _Episode, reply: Reply, results: Sequence[ToolResult]) -> Transition:
    """Return the transition that a reply makes."""
    state = episode.state
    if reply.error:
        return core.truncate(state, "")
    if reply.truncated and not (reply.text or reply.tokens) and episode.before is not None:
        # Not a token was left to read the last observation with: as in training, the episode
        # ends with the turn that asked for it.
        return core.truncate(episode.before, state.turns[-1].action)
    if reply.truncated:
        return core.truncate(state, reply.text)
    step = core.transition(state, reply.text, results)
    episode.before, episode.state = state, step.state
    return step
