"""The server: Search-R1's protocol to the letter, limits, batches, readiness, overload, faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import Passage
from retrieval.cache import CachedRetriever
from retrieval.errors import SearchArgumentError

pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")

from starlette.testclient import TestClient

from retrieval.http.messages import INDEX_HEADER, Limits, from_result, to_result
from retrieval.http.server.app import create_app
from tests.retrieval.http import live_server
from tests.retrieval.http.live_server import TIMEOUT_S, Echo, Gate, wait_for

URL = "http://localhost"
JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(retriever, **options) -> Iterator[TestClient]:
    with TestClient(create_app(retriever, **options), base_url=URL) as client:
        wait_for(lambda: client.get("/health").json()["reason"] is None)
        yield client


def post(client: TestClient, queries: list[str], **fields):
    return client.post("/retrieve", json={"queries": queries, **fields})


def metric(client: TestClient, name: str) -> float:
    return live_server.metric(client.get("/metrics").text, name)


@pytest.fixture(scope="module")
def echo() -> Iterator[TestClient]:
    with serving(Echo(), limits=Limits(max_queries=4, max_topk=9, max_query_chars=50)) as client:
        yield client


def test_a_reply_is_search_r1s_to_the_letter(echo):
    reply = post(echo, ["a", "b"], topk=2, return_scores=True)
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json() == {
        "result": [
            [
                {"document": {"id": f"{q}/{i}", "contents": f'"{q}"\n2'}, "score": 1 / (i + 3)}
                for i in range(2)
            ]
            for q in "ab"
        ]
    }


@pytest.mark.parametrize("queries", [[], ["a"], ["a", "b"], ["a", "b", "c"]])
def test_without_scores_documents_are_bare_for_any_number_of_queries(echo, queries):
    reply = post(echo, queries, topk=1, return_scores=False)
    assert reply.json() == {
        "result": [[{"id": f"{q}/0", "contents": f'"{q}"\n1'}] for q in queries]
    }


@pytest.mark.parametrize("fields", [{}, {"topk": None}, {"topk": 0}, {"topk": "3"}, {"topk": 3}])
def test_no_number_means_three(echo, fields):
    assert [len(found) for found in post(echo, ["a", "b"], **fields).json()["result"]] == [3, 3]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF"),
        (b"{", "EOF"),
        (b"[]", "found in the body []"),
        (b'{"query": "a"}', "found in queries"),
        (b'{"queries": "a"}', "found in queries 'a'"),
        (b'{"queries": ["a", 7]}', "found in queries.1 7"),
        (b'{"queries": ["\\ud800"]}', "hex escape"),
        (b'{"queries": ["a"], "topk": 1.5}', "found in topk 1.5"),
        (b'{"queries": ["a"], "topk": -1}', "expected topk from 1 to 9, or null; found -1"),
        (b'{"queries": ["a"], "topk": 10}', "expected topk from 1 to 9, or null; found 10"),
        (b'{"queries": ["a"], "return_scores": "x"}', "found in return_scores 'x'"),
        (b'{"queries": ["", "", "", "", ""]}', "expected at most 4 queries; found 5"),
        (b'{"queries": ["' + b"x" * 51 + b'"]}', "at most 50 characters in a query; found 51"),
        (b"[" * 10_000, "recursion"),
        (b'{"queries": ["\xff"]}', "Invalid JSON"),
    ],
)
def test_a_wrong_request_is_told_what_was_expected_and_found(echo, body, message):
    reply = echo.post("/retrieve", content=body, headers=JSON)
    assert reply.status_code == 422
    assert reply.json()["error"] == "invalid_request"
    detail = reply.json()["detail"]
    assert message in detail
    assert detail.startswith("expected ") and "; found " in detail and "; fix: " in detail


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["queries", "topk", "return_scores", "x"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_request_makes_the_server_fail(echo, body):
    reply = echo.post("/retrieve", content=body, headers=JSON)
    assert reply.status_code in (200, 422)


def test_a_large_body_is_refused():
    with serving(Echo(), limits=Limits(max_body_bytes=500)) as client:
        reply = client.post("/retrieve", content=b" " * 501, headers=JSON)
        assert (reply.status_code, reply.json()["error"]) == (413, "body_too_large")
        assert "at most 500 bytes" in reply.json()["detail"]
        assert client.post("/retrieve", content=b" " * 500, headers=JSON).status_code == 422
        assert post(client, ["a"]).status_code == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"default_topk": 0}, "default_topk"),
        ({"default_topk": 101}, "default_topk <= 100, found 101"),
        ({"max_batch": 0}, "max_batch >= 1"),
        ({"max_waiting": 0}, "max_waiting >= 1"),
        ({"deadline_s": 0.0}, "deadline_s > 0"),
        ({"deadline_s": float("inf")}, "at most a day"),
        ({"token": " "}, "expected a token"),
        ({"token": "geheim\n"}, "expected a token of visible characters"),
        ({"token": "\udcff"}, "expected a token of visible characters"),
        ({"allowed_hosts": ["http://retriever"]}, "expected names of hosts.*'http://retriever'"),
        ({"allowed_hosts": ["a", "b c"]}, "found 'b c'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(SearchArgumentError, match=message):
        create_app(Echo(), **options)
    with pytest.raises(SearchArgumentError, match="max_topk to be a number >= 1, found 0"):
        Limits(max_topk=0)


@given(
    st.text(max_size=5).filter(lambda title: "\n" not in title),
    st.text(max_size=9),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_passage_comes_back_whole(title, text, score):
    passage = Passage("7", title, text, score)
    scored, bare = to_result([passage], True), to_result([passage], False)
    assert from_result(json.loads(json.dumps(scored))[0]) == passage
    assert from_result(json.loads(json.dumps(bare))[0]) == Passage("7", title, text)


def test_the_token_is_asked_for_everywhere_but_at_the_health_page(caplog):
    with serving(Echo(), token="geheim-é") as client:
        for path, send in (("/retrieve", client.post), ("/metrics", client.get)):
            for header in ({}, {"Authorization": "Bearer geheim"}, {"Authorization": b"\xff"}):
                reply = send(path, headers=header)
                assert reply.status_code == 401
                assert reply.headers["WWW-Authenticate"] == "Bearer"
                assert "geheim" not in reply.text
            right = {"Authorization": "Bearer geheim-é".encode()}
            assert send(path, headers=right).status_code != 401
        assert client.get("/health").status_code == 200
    assert "geheim" not in caplog.text


def test_health_names_what_is_served_and_every_reply_the_index():
    retriever = Echo()
    retriever.index_hash, retriever.passages = "f00", range(7)
    with serving(retriever) as client:
        health = client.get("/health").json()
        assert health["ready"] is True
        assert (health["retriever"], health["index_hash"]) == ("Echo", "f00")
        assert health["documents"] == 7
        assert health["limits"]["max_queries"] == 512
        assert post(client, ["a"]).headers[INDEX_HEADER] == "f00"


def test_nothing_is_ready_before_the_retriever_has_answered():
    opened = threading.Event()

    def slow() -> Echo:
        assert opened.wait(TIMEOUT_S)
        return Echo()

    with TestClient(create_app(slow), base_url=URL) as client:
        for reply in (client.get("/health"), post(client, ["a"])):
            assert reply.status_code == 503
            assert int(reply.headers["Retry-After"]) >= 1
        assert client.get("/health").json()["ready"] is False
        opened.set()
        wait_for(lambda: client.get("/health").status_code == 200)
        assert post(client, ["a"]).status_code == 200


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_retriever_that_cannot_be_opened_is_said_so(caplog, kind):
    failures: list[BaseException] = []

    def broken() -> Echo:
        raise kind("no such index: /srv/index")

    app = create_app(broken, on_failure=failures.append)
    with TestClient(app, base_url=URL) as client:
        wait_for(lambda: bool(failures))
        assert client.get("/health").status_code == 503
        for said in (client.get("/health").json()["reason"], post(client, ["a"]).json()["detail"]):
            assert "could not be opened; the server's log says why" in said and "/srv" not in said
    assert [type(error) for error in failures] == [kind]
    assert "no such index: /srv/index" in caplog.text


def test_what_arrives_during_a_search_is_the_next_batch():
    gate = Gate()
    with serving(gate, max_batch=8) as client, ThreadPoolExecutor(30) as pool:
        first = pool.submit(post, client, ["first"])
        assert gate.entered.wait(TIMEOUT_S)
        others = {
            (f"q{i}", k): pool.submit(post, client, [f"q{i}"], topk=k, return_scores=True)
            for i in range(10)
            for k in (1, 2)
        }
        wait_for(lambda: metric(client, "at2po_retrieval_waiting_queries") == 20)
        gate.open.set()
        assert first.result().status_code == 200
        for (query, k), reply in others.items():
            found = [from_result(item) for item in reply.result().json()["result"][0]]
            assert found == Echo().search([query], k)[0]
        sizes = [len(batch) for batch in gate.batches if batch != ["warm up"]]
        assert sizes[0] == 1 and sorted(sizes) == [1, 2, 2, 8, 8]
        assert metric(client, "at2po_retrieval_batch_queries_count") == 5
        assert metric(client, "at2po_retrieval_batch_queries_sum") == 21


class PanicError(BaseException):
    """As the panic of a tokenizer's Rust code, which is no Exception."""


@pytest.mark.parametrize("kind", [ZeroDivisionError, PanicError])
def test_one_request_s_fault_is_not_its_neighbours(caplog, kind):
    class Picky(Gate):
        def search(self, queries, k):
            if "bad" in queries:
                raise kind("bad query")
            return super().search(queries, k)

    gate = Picky()
    with serving(gate) as client, ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, client, ["first"])
        assert gate.entered.wait(TIMEOUT_S)
        replies = {q: pool.submit(post, client, [q]) for q in ("a", "bad", "b")}
        wait_for(lambda: metric(client, "at2po_retrieval_waiting_queries") == 3)
        gate.open.set()
        assert first.result().status_code == 200
        assert [replies[q].result().status_code for q in ("a", "bad", "b")] == [200, 500, 200]
        assert replies["bad"].result().json()["error"] == "retriever_failed"
        assert "the server's log says it" in replies["bad"].result().json()["detail"]
        assert "bad query" not in replies["bad"].result().text and "bad query" in caplog.text
        assert replies["b"].result().json()["result"][0][0]["id"] == "b/0"


def test_overload_is_answered_at_once_and_passes():
    gate = Gate()
    with serving(gate, max_waiting=4) as client, ThreadPoolExecutor(9) as pool:
        first = pool.submit(post, client, ["first"])
        assert gate.entered.wait(TIMEOUT_S)
        waiting = [pool.submit(post, client, [f"q{i}"] * 2) for i in range(2)]
        wait_for(lambda: metric(client, "at2po_retrieval_waiting_queries") == 4)
        reply = post(client, ["one too many"])
        assert (reply.status_code, reply.json()["error"]) == (503, "overloaded")
        assert int(reply.headers["Retry-After"]) >= 1
        assert "expected at most 4 waiting queries, found 4" in reply.json()["detail"]
        gate.open.set()
        assert [future.result().status_code for future in (first, *waiting)] == [200] * 3
        assert post(client, ["again"]).status_code == 200
        assert metric(client, 'at2po_retrieval_request_seconds_count{status="503"}') == 1


def test_a_hung_retriever_is_a_504_and_unhealthy_until_it_comes_back():
    gate = Gate()
    with serving(gate, deadline_s=0.05) as client:
        for query in "ab":  # the first one hangs in the retriever, the second one in the queue
            reply = post(client, [query])
            assert (reply.status_code, reply.json()["error"]) == (504, "deadline_exceeded")
            assert "expected an answer within 0.05 s" in reply.json()["detail"]
        health = client.get("/health")
        assert health.status_code == 503
        assert "has not come back" in health.json()["reason"]
        gate.open.set()
        wait_for(lambda: client.get("/health").status_code == 200)
        reply = post(client, ["c"], topk=1)
        assert reply.json()["result"] == [[{"id": "c/0", "contents": '"c"\n1'}]]
        assert ["b"] not in gate.batches  # nobody waited for it any more


def test_the_cache_is_counted(tmp_path):
    cache = CachedRetriever(Echo(), tmp_path, "index")
    with closing(cache), serving(cache) as client:
        for queries in (["a"], ["a"], ["a", "b"]):
            assert post(client, queries).status_code == 200
        assert metric(client, "at2po_retrieval_cache_hits_total") == 2
        assert metric(client, "at2po_retrieval_cache_misses_total") == 3  # with the warm-up
        assert client.get("/health").json()["retriever"] == "Echo"


def test_two_applications_count_for_themselves():
    with serving(Echo()) as one, serving(Echo()) as other:
        post(one, ["a"])
        assert metric(one, "at2po_retrieval_request_seconds_count") == 1
        assert metric(other, "at2po_retrieval_request_seconds_count") == 0
        assert one.get("/metrics").headers["Content-Type"].startswith("text/plain")
