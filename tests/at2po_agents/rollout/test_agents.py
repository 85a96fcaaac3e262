"""Agents at play: all episodes in one call, in their order, however slow the tools are."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.rollout.agents import NO_ROOM, Reply, play_agent
from at2po_envs import ToolResult

SEARCH = "<think> I look. </think> <search> river </search>"
ANSWER = r"<think> I know. </think> <answer> \boxed{yes} </answer>"


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=9).unwrapped


class FirstIsLast:
    """A tool whose earlier calls take longer."""

    batched = False

    def __init__(self, tool: Any) -> None:
        self.spec, self.calls = tool.spec, 0

    def __call__(self, arguments: Sequence[Any]) -> list[ToolResult]:
        self.calls += 1
        time.sleep(0.06 / self.calls)
        return [ToolResult(ok=True, text="a page")]


def test_the_agent_is_asked_in_one_order_whatever_the_tools_take(env: Any) -> None:
    seen: list[list[str]] = []

    def act(transcripts: Sequence[Sequence[str]]) -> list[Reply]:
        seen.append([str(transcript[0]) for transcript in transcripts])
        return [Reply(ANSWER if len(t) > 1 else SEARCH, tokens=3) for t in transcripts]

    slow = copy.copy(env)
    slow.tools = {name: FirstIsLast(tool) for name, tool in env.tools.items()}
    slow.tool_timeout_s = 60.0
    ended = list(play_agent(act, slow, env.questions, batch=4))
    prompts = [str(env.core.begin(question)[1]) for question in env.questions]
    assert seen == [part for i in (0, 4, 8) for part in [prompts[i : i + 4]] * 2]
    assert {episode.state.question for episode, _ in ended} == set(env.questions)
    assert all(episode.tokens == 6 and outcome.format_ok for episode, outcome in ended)


@pytest.mark.parametrize(
    ("reply", "turns", "error"),
    [
        (Reply("", truncated=True), 1, NO_ROOM),
        (Reply("", error="gone"), 1, "gone"),
        (Reply("<think> I", truncated=True), 1, ""),
    ],
)
def test_an_episode_without_a_whole_turn(env: Any, reply: Reply, turns: int, error: str) -> None:
    ((episode, outcome),) = play_agent(lambda _: [reply], env, env.questions[:1], batch=1)
    assert (len(episode.state.turns), episode.reply.error) == (turns, error)
    assert outcome.truncated == (not error)


def test_without_room_to_read_the_episode_ends_with_the_turn_that_asked(env: Any) -> None:
    replies = iter([Reply(SEARCH), Reply("", truncated=True)])
    ((episode, outcome),) = play_agent(lambda _: [next(replies)], env, env.questions[:1], 1)
    assert [turn.action for turn in episode.state.turns] == [SEARCH]
    assert outcome.truncated
