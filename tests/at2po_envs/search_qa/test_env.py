from __future__ import annotations

import json
import pickle

import pytest

from at2po_envs import At2poEnvError, EMReward, SearchQAEnv
from at2po_envs.dialects import Messages, SearchR1Tags
from retrieval import Passage


class Fixed:
    """Finds the same passage whatever is asked."""

    def search(self, queries, k):
        return [[Passage("0", "Ada", f"About {query}.")] for query in queries]


@pytest.fixture
def file(tmp_path):
    rows = [
        {"id": f"q{n}", "question": f" who is {n}", "golden_answers": [f"{n}"]} for n in range(4)
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_questions_can_be_chosen_and_given_a_question_mark(file):
    env = SearchQAEnv(
        questions_path=file, retriever=Fixed(), questions=["q3", 0], append_question_mark=True
    )
    assert [(q.id, q.question) for q in env.questions] == [("q3", "who is 3?"), ("q0", "who is 0?")]
    assert env.reset(options={"question_id": "q0"})[1] == {"question_id": "q0"}
    plain = SearchQAEnv(questions_path=file, retriever=Fixed())
    assert [q.question for q in plain.questions] == [f" who is {n}" for n in range(4)]
    with pytest.raises(At2poEnvError, match="found 'q9'"):
        SearchQAEnv(questions_path=file, retriever=Fixed(), questions=["q9"])


def test_search_r1_speaks_its_own_language(file):
    env = SearchQAEnv(
        questions_path=file,
        retriever=Fixed(),
        dialect="search-r1",
        reward=EMReward(),
        append_question_mark=True,
    )
    prompt, _ = env.reset(options={"index": 1})
    assert prompt.endswith("Question: who is 1?\n")
    shown = env.step("<think>a</think><search>Ada</search>")[0]
    assert shown == '\n\n<information>Doc 1(Title: "Ada") About Ada.</information>\n\n'
    _, reward, terminated, _, info = env.step("<answer> 1 </answer>")
    assert (reward, terminated, info["reward_em"], info["format_ok"]) == (1.0, True, 1.0, False)


def test_tool_calls_are_observed_as_messages(file):
    env = SearchQAEnv(questions_path=file, retriever=Fixed(), dialect="tool-calls", prompt="brief")
    prompt, _ = env.reset(options={"index": 1})
    assert isinstance(prompt, Messages) and prompt in env.observation_space
    call = '<tool_call>{"name": "search", "arguments": {"query": "Ada"}}</tool_call>'
    shown = env.step(call * 2)[0]
    assert [message["content"] for message in shown.messages] == ['Page 1: "Ada"\nAbout Ada.'] * 2
    twin = pickle.loads(pickle.dumps(env.snapshot()))
    assert twin.state.turns[0].observation.messages == shown.messages
    with pytest.raises(At2poEnvError, match="found 'tool_calls'; did you mean 'tool-calls'"):
        SearchQAEnv(questions_path=file, retriever=Fixed(), dialect="tool_calls")


def test_a_retriever_may_be_a_text_that_is_opened_at_the_first_search(file, monkeypatch):
    opened = []

    def open_retriever(name, *, corpus):
        opened.append((name, corpus))
        return Fixed()

    monkeypatch.setattr("at2po_envs.search_qa.env.open_retriever", open_retriever)
    env = SearchQAEnv(questions_path=file, retriever="test:first", dialect="search-r1")
    env = pickle.loads(pickle.dumps(env))
    assert opened == [] and env.core.dialect == SearchR1Tags()
    env.reset(seed=0)
    for query in ("one", "two"):
        assert f"About {query}." in env.step(f"<search>{query}</search>")[0]
    assert opened == [("test:first", None)]
    env = SearchQAEnv(questions_path=file, retriever="test:first", corpus_path="passages.jsonl")
    env.reset(seed=0)
    env.step("<search>a</search>")
    assert opened[1:] == [("test:first", "passages.jsonl")]
    with pytest.raises(ValueError, match="a retriever object or a corpus, found both"):
        SearchQAEnv(questions_path=file, retriever=Fixed(), corpus_path="passages.jsonl")


def test_a_search_that_hangs_is_given_up(file):
    import threading

    never = threading.Event()

    class Hanging:
        def search(self, queries, k):
            never.wait(60)
            return [[] for _ in queries]

    env = SearchQAEnv(questions_path=file, retriever=Hanging(), tool_timeout_s=0.01)
    env.reset(seed=0)
    shown = env.step("<search>a</search>")[0]
    never.set()
    assert "did not answer within 0.01 s" in shown and env.state.flags == ("tool_failed",)


def test_a_server_that_is_never_ready_ends_the_run_at_the_first_search(file, monkeypatch):
    monkeypatch.setattr("at2po_envs.search_qa.env.SERVER_TIMEOUT_S", 0.2)
    env = SearchQAEnv(questions_path=file, retriever="http://127.0.0.1:9#abc")
    env.reset(seed=0)
    with pytest.raises(At2poEnvError, match="http://127.0.0.1:9#abc: expected a server that is"):
        env.step("<think> a </think> <search> b </search>")
