from __future__ import annotations

import pickle
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_envs.miniwiki import PRESETS, MiniWikiEnv
from tests.at2po_envs.fork_checks import check_restores_forks_and_replays

ENV_ID = "at2po/MiniWiki-v0"


@pytest.fixture(scope="module")
def env():
    return MiniWikiEnv(questions=40, max_tool_calls=2, render_mode="ansi")


def search(query):
    return f"<think> a </think> <search> {query} </search>"


def answer(text):
    return f"<think> a </think> <answer> \\boxed{{ {text} }} </answer>"


def test_gymnasiums_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked = gymnasium.make(ENV_ID, render_mode="ansi")
        check_env(checked.unwrapped)
        checked.reset(seed=0)  # and PassiveEnvChecker, which make() puts around it
        checked.step(search("West"))
        checked.render()
        checked.step(answer("yes"))


def test_the_default_is_the_demo():
    env = gymnasium.make(ENV_ID).unwrapped
    assert env.wiki == PRESETS["demo"] and env.core.max_tool_calls == 6
    prompt, info = env.reset(seed=0)
    assert prompt.startswith("Question: ") and info["question_id"].startswith("miniwiki_train_0_")
    paper = gymnasium.make(ENV_ID, prompt="paper", split="test", seed=3).unwrapped
    assert paper.reset(seed=0)[0].startswith("You are a helpful assistant")
    assert paper.wiki.split == "test" and paper.wiki.seed == 3


def test_an_episode(env):
    question = next(q for q in env.questions if q.metadata["type"] == "single")
    prompt, _ = env.reset(options={"question_id": question.id})
    assert prompt == f"Question: {question.question}\n"
    (title,) = question.metadata["supporting_titles"]
    observation, reward, terminated, _, info = env.step(search(title))
    assert observation.startswith(f' <result>\nPage 1: "{title}"\n{title.split(" (")[0]}') or (
        f'"{title}"' in observation
    )
    assert len(info["titles"]) == env.wiki.results and title in info["titles"]
    assert (reward, terminated) == (0.0, False)
    *_, terminated, truncated, info = env.step(answer(question.golden_answers[0]))
    assert terminated and not truncated and info["em"]


def test_nothing_is_indexed_before_the_first_search():
    env = MiniWikiEnv("hard", questions=20)
    env.reset(seed=0)
    assert "retriever" not in vars(env.wiki)
    small = MiniWikiEnv(questions=20)
    small.reset(seed=0)
    small.step(search("River"))
    assert "retriever" in vars(small.wiki)


def test_pickled_and_vectorised(env):
    env.reset(seed=4)
    twin = pickle.loads(pickle.dumps(env))
    moves = [search("South"), search("Steel"), answer("no")]
    assert [twin.step(move) for move in moves] == [env.step(move) for move in moves]

    def one():
        return gymnasium.make(ENV_ID, questions=30)

    vector = SyncVectorEnv([one, one])
    prompts, _ = vector.reset(seed=[2, 2])
    assert prompts[0] == prompts[1]
    observations, rewards, terminated, _, infos = vector.step((search("Old"), answer("nobody")))
    assert observations[0].startswith(" <result>") and list(terminated) == [False, True]
    assert list(rewards) == [0.0, 0.0] and infos["answer"][1].strip() == "nobody"
    vector.close()


def test_equal_arguments_give_equal_environments():
    first, again = (gymnasium.make(ENV_ID, seed=9, questions=20).unwrapped for _ in range(2))
    assert first.questions == again.questions
    assert first.reset(seed=5) == again.reset(seed=5)
    assert first.step(search("Lake")) == again.step(search("Lake"))


moves = st.lists(
    st.sampled_from([search("River"), search("the film Old"), search(""), answer("yes"), "reset"]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(seed=st.integers(0, 5), before=moves, after=moves, detour=moves)
def test_restores_forks_and_replays_agree(env, seed, before, after, detour):
    check_restores_forks_and_replays(env, seed, before, after, detour)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "demo2"}, "expected a MiniWiki preset, found 'demo2'; did you mean 'demo'"),
        ({"hops": 3}, "expected a setting of MiniWiki, found 'hops'; did you mean 'max_hops'"),
        ({"split": "dev"}, "split: expected 'train' or 'test', found 'dev'"),
        ({"prompt": "long"}, "found 'long'"),
        ({"phrasings": 9}, "phrasings: expected an integer from 1 to 4, found 9"),
        ({"results": 0}, "results: expected an integer from 1 to 100, found 0"),
        ({"questions": 0}, "questions: expected an integer from 1 to 1,000,000, found 0"),
        ({"max_tool_calls": -1}, "expected max_tool_calls >= 0, found -1"),
        ({"render_mode": "human"}, "found 'human'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MiniWikiEnv(**arguments)
