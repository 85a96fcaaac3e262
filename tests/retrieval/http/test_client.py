"""The client: against our application in this process, and against whatever else may answer."""

from __future__ import annotations

import json
import logging
import pickle

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Passage, RetrievalError
from retrieval.errors import SearchArgumentError
from retrieval.http.client import RemoteRetriever, _parts
from retrieval.http.errors import (
    IdentityUnknownError,
    IndexMismatchError,
    RemoteDeadlineError,
    ReplyFormatError,
    RequestRefusedError,
    ServerFailedError,
    ServerUnavailableError,
    TemporaryRemoteError,
)
from retrieval.http.messages import INDEX_HEADER, Identity, Limits
from tests import http_double

URL = "http://retriever"


class Server(http_double.Server):
    """Makes clients of itself, too."""

    def client(self, **options) -> RemoteRetriever:
        transport = httpx2.MockTransport(self)
        return RemoteRetriever(
            URL, transport=transport, clock=lambda: self.now, sleep=self.sleep, **options
        )


def status(code: int, detail: str = "so be it", **headers: str) -> httpx2.Response:
    return httpx2.Response(code, json={"detail": detail}, headers=headers)


def echo(request: httpx2.Request) -> httpx2.Response:
    if request.url.path == "/health":
        return status(404)
    body = json.loads(request.content)
    item = lambda query, i: {  # noqa: E731 - one expression
        "document": {"id": f"{query}/{i}", "contents": f'"{query}"\n{body["topk"]}'},
        "score": 1 / (i + 3),
    }
    result = [[item(query, i) for i in range(body["topk"])] for query in body["queries"]]
    return httpx2.Response(200, json={"result": result})


def expected(queries: list[str], k: int) -> list[list[Passage]]:
    return [[Passage(f"{q}/{i}", q, f"{k}", 1 / (i + 3)) for i in range(k)] for q in queries]


def health(**fields) -> httpx2.Response:
    known = {"ready": True, "retriever": "bm25", "index_hash": "f00", "documents": 7}
    return httpx2.Response(200, json=known | fields)


def test_it_sends_what_search_r1s_clients_send():
    server = Server(echo)
    assert server.client(token="geheim").search(["a"], 2) == expected(["a"], 2)
    (request,) = server.requests
    assert (request.method, str(request.url)) == ("POST", f"{URL}/retrieve")
    assert json.loads(request.content) == {"queries": ["a"], "topk": 2, "return_scores": True}
    assert request.headers["Authorization"] == "Bearer geheim"
    assert "geheim" not in repr(server.client(token="geheim"))


def test_no_query_is_no_request():
    server = Server(echo)
    assert server.client().search([], 3) == []
    assert server.requests == []


@pytest.mark.parametrize(
    "url", ["http://retriever", "http://retriever/", "http://retriever/retrieve"]
)
def test_the_path_may_be_given(url):
    assert RemoteRetriever(url).url == URL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout_s": 0}, "timeout_s > 0"),
        ({"timeout_s": float("nan")}, "timeout_s > 0"),
        ({"timeout_s": float("inf")}, "at most 1e6"),
        ({"retries": -1}, "retries >= 0, found -1"),
        ({"max_reply_bytes": 0}, "max_reply_bytes >= 1"),
        ({"token": "a\r\nX: b"}, "expected a token of visible characters"),
        ({"token": "\udcff"}, "expected a token of visible characters"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(SearchArgumentError, match=message):
        RemoteRetriever(URL, **options)
    with pytest.raises(SearchArgumentError, match="k >= 1, found 0"):
        RemoteRetriever(URL).search(["a"], 0)


@pytest.mark.parametrize(
    "url",
    # The system would take port 73536 for 8000.
    f"retriever:8000 http://[::1 {URL}:73536 {URL}:0 {URL}:-1 http:///x {URL}?a=b {URL}#a".split(),
)
def test_an_address_that_names_no_server_is_refused(url):
    with pytest.raises(SearchArgumentError, match=r"expected a URL .*found '"):
        RemoteRetriever(url)


def test_a_host_that_can_be_no_name_is_a_server_that_is_not_there():
    with pytest.raises(ServerUnavailableError, match="idna"):
        RemoteRetriever("http://..", retries=0).search(["a"], 1)


def test_a_token_goes_out_in_utf_8():
    server = Server(echo)
    server.client(token="geheim-é").search(["a"], 1)
    sent = [value for name, value in server.requests[0].headers.raw if name == b"Authorization"]
    assert sent == ["Bearer geheim-é".encode()]


@pytest.mark.parametrize(
    "trouble",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("closed"),
        httpx2.ReadTimeout("slow"),
        *map(status, (500, 503, 504, 429, 408)),
    ],
    ids=repr,
)
def test_passing_troubles_are_tried_again(trouble):
    server = Server(trouble, trouble, echo)
    assert server.client().search(["a"], 2) == expected(["a"], 2)
    assert len(server.requests) == 3
    assert all(0.05 <= pause <= 0.3 for pause in server.pauses)


def test_pauses_grow_differ_between_seeds_and_repeat_with_one():
    def pauses(seed: int) -> list[float]:
        server = Server(status(500))
        with pytest.raises(ServerUnavailableError):
            server.client(timeout_s=1000, retries=12, seed=seed).search(["a"], 1)
        return server.pauses

    assert pauses(1) == pauses(1) != pauses(2)
    for i, pause in enumerate(pauses(3)):
        assert 0.5 <= pause / min(0.1 * 2**i, 5.0) <= 1.5


def test_the_server_may_ask_for_a_longer_pause_but_not_for_any():
    server = Server(*(status(503, **{"Retry-After": text}) for text in ("7", "1.5")), echo)
    server.client().search(["a"], 1)
    assert 7.0 < server.pauses[0] < 7.5 and 1.5 < server.pauses[1] < 2.0
    server = Server(status(503, **{"Retry-After": "601"}))
    with pytest.raises(ServerUnavailableError):
        server.client(timeout_s=10_000).search(["a"], 1)
    assert server.pauses == []


@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        (status(503, "queue is full"), ServerUnavailableError, "status 503: queue is full"),
        (status(504, "hung"), RemoteDeadlineError, "status 504: hung"),
        (httpx2.ConnectError("refused"), ServerUnavailableError, "ConnectError: refused"),
        (httpx2.ReadTimeout("slow"), RemoteDeadlineError, "expected .* to answer in time"),
    ],
)
def test_attempts_end_in_a_typed_error_before_the_deadline(trouble, kind, message):
    server = Server(trouble)
    with pytest.raises(kind, match=message) as caught:
        server.client(timeout_s=20, retries=1000).search(["a"], 1)
    assert isinstance(caught.value, TemporaryRemoteError | RetrievalError)
    assert 10 < server.now <= 20
    server = Server(trouble)
    with pytest.raises(kind):
        server.client(retries=2).search(["a"], 1)
    assert len(server.requests) == 3


def test_the_deadline_holds_for_the_whole_call():
    def slow(request: httpx2.Request) -> httpx2.Response:
        server.now += 3
        return echo(request)

    server = Server(slow)
    client = server.client(timeout_s=8)
    client._limits = Limits(max_queries=1)
    with pytest.raises(RemoteDeadlineError):
        client.search(["a", "b", "c", "d"], 1)
    assert len(server.requests) == 3
    left = [request.extensions["timeout"]["read"] for request in server.requests]
    assert left == [8, 5, 2]


def test_a_reply_that_trickles_in_is_cut_off():
    def trickle():
        while True:
            server.now += 1
            yield b" "

    server = Server(lambda request: httpx2.Response(200, content=trickle()))
    with pytest.raises(RemoteDeadlineError):
        server.client(timeout_s=5, retries=0).search(["a"], 1)
    assert server.now <= 7


@pytest.mark.parametrize("code", [301, 400, 401, 404, 413, 422])
def test_a_refusal_is_not_repeated(code):
    server = Server(status(code, "expected less"))
    with pytest.raises(RequestRefusedError, match=f"status {code}: expected less"):
        server.client().search(["a"], 1)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b"[]",
        b'{"result": null}',
        b'{"result": []}',
        b'{"result": [[], []]}',
        b'{"result": [[{"id": "1", "contents": "a"}, {"id": "2", "contents": "b"}]]}',
        b'{"result": [[{"document": {"id": "1"}, "score": 1}]]}',
        b'{"result": [[{"document": {"id": "1", "contents": "x"}, "score": "high"}]]}',
        b'{"result": [["text"]]}',
        b'{"result": [""]}',
        b'{"result": [{}]}',
        b'{"result": {"": []}}',
        *(
            b'{"result": [[{"document": {"id": "1", "contents": "x"}, "score": %s}]]}' % score
            for score in [*b"NaN Infinity -Infinity 1e999 true".split(), b"1" * 400, b"1" * 5000]
        ),
        b'{"result": {"a": 1}}',
        b"[" * 100_000,
    ],
)
def test_a_reply_that_is_no_answer_is_an_error(body):
    server = Server(httpx2.Response(200, content=body))
    with pytest.raises(ReplyFormatError, match=r"expected .* found"):
        server.client().search(["a"], 1)


@pytest.mark.parametrize(
    ("item", "passage"),
    [
        (
            {"document": {"id": "1", "contents": '"T"\nx\ny'}, "score": 2},
            Passage("1", "T", "x\ny", 2.0),
        ),
        ({"document": {"id": 1, "contents": "T\nx"}, "score": 0.5}, Passage("1", "T", "x", 0.5)),
        ({"id": "1", "contents": '""T" of U"\nx'}, Passage("1", '"T" of U', "x")),
        ({"id": "1", "contents": "no title"}, Passage("1", "", "no title")),
    ],
)
def test_documents_of_other_servers_are_read(item, passage):
    server = Server(httpx2.Response(200, json={"result": [[item]]}))
    assert server.client().search(["a"], 1) == [[passage]]


def test_lists_are_counted_before_their_documents_are_read(monkeypatch):
    monkeypatch.setattr("retrieval.http.client.from_result", lambda item: pytest.fail("was read"))
    for result in ([[{}], [{}]], [[{}, {}]]):
        server = Server(httpx2.Response(200, json={"result": result}))
        with pytest.raises(ReplyFormatError, match="expected 1 lists of at most 1 passages"):
            server.client().search(["a"], 1)


def test_documents_without_an_id_are_named_by_their_contents():
    items = [{"contents": "T\nx"}, {"contents": "T\ny"}, {"contents": "T\nx"}]
    server = Server(httpx2.Response(200, json={"result": [items]}))
    (found,) = server.client().search(["a"], 3)
    assert found[0].id == found[2].id != found[1].id


def test_many_queries_are_split_by_the_limits_that_the_server_names():
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/health":
            return health(limits={"max_queries": 3, "max_topk": 9})
        return echo(request)

    server = Server(answer)
    client, queries = server.client(), [f"q{i}" for i in range(8)]
    for _ in range(2):
        assert client.search(queries, 1) == expected(queries, 1)
    sent = [request for request in server.requests if request.url.path == "/retrieve"]
    assert len(server.requests) == len(sent) + 1
    sizes = [len(json.loads(request.content)["queries"]) for request in sent]
    assert sizes == [3, 3, 2, 3, 3, 2]


@given(
    st.lists(st.text(max_size=30), max_size=20),
    st.integers(1, 5),
    st.integers(101, 400),
)
def test_parts_keep_order_and_limits(queries, most, size):
    limits = Limits(max_queries=most, max_body_bytes=size)
    parts = list(_parts(queries, limits))
    assert [query for part in parts for query in part] == queries
    for part in parts:
        body = json.dumps({"queries": part, "topk": 100, "return_scores": True})
        assert 1 <= len(part) <= most
        assert len(body) <= size or len(part) == 1


def test_identity_and_its_check():
    server = Server(lambda request: health())
    assert server.client().identity() == Identity(retriever="bm25", index_hash="f00", documents=7)
    assert server.client(index_hash="f00").identity().documents == 7
    with pytest.raises(IndexMismatchError, match="serve the index ba7, found f00"):
        server.client(index_hash="ba7").identity()
    with pytest.raises(IdentityUnknownError, match="expected .* retriever, index_hash"):
        Server(httpx2.Response(200, json={"status": "ok"})).client().identity()


@pytest.mark.parametrize("header", [{}, {INDEX_HEADER: "ba7"}])
def test_every_reply_must_come_from_the_expected_index(header):
    def another(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=echo(request).content, headers=header)

    with pytest.raises(IndexMismatchError, match=f"found {'ba7' if header else 'none named'}"):
        Server(another).client(index_hash="f00").search(["a"], 1)
    assert Server(another).client().search(["a"], 1) == expected(["a"], 1)


def test_waiting_ends_when_the_server_is_ready():
    server = Server(httpx2.ConnectError("refused"), status(503), status(503), health())
    assert server.client(retries=0).wait_until_ready(60).index_hash == "f00"
    assert len(server.requests) == 4


def test_waiting_ends_in_an_error_that_says_why():
    server = Server(httpx2.Response(503, json={"ready": False, "reason": "being loaded"}))
    with pytest.raises(ServerUnavailableError, match="being loaded"):
        server.client().wait_until_ready(60)
    assert 40 < server.now <= 60


def test_a_plain_search_r1_server_is_ready_once_it_answers(caplog):
    server = Server(status(404), status(503), echo)
    with caplog.at_level(logging.WARNING):
        assert server.client().wait_until_ready(60) is None
    assert "its index cannot be checked" in caplog.text
    with pytest.raises(IdentityUnknownError, match="plain Search-R1 server"):
        Server(status(404)).client().identity()
    with pytest.raises(IdentityUnknownError):
        Server(status(404)).client(index_hash="f00").wait_until_ready(60)


def test_a_copy_has_the_same_settings():
    client = RemoteRetriever(URL, timeout_s=7, token="geheim", index_hash="f00", retries=3)
    copy = pickle.loads(pickle.dumps(client))
    assert (copy.url, copy.timeout_s, copy.index_hash) == (URL, 7, "f00")
    assert copy._session.options == client._session.options


def test_against_our_application():
    pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")
    from starlette.testclient import TestClient

    from retrieval.http.server.app import create_app

    class Echo:
        index_hash = "f00"

        def search(self, queries, k):
            return expected(queries, k)

    app = create_app(
        Echo(),
        limits=Limits(max_queries=3, max_query_chars=9),
        token="geheim",
    )
    with TestClient(app) as served:
        client = RemoteRetriever(
            "http://localhost", transport=served._transport, token="geheim", index_hash="f00"
        )
        assert client.wait_until_ready(20).retriever == "Echo"
        queries = [f"q{i}" for i in range(7)]
        assert client.search(queries, 2) == expected(queries, 2)
        with pytest.raises(RequestRefusedError, match="at most 9 characters in a query; found 10"):
            client.search(["x" * 10], 1)
        stranger = RemoteRetriever("http://localhost", transport=served._transport)
        with pytest.raises(RequestRefusedError, match="status 401"):
            stranger.search(["a"], 1)


def test_lone_surrogates_are_sent_and_read_as_what_unicode_has():
    item = b'{"document": {"id": "\\ud83d", "contents": "a\\udc00"}, "score": 1}'
    server = Server(httpx2.Response(200, content=b'{"result": [[%s]]}' % item))
    assert server.client().search(["\ud83d Jaws \U0001f988"], 1) == [
        [Passage("\ufffd", "", "a\ufffd", 1.0)]
    ]
    (request,) = server.requests
    assert json.loads(request.content)["queries"] == ["\ufffd Jaws \U0001f988"]


def test_what_a_server_fails_at_is_repeated_for_one_query_and_not_for_several():
    server = Server(status(500))
    with pytest.raises(ServerFailedError, match="status 500"):
        server.client(retries=3).search(["a"], 1)
    assert len(server.requests) == 4
    server = Server(health(), status(500))
    with pytest.raises(ServerFailedError):
        server.client(retries=3).search(["a", "b"], 1)
    assert [request.url.path for request in server.requests] == ["/health", "/retrieve"]


def test_a_reply_that_would_grow_is_not_unpacked():
    packed = {"Content-Encoding": "gzip"}
    server = Server(httpx2.Response(200, headers=packed, stream=httpx2.ByteStream(b"x")))
    with pytest.raises(ReplyFormatError, match="without an encoding"):
        server.client().search(["a"], 1)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("change", [{"retriever": 5}, {"index_hash": ["f00"]}, {"documents": "7"}])
def test_an_identity_of_other_kinds_is_none(change):
    with pytest.raises(IdentityUnknownError):
        Server(health(**change)).client().identity()


def test_what_a_server_says_cannot_steer_a_terminal():
    with pytest.raises(RequestRefusedError) as caught:
        Server(status(422, "\x1b]0;owned\x07 \u202e")).client().search(["a"], 1)
    assert not set("\x1b\x07\u202e") & set(str(caught.value))
