"""Random actions, direct answers and answers after one search, in every dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import pytest

import at2po_envs
from at2po_agents.errors import EnvironmentNotFoundError
from at2po_agents.evaluation.baselines import DirectAgent, RagAgent, RandomAgent
from at2po_agents.rollout.agents import Reply
from benchmarks import evaluate
from retrieval import BM25, Passage

QUESTIONS = [
    at2po_envs.Question("a", 'Who wrote "The River"?', ("Ada",), {"supporting_titles": ["River"]}),
    at2po_envs.Question("b", "Who is Bo?", ("Bo",)),
]
PASSAGES = [Passage("0", "River", "The River was written by Ada."), Passage("1", "Bo", "Bo is Bo.")]


def world(dialect: str) -> Any:
    core = at2po_envs.ToolQA(at2po_envs.make_dialect(dialect))
    tool = at2po_envs.SearchTool(BM25(PASSAGES), top_k=1)
    return at2po_envs.ForkableTextEnv(core, QUESTIONS, [tool])


class Writer:
    """Writes one text whatever it is asked, and remembers what that was."""

    settings = {"model": "a writer"}

    def __init__(self, *texts: str) -> None:
        self.texts, self.prompts = texts, []

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[Reply]:
        start = len(self.prompts)
        self.prompts += [prompt for (prompt,) in transcripts]
        return [Reply(self.texts[start + i], tokens=7) for i in range(len(transcripts))]


def answer(dialect: str, text: str) -> str:
    inside = rf"\boxed{{{text}}}" if dialect == "at2po" else text
    return f"<think> I see. </think> <answer> {inside} </answer>"


def search(dialect: str) -> str:
    return world(dialect).core.dialect.templates[0].format("more")


@pytest.mark.parametrize("dialect", at2po_envs.DIALECTS)
def test_a_direct_answer_is_one_call_without_search(dialect: str) -> None:
    env = world(dialect)
    writer = Writer(answer(dialect, "Ada"), search(dialect))
    agent = DirectAgent(writer, env)
    report = evaluate(agent, env)
    right, searching = report.episodes
    assert (right["em"], right["format_ok"], right["truncated"]) == (True, True, False)
    # A search that it may not make is not made, and that it did not answer is on record.
    assert (searching["em"], searching["truncated"]) == (False, True)
    assert [(e["turns"], e["searches"], e["tokens"]) for e in report.episodes] == [(1, 0, 7)] * 2
    for prompt, question in zip(writer.prompts, QUESTIONS, strict=True):
        assert question.question in prompt and "do not search" in prompt
        assert "<answer>" in prompt and "<search>" not in prompt
        assert prompt.messages == ({"role": "user", "content": str(prompt)},)
    assert report.card["index_hash"] is None
    assert "{question}" in report.card["agent_settings"]["own_prompt"]
    assert report.card["agent_settings"]["model"] == "a writer"


@pytest.mark.parametrize("dialect", at2po_envs.DIALECTS)
def test_rag_searches_once_with_the_question_and_answers(dialect: str) -> None:
    env = world(dialect)
    writer = Writer(answer(dialect, "Ada"), answer(dialect, "nobody"))
    report = evaluate(RagAgent(writer, env), env)
    first, second = report.episodes
    assert (first["em"], first["format_ok"], second["em"]) == (True, True, False)
    assert [(e["turns"], e["searches"], e["tokens"]) for e in report.episodes] == [(2, 1, 7)] * 2
    assert (first["titles"], second["titles"]) == (["River"], ["Bo"])
    assert (first["retrieval_recall"], second["retrieval_recall"]) == (1.0, None)
    assert report.retrieval_recall == 1.0
    assert "The River was written by Ada." in writer.prompts[0]
    assert QUESTIONS[0].question in writer.prompts[0]
    assert report.card["index_hash"] == env.tools["search"].retriever.index_hash


@pytest.mark.parametrize("kind", [DirectAgent, RagAgent])
@pytest.mark.parametrize("dialect", at2po_envs.DIALECTS)
def test_plain_text_counts_as_an_answer_where_that_is_asked_for(dialect: str, kind: Any) -> None:
    env = world(dialect)
    writer = Writer(" Ada\n", answer(dialect, "Ada"))
    report = evaluate(kind(writer, env, plain=True), env)
    plain, formed = report.episodes
    assert (plain["prediction"], plain["em"], plain["format_ok"]) == ("Ada", True, True)
    assert formed["prediction"] == "Ada"
    assert all("write nothing else" in prompt for prompt in writer.prompts)
    assert not any("<answer>" in prompt for prompt in writer.prompts)
    assert "nothing else" in report.card["agent_settings"]["own_prompt"]


def test_an_environment_without_answers_or_search_is_refused() -> None:
    house: Any = gymnasium.make("at2po/Household-v0", questions=2).unwrapped
    sums: Any = gymnasium.make("at2po/Calculator-v0", questions=2).unwrapped
    with pytest.raises(EnvironmentNotFoundError, match="in which one can answer"):
        DirectAgent(Writer(), house)
    with pytest.raises(EnvironmentNotFoundError, match="in which one can search"):
        RagAgent(Writer(), sums)


@pytest.mark.parametrize("dialect", at2po_envs.DIALECTS)
def test_random_turns_are_well_formed_and_follow_from_the_transcript(dialect: str) -> None:
    env = world(dialect)
    agent = RandomAgent(env)
    transcripts = [(f"q{i}",) for i in range(50)]
    turns = agent.act(transcripts)
    actions = [env.core.dialect.parse(turn) for turn in turns]
    assert {action.kind for action in actions} == {"tool", "answer"}
    assert not any(call.problem for action in actions for call in action.calls)
    assert RandomAgent(env).act(transcripts[::-1]) == turns[::-1]
    assert RandomAgent(env, seed=1).act(transcripts) != turns
