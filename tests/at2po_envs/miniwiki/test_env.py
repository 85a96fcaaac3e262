from __future__ import annotations

import gymnasium
import pytest

from at2po_envs.miniwiki import PRESETS, MiniWikiEnv

ENV_ID = "at2po/MiniWiki-v0"


@pytest.fixture(scope="module")
def env():
    return MiniWikiEnv(questions=40, max_tool_calls=2, render_mode="ansi")


def search(query):
    return f"<think> a </think> <search> {query} </search>"


def answer(text):
    return f"<think> a </think> <answer> \\boxed{{ {text} }} </answer>"


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


def test_equal_arguments_give_equal_environments():
    first, again = (gymnasium.make(ENV_ID, seed=9, questions=20).unwrapped for _ in range(2))
    assert first.questions == again.questions
    assert first.reset(seed=5) == again.reset(seed=5)
    assert first.step(search("Lake")) == again.step(search("Lake"))
