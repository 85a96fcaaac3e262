"""Evaluation: the right figures, whatever the order and the batch, and the same as in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.engines import TransformersEngine
from at2po_agents.evaluation.policy_agent import PolicyAgent
from at2po_agents.rollout.agents import Reply
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import Chains
from at2po_envs import ToolResult
from at2po_envs.tools import runner
from benchmarks import evaluate
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.card import prompt_hash
from benchmarks.statistics.intervals import wilson
from tests.at2po_agents.samples import VOCABULARY, tiny_model

SEARCH = "<think> I look. </think> <search> river </search>"
ANSWER = r"<think> I know. </think> <answer> \boxed{yes} </answer>"
WORDS = (
    "? <end> <think> </think> <search> </search> <answer> </answer> \\boxed{ } river founder yes "
    "no award book film city of the who"
).split()


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=30, passages=100).unwrapped


class Says:
    """An agent that gives the same replies in every episode, turn by turn."""

    def __init__(self, *replies: str | Reply) -> None:
        self.replies = replies
        self.sizes: list[int] = []

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[str | Reply]:
        self.sizes.append(len(transcripts))
        return [self.replies[len(transcript) // 2] for transcript in transcripts]


OWN = {"tokens", "prompt_tokens", "cost", "error", "seed", "prompt_hash"}


def records(report: Any) -> list[dict[str, Any]]:
    """Episodes without what only an evaluation knows."""
    return [{k: v for k, v in episode.items() if k not in OWN} for episode in report.episodes]


def test_the_scripted_agent_is_right_and_the_erring_one_less_often() -> None:
    env: Any = gymnasium.make("at2po/MiniWiki-v0", split="test", questions=500).unwrapped
    perfect = evaluate(env.expert(), env)
    erring = evaluate(env.expert(error_rate=0.3), env)
    assert perfect.questions == erring.questions == 500
    assert perfect.em >= 0.99
    assert perfect.format_rate == 1.0
    assert 0.3 < erring.em < 0.8
    assert erring.em_interval[1] < perfect.em_interval[0]


def test_a_policy_is_judged_as_in_training(env: Any) -> None:
    known = {word: i for i, word in enumerate((*WORDS, *map(str, range(VOCABULARY))))}
    words = Tokenizer(models.WordLevel(dict(list(known.items())[:VOCABULARY]), unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="?")
    engine = TransformersEngine(tiny_model("llama", seed=1), tokenizer)
    limits = {"max_prompt_tokens": 100, "max_response_tokens": 150, "context": 256}
    agent = PolicyAgent(engine, tokenizer, stop=env.core.dialect.stop, **limits)
    report = evaluate(agent, env, limit=12, batch=5)
    trees = Collector(env, engine, tokenizer, **limits).collect(
        env.questions[:12], Chains(1), temperature=0
    )
    leaves = [tree.leaves()[0] for tree in trees]
    assert records(report) == [env.record(leaf.state, leaf.outcome) for leaf in leaves]
    nodes = [node for tree in trees for node in tree.nodes()]
    assert report.tokens == sum(len(node.sampled) for node in nodes)
    read = [len(node.parent.ids()) for node in nodes if node.sampled]
    assert report.prompt_tokens == sum(read)
    assert 0 < report.truncations < 12
    assert report.searches > 1


def test_results_do_not_depend_on_the_batch(env: Any, tmp_path: Path) -> None:
    agent = env.expert(error_rate=0.3)
    reports = [evaluate(agent, env, batch=batch, out=tmp_path / str(batch)) for batch in (1, 7, 64)]
    for report, batch in zip(reports, (1, 7, 64), strict=True):
        assert list(report.episodes) == list(reports[0].episodes)
        assert report.episodes[-2:] == list(report.episodes)[-2:]
        text = (tmp_path / str(batch) / "episodes.jsonl").read_text(encoding="utf-8")
        written = [json.loads(line) for line in text.splitlines()]
        assert sorted(written, key=lambda e: e["question_id"]) == sorted(
            report.episodes, key=lambda e: e["question_id"]
        )
    first = [e["question_id"] for e in reports[0].episodes]
    assert first == [question.id for question in env.questions]


def test_the_batch_stays_full_and_shares_the_tool_calls(
    env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def run_tool(tool: Any, calls: Sequence[Any]) -> list[ToolResult]:
        asked.append(len(calls))
        return [ToolResult(ok=True, text="a page", titles=("A",))] * len(calls)

    monkeypatch.setattr(runner, "call_tool", run_tool)
    agent = Says(SEARCH, ANSWER)
    evaluate(agent, env, batch=4, limit=10)
    assert agent.sizes == [4, 4, 4, 4, 2, 2]
    assert asked == [4, 4, 2]


def test_a_new_question_takes_the_place_of_an_ended_episode(env: Any) -> None:
    class Uneven(Says):
        """Answers questions 0 and 2 at once, the others in their second turn."""

        def act(self, transcripts: Sequence[Sequence[str]]) -> list[str | Reply]:
            replies = super().act(transcripts)
            return [
                ANSWER if transcript[0] in quick else reply
                for transcript, reply in zip(transcripts, replies, strict=True)
            ]

    quick = {env.core.begin(env.questions[i])[1] for i in (0, 2)}
    agent = Uneven(SEARCH, ANSWER)
    report = evaluate(agent, env, batch=2, limit=6)
    assert agent.sizes == [2, 2, 2, 2, 1, 1]
    assert [episode["turns"] for episode in report.episodes] == [1, 2, 1, 2, 2, 2]


def test_the_summary_counts_what_went_wrong(
    env: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failed = ToolResult(ok=False, text="", error="The search tool failed.")
    monkeypatch.setattr(runner, "call_tool", lambda tool, calls: [failed] * len(calls))
    options = {"split": "train"}
    report = evaluate(Says(*[SEARCH] * 8), env, limit=3, env_options=options, out=tmp_path)
    assert (report.tool_failures, report.limit_hits, report.truncations) == (3, 3, 0)
    assert (report.searches, report.turns, report.em, report.format_rate) == (6, 8, 0, 0)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(report.summary()))
    assert (summary["agent"], summary["env"]) == ("Says", "at2po/MiniWiki-v0")
    assert summary["env_options"] == options
    assert summary["em_interval"] == list(wilson(0, 3))
    assert summary["card"]["versions"]["gymnasium"] == gymnasium.__version__


def test_an_episode_is_recorded_whole(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ToolResult(ok=True, text="a page", titles=("A", "B"))
    monkeypatch.setattr(runner, "call_tool", lambda tool, calls: [page] * len(calls))
    question = replace(env.questions[0], metadata={"supporting_titles": ["B", "C"]})
    monkeypatch.setattr(env, "questions", (question,))
    right = ANSWER.replace("yes", question.golden_answers[0])
    agent = Says(SEARCH, Reply(right, tokens=9, prompt_tokens=40, cost=0.25))
    (episode,) = evaluate(agent, env, limit=1).episodes
    assert episode == {
        "question_id": question.id,
        "question_key": question.key,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "prediction": question.golden_answers[0],
        "em": True,
        "f1": 1.0,
        "cover_em": True,
        "format_ok": True,
        "reward": 1.0,
        "turns": 2,
        "searches": 1,
        "limit_reached": False,
        "truncated": False,
        "flags": [],
        "titles": ["A", "B"],
        "retrieval_recall": 0.5,
        "transcript": [
            {"action": SEARCH, "observation": " <result>\na page\n</result>"},
            {"action": right, "observation": ""},
        ],
        "tokens": 9,
        "prompt_tokens": 40,
        "cost": 0.25,
        "error": "",
        "seed": None,
        "prompt_hash": prompt_hash(env.core.begin(question)[1]),
    }


def test_a_reply_cut_off_ends_the_episode(env: Any) -> None:
    agent = Says(Reply(SEARCH, 5), Reply("<think> I", 3, truncated=True))
    (episode,) = evaluate(agent, env, limit=1).episodes
    assert episode["truncated"]
    assert [turn["action"] for turn in episode["transcript"]] == [SEARCH, "<think> I"]
    assert (episode["tokens"], episode["searches"], episode["reward"]) == (8, 1, -1)


def test_an_observation_that_could_not_be_read_does_not_count(env: Any) -> None:
    (episode,) = evaluate(Says(SEARCH, Reply("", truncated=True)), env, limit=1).episodes
    assert episode["truncated"]
    assert episode["transcript"] == [{"action": SEARCH, "observation": ""}]
    assert (episode["searches"], episode["titles"]) == (0, [])


def test_an_id_and_a_list_of_questions_choose_what_is_asked() -> None:
    options = {"questions": 20, "passages": 100}
    env: Any = gymnasium.make("at2po/MiniWiki-v0", **options).unwrapped
    ids = [env.questions[i].id for i in (7, 2, 11)]
    report = evaluate(env.expert(), "at2po/MiniWiki-v0", env_options=options, questions=ids)
    assert [episode["question_id"] for episode in report.episodes] == ids
    assert report.em == 1.0
    assert [episode["question_key"] for episode in report.episodes] == [
        env.questions[i].key for i in (7, 2, 11)
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": []}, "at least one question"),
        ({"questions": ["miniwiki_train_0_1"] * 2}, "each question once"),
        ({"questions": ["miniwiki_train_0_x"]}, "found 'miniwiki_train_0_x'; .*miniwiki_train_0_"),
    ],
)
def test_a_wrong_request_is_refused(env: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(Says(ANSWER), env, **changes)
