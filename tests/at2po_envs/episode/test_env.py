from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from at2po_envs import SearchQAEnv, SearchTool, TextSpace
from at2po_envs.errors import (
    DataNotFoundError,
    EpisodeOverError,
    InvalidActionError,
    ToolResultError,
    UnknownNameError,
)
from at2po_envs.search_qa.env import LazyRetriever, find_corpus
from retrieval import CorpusFormatError
from tests.at2po_envs.playing import printed

SEARCH = "<think>a</think> <search>film 17</search>"
ANSWER = r"<think>a</think> <answer>\boxed{Answer 17}</answer>"


class MuteTool(SearchTool):
    def __call__(self, arguments):
        return []


@pytest.fixture
def env(films):
    return SearchQAEnv(**films, max_tool_calls=3, render_mode="ansi")


def test_a_whole_episode(env):
    prompt, info = env.reset(options={"question_id": "q17"})
    assert prompt.endswith("user\nWhat is film 17?") and info == {"question_id": "q17"}
    observation, reward, terminated, truncated, info = env.step(SEARCH)
    assert observation.startswith(' <result>\nPage 1: "Film 17"\nThe film number 17 is called')
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["titles"][0] == "Film 17" and len(info["titles"]) == 3
    observation, reward, terminated, truncated, info = env.step(ANSWER)
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert info["answer"] == "Answer 17"
    with pytest.raises(EpisodeOverError):
        env.step(ANSWER)


def test_the_seed_draws_the_question_and_options_pick_it(env):
    drawn = [env.reset(seed=3)[1]["question_id"]]
    drawn += [env.reset()[1]["question_id"] for _ in range(5)]
    again = [env.reset(seed=3)[1]["question_id"]]
    again += [env.reset()[1]["question_id"] for _ in range(5)]
    assert drawn == again and len(set(drawn)) > 1
    assert env.reset(options={"index": 4})[1] == {"question_id": "q14"}
    assert env.reset(options={"index": np.int64(4)})[1] == {"question_id": "q14"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question_id": "q77"}, "found 'q77'; did you mean"),
        ({"question_id": ["q17"]}, "found .'q17'."),
        ({"index": 20}, "expected an index from 0 to 19, found 20"),
        ({"index": -1}, "found -1"),
        ({"questionid": "q17"}, "found 'questionid'; did you mean 'question_id'"),
        ({"question_id": "q17", "index": 7}, "found both"),
    ],
)
def test_wrong_reset_options_are_refused(env, options, message):
    with pytest.raises(UnknownNameError, match=message):
        env.reset(options=options)


def test_misuse_is_refused_with_the_reason(env, films):
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(SEARCH)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="expected a str as action, found int"):
        env.step(7)
    with pytest.raises(UnknownNameError, match="found 'human'"):
        SearchQAEnv(**films, render_mode="human")
    env.tools["search"] = MuteTool(env.tools["search"].retriever)
    with pytest.raises(ToolResultError, match="expected 1 results of tool 'search', found 0"):
        env.step(SEARCH)


def test_render_is_a_transcript(env):
    env.reset(options={"index": 7})
    env.step(SEARCH)
    env.step(ANSWER)
    text = env.render()
    assert text.startswith("Question: What is film 17?\n--- turn 1\n" + SEARCH)
    assert "Page 1: " in text and text.endswith(ANSWER + "\n--- ended, 1 tool calls")


# -- snapshot, restore, fork ---------------------------------------------------------------------


def test_a_fork_shares_the_parts_but_not_the_episode(env):
    env.reset(seed=1)
    env.step(SEARCH)
    fork = env.fork()
    assert fork.core is env.core and fork.questions is env.questions
    assert fork.tools is env.tools and fork.np_random is not env.np_random
    fork.step(ANSWER)
    assert fork.state.done and not env.state.done
    env.action_space.seed(0)
    expected = env.action_space.sample()
    env.action_space.seed(0)
    fork.action_space.sample()
    assert env.action_space.sample() == expected


def test_a_snapshot_restores_what_others_drew_from_the_generator(env):
    env.reset(seed=4)
    snapshot = env.snapshot()
    drawn = env.np_random.random(3).tolist()
    fork = env.fork()
    env.restore(snapshot)
    assert env.np_random.random(3).tolist() == drawn
    assert fork.np_random.random() == env.np_random.random() not in drawn


# -- Gymnasium -----------------------------------------------------------------------------------


def test_text_space():
    space = TextSpace(20, templates=("<search>{}</search>", "{}"))
    for text in ("", "\u8bd7 \ud800\x00", "a" * 20):
        assert text in space
    for other in ("a" * 21, b"a", 7, None):
        assert other not in space
    space.seed(5)
    samples = [space.sample() for _ in range(30)]
    assert all(sample in space for sample in samples) and len(set(samples)) > 20
    space.seed(5)
    assert [space.sample() for _ in range(30)] == samples
    assert repr(TextSpace()) == "TextSpace(max_length=1000000)"
    assert pickle.loads(pickle.dumps(space)) == space
    assert space.sample(mask=(3, np.zeros(len(space.character_list), dtype=np.int8))) == ""


def test_sampled_actions_are_searches_and_answers(env):
    env.action_space.seed(0)
    kinds = {env.core.dialect.parse(env.action_space.sample()).kind for _ in range(30)}
    assert kinds == {"tool", "answer"}


# -- data and imports ----------------------------------------------------------------------------


def test_a_missing_corpus_names_the_places_and_the_fix(films, monkeypatch, tmp_path):
    monkeypatch.delenv("AT2PO_DATA", raising=False)
    with pytest.raises(DataNotFoundError, match=r"AT2PO_DATA/corpus(.|\n)*Fix: pass corpus_path"):
        SearchQAEnv(questions_path=films["questions_path"])
    with pytest.raises(DataNotFoundError, match="gone.jsonl"):
        find_corpus(tmp_path / "gone.jsonl")


def test_a_malformed_corpus_is_an_error_and_not_an_observation(films, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "0"}\n')
    env = SearchQAEnv(questions_path=films["questions_path"], corpus_path=str(bad))
    env.reset(seed=0)
    with pytest.raises(CorpusFormatError, match="bad.jsonl:1: expected"):
        env.step(SEARCH)


def test_a_corpus_file_is_indexed_once_and_again_when_it_changes(films, tmp_path):
    first, second, *_ = Path(films["corpus_path"]).read_text(encoding="utf-8").splitlines(True)
    file = tmp_path / "corpus.jsonl"
    file.write_text(first)
    corpus = LazyRetriever(f"bm25:{file}")
    ((found,),) = corpus.search(["film"], 3)
    ((again,),) = LazyRetriever(f"bm25:{file}").search(["film"], 3)
    assert found == again
    file.write_text(first + second)
    assert len(corpus.search(["film"], 3)[0]) == 2


def test_the_import_stays_light():
    code = (
        "import sys, at2po_envs, retrieval; heavy = {'torch', 'transformers', 'datasets', 'bm25s',"
        " 'huggingface_hub', 'numba', 'scipy'} & set(sys.modules); print(*heavy)"
    )
    assert printed(code, 1).strip() == ""
