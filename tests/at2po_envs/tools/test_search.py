"""The search tool: a query fails alone, the same wherever the retriever runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs import SearchQAEnv
from at2po_envs.errors import ToolResultError
from at2po_envs.tools import SEARCH, SearchTool, ToolCall, call_tools
from retrieval import BM25, CorpusFormatError, Passage, Passages
from retrieval.http.client import RemoteRetriever
from retrieval.http.errors import (
    IndexMismatchError,
    ReplyFormatError,
    RequestRefusedError,
    ServerUnavailableError,
)
from retrieval.http.messages import MAX_QUERY_CHARS, Limits, to_result

CALL = '<tool_call>{"name": "search", "arguments": {"query": "QUERY"}}</tool_call>'
FAILED = "The search tool failed. Try again."
JAWS = [Passage("1", "Jaws", "Jaws is a film about a shark."), Passage("2", "Jazz", "Music.")]


def bm25() -> BM25:
    return BM25(Passages(JAWS))


@contextmanager
def served(**options: Any) -> Iterator[RemoteRetriever]:
    """The same retriever behind our application."""
    pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")
    from starlette.testclient import TestClient

    from retrieval.http.server.app import create_app

    with TestClient(create_app(bm25(), **options), base_url="http://localhost") as client:
        remote = RemoteRetriever("http://localhost", transport=client._transport)
        remote.wait_until_ready(20)
        yield remote


def search(retriever: Any, *queries: Any, **options: Any) -> list[Any]:
    calls = [ToolCall("search", {"query": query}) for query in queries]
    return call_tools({SEARCH.name: SearchTool(retriever, **options)}, calls)


class Fails:
    """Raises where a query of the batch is bad; the warm-up is not."""

    def __init__(self, error: Exception, bad: str = "bad") -> None:
        self.error, self.bad, self.batches = error, bad, []

    def search(self, queries, k):
        self.batches.append(list(queries))
        if any(query.startswith(self.bad) for query in queries):
            raise self.error.with_traceback(None)
        return [[Passage("1", query, "found")] for query in queries]


def test_a_model_s_longest_and_oddest_queries_are_answered_alike_over_http_and_in_process():
    odd = ["=" * 40_000, "\ud83d Jaws", "shark", "", '"' * 50_000 + "jaws", "\0", "x" * 40_000]
    with served() as remote:
        there, here = search(remote, *odd), search(bm25(), *odd)
    assert there == here
    assert [result.ok for result in here] == [False, True, True, True, True, True, False]
    assert here[0].error.endswith(f"a search takes at most {MAX_QUERY_CHARS} characters.")
    assert here[1].titles[0] == here[4].titles[0] == "Jaws"


@given(st.lists(st.text(st.characters(codec=None), max_size=8), min_size=1, max_size=5))
def test_no_text_is_refused(queries):
    assert all(result.ok for result in search(bm25(), *queries))


def test_the_longest_query_and_no_longer():
    results = search(bm25(), "x" * MAX_QUERY_CHARS, "x" * (MAX_QUERY_CHARS + 1))
    assert [result.ok for result in results] == [True, False]


def test_a_query_that_a_server_refuses_fails_alone():
    with served(limits=Limits(max_query_chars=10)) as remote:
        results = search(remote, "jaws", "shark shark", "jazz")
    assert [result.ok for result in results] == [True, False, True]
    assert results[1].error == FAILED and results[2].titles == ("Jazz",)


@pytest.mark.parametrize(("error", "traced"), [(RequestRefusedError, False), (KeyError, True)])
def test_a_query_that_fails_is_a_line_of_the_log_and_a_fault_shows_where(error, traced, caplog):
    """A model can write thousands of them."""

    class Refuses:
        def search(self, queries, k):
            if "bad" in queries:
                raise error("found status 422")
            return [[] for _ in queries]

    (result,) = SearchTool(Refuses())([{"query": "bad"}])
    (line,) = caplog.records
    assert not result.ok and "3 characters failed: " in line.getMessage()
    assert "found status 422" in line.getMessage() and bool(line.exc_info) is traced


def test_what_no_query_could_mend_is_raised():
    with served(token="geheim") as remote:
        with pytest.raises(RequestRefusedError, match="status 401"):
            search(remote, "jaws", "shark")
    with served(limits=Limits(max_topk=5)) as remote:
        with pytest.raises(RequestRefusedError, match="topk from 1 to 5"):
            search(remote, "jaws", "shark", top_k=6)
        wrong = RemoteRetriever(
            "http://localhost",
            index_hash="another",
            transport=remote._session.options.transport,
        )
        with pytest.raises(IndexMismatchError):
            search(wrong, "jaws")
    nowhere = httpx2.MockTransport(lambda request: httpx2.Response(404))
    with pytest.raises(RequestRefusedError, match="status 404"):
        search(RemoteRetriever("http://s", transport=nowhere), "jaws", "shark")


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(500),
        httpx2.Response(403, text="no SQL, please"),
        httpx2.Response(413),
        httpx2.Response(302, headers={"Location": "http://elsewhere/"}),
        httpx2.Response(200, text="<html>"),
        httpx2.Response(200, text='{"result": [[{"document": {"contents": "x"}, "score": NaN}]]}'),
    ],
    ids=lambda reply: f"{reply.status_code} {reply.text}",
)
def test_whatever_a_foreign_server_does_about_one_query_costs_that_query(reply):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/health":
            return httpx2.Response(404)
        queries = json.loads(request.content)["queries"]
        if any("OR 1=1" in query for query in queries):
            return reply
        return httpx2.Response(200, json={"result": [to_result(JAWS, True) for _ in queries]})

    remote = RemoteRetriever(
        "http://s", transport=httpx2.MockTransport(answer), sleep=lambda seconds: None
    )
    results = search(remote, "a", "b", "' OR 1=1 --", "c", "d")
    assert [result.ok for result in results] == [True, True, False, True, True]
    assert results[2].error == FAILED


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_exactly_the_bad_queries_fail(bad):
    queries = [f"{'bad' if each else 'good'} {i}" for i, each in enumerate(bad)]
    retriever = Fails(ValueError("who knows why"))
    results = search(retriever, *queries)
    assert [result.ok for result in results] == [not each for each in bad]
    assert all(result.titles == (queries[i],) for i, result in enumerate(results) if result.ok)
    assert len(retriever.batches) <= 2 * len(bad) + 1
    assert any(bad) or retriever.batches == [queries]


@pytest.mark.parametrize("bad", ["", "b"])
@pytest.mark.parametrize(
    "error", [CorpusFormatError("corrupt"), IndexMismatchError("other"), ToolResultError("none")]
)
def test_errors_about_the_index_are_nobody_s_query(error, bad):
    with pytest.raises(type(error)):
        search(Fails(error, bad), "a", "b", "c")


@pytest.mark.parametrize("error", [RequestRefusedError("all"), ReplyFormatError("all")])
def test_a_server_that_refuses_everything_is_given_up_soon(error):
    retriever = Fails(error, "")
    with pytest.raises(type(error)):
        search(retriever, *(f"q{i}" for i in range(64)))
    assert retriever.batches[-1] == ["warm up"] and len(retriever.batches) == 8


@pytest.mark.parametrize("error", [ServerUnavailableError("away"), RuntimeError("broken")])
def test_where_nothing_works_for_now_all_calls_fail_and_the_run_goes_on(error):
    results = search(Fails(error, ""), "a", "b")
    assert [(result.ok, result.error) for result in results] == [(False, FAILED)] * 2


def test_a_server_that_is_away_is_not_asked_for_every_query():
    retriever = Fails(ServerUnavailableError("away"), "")
    search(retriever, *(f"q{i}" for i in range(64)))
    assert len(retriever.batches) == 1


def test_a_retriever_that_loses_answers_is_an_error_of_the_program():
    class Loses:
        def search(self, queries, k):
            return [[]] * (len(queries) - 1)

    with pytest.raises(ToolResultError, match="expected 2 lists of passages, found 1"):
        search(Loses(), "a", "b")


@pytest.mark.parametrize(
    ("dialect", "turn"),
    [
        ("at2po", "<think> x </think> <search> " + "=" * 40_000 + " </search>"),
        ("search-r1", "<think>x</think><search>" + "=" * 40_000 + "</search>"),
        ("at2po", "<think> x </think> <search> \ud83d Jaws </search>"),
        ("tool-calls", CALL.replace("QUERY", "\\ud83d Jaws")),
        ("tool-calls", CALL.replace("QUERY", "=" * 40_000)),
    ],
    ids=["long", "long, Search-R1", "surrogate", "surrogate, tool call", "long, tool call"],
)
def test_an_episode_goes_on_over_http_as_in_process(tmp_path, dialect, turn):
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"id": "q", "question": "Who?", "golden_answers": ["Ada"]}) + "\n")
    with served() as remote:
        shown = []
        for retriever in (bm25(), remote):
            env = SearchQAEnv(questions_path=str(file), retriever=retriever, dialect=dialect)
            env.reset(options={"index": 0})
            first = env.step(turn)
            tags = "<think> y </think> <search> shark </search>"
            call = CALL.replace("QUERY", "shark")
            second = env.step(call if dialect == "tool-calls" else tags)
            assert not first[2] and "Jaws is a film" in str(second[0])
            shown.append((str(first[0]), str(second[0])))
    assert shown[0] == shown[1]
