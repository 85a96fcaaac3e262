"""The scripted agent of question sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from at2po_envs import Outcome
from at2po_envs.search_qa.env import SearchQAEnv
from retrieval import Passage

QUESTION = {"id": "q0", "question": 'Who wrote "The River"?', "golden_answers": ["Ada Lovelace"]}


class Fixed:
    """Finds the same pages whatever is asked."""

    def search(self, queries: Any, k: int) -> list[list[Passage]]:
        titles = ["The River", "Ada Lovelace"]
        pages = [Passage(str(i), title, f"About {title}.") for i, title in enumerate(titles)]
        return [pages[:k] for _ in queries]


@pytest.fixture
def env(tmp_path: Path) -> Any:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps(QUESTION) + "\n")
    return SearchQAEnv(questions_path=str(file), retriever=Fixed())


def played(env: Any, **rates: Any) -> dict[str, Any]:
    agent, (observation, _) = env.expert(**rates), env.reset(options={"index": 0})
    transcript, done = [observation], False
    while not done:
        (action,) = agent.act([transcript])
        observation, _, terminated, truncated, info = env.step(action)
        transcript += [action, observation]
        done = terminated or truncated
    record: dict[str, Any] = env.record(env.state, Outcome.from_info(info))
    return record


def test_it_searches_once_and_answers_with_a_title_that_is_new(env: Any) -> None:
    record = played(env)
    assert (record["searches"], record["turns"]) == (1, 2)
    assert record["titles"] == ["The River", "Ada Lovelace"]
    assert record["prediction"] == "Ada Lovelace"
    assert record["em"]
    assert record["format_ok"]


def test_a_turn_that_goes_wrong_forgets_its_tags(env: Any) -> None:
    record = played(env, error_rate=1.0)
    assert not record["format_ok"]
    assert record["searches"] == 0
