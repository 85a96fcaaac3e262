"""The conformance suite passes our server and a plain one, and catches what breaks clients."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from retrieval import Passage
from retrieval.http.conformance import checks as conformance
from retrieval.http.conformance import server_under_test as conformance_server
from retrieval.http.conformance import trust as conformance_trust
from retrieval.http.conformance.server_under_test import PatientTransport
from retrieval.http.conformance.trust import TRUST_CHECKS
from tests.raw_server import raw_server

PAUSE = threading.Event()  # never set: waiting for it lets other threads go on


class Titles:
    """Finds passages whose titles are longer queries."""

    def search(self, queries, k):
        return [
            [Passage(f"{q}{i}", f"{q} {i}", "text", 9.0 - i) for i in range(k)] for q in queries
        ]


class Plain:
    """A server of Search-R1's kind, without pages beyond `/retrieve`; faults are subclasses."""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/retrieve":
            return self.page(request.url.path)
        try:
            body = json.loads(request.content)
            queries, topk = body["queries"], body.get("topk")
            right = isinstance(queries, list) and all(isinstance(q, str) for q in queries)
            if not right or not (topk is None or (isinstance(topk, int) and topk >= 0)):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            return self.refuse()
        try:
            result = self.result(queries, topk or 3, body.get("return_scores", False), topk)
        except ZeroDivisionError:
            return httpx2.Response(500, text="Internal Server Error")
        return httpx2.Response(200, content=json.dumps({"result": result}))

    def page(self, path: str) -> httpx2.Response:
        return httpx2.Response(404)

    def refuse(self) -> httpx2.Response:
        return httpx2.Response(422, json={"detail": "no"})

    def result(self, queries: list[str], k: int, scores: bool, asked: int | None) -> Any:
        found = [self.found(query, k) for query in queries]
        return found if scores else [[item["document"] for item in items] for items in found]

    def found(self, query: str, k: int) -> list[dict[str, Any]]:
        (passages,) = Titles().search([query], k)
        return [
            {"document": {"id": p.id, "contents": p.contents}, "score": p.score} for p in passages
        ]


def outcomes(server: Callable[[httpx2.Request], httpx2.Response]) -> dict[str, conformance.Outcome]:
    with httpx2.Client(base_url="http://s", transport=httpx2.MockTransport(server)) as client:
        return {each.name: each for each in conformance.check_server(client)}


def failed(server: Callable[[httpx2.Request], httpx2.Response]) -> set[str]:
    return {name for name, each in outcomes(server).items() if each.status == "fail"}


def test_a_plain_server_passes_what_it_offers():
    found = outcomes(Plain())
    assert {each.status for each in found.values()} == {"pass", "skip"}
    skipped = [name for name, each in found.items() if each.status == "skip"]
    assert skipped == [
        "GET /health says ready and what",
        "limits named are kept",
        "GET /metrics is Prometheus text",
        *TRUST_CHECKS,
    ]


@pytest.mark.parametrize("token", [None, "geheim"])
def test_our_server_passes_everything(token):
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'at2po[serve]'")
    from retrieval.http.protocol import Limits
    from tests.retrieval.http.live_server import live

    limits, bounds = Limits(max_body_bytes=50_000), {"head_timeout_s": 0.3}
    headers = {"Authorization": f"Bearer {token}"}
    with (
        live(Titles(), bounds, token=token, limits=limits) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client,
    ):
        found = conformance.check_server(client, address=("127.0.0.1", server.port))
    assert [each for each in found if each.status != "pass"] == []


def test_a_server_of_the_same_pages_that_trusts_everybody_is_caught(monkeypatch):
    """Our application by uvicorn as it comes, which checks no connection."""
    pytest.importorskip("fastapi", reason="needs the extra: pip install 'at2po[serve]'")
    from retrieval.http.server import run as server_run
    from tests.retrieval.http.live_server import live

    monkeypatch.setattr(server_run, "connection_class", lambda bounds: "h11")
    monkeypatch.setattr(conformance_trust, "_WAIT_S", 0.5)
    logging.getLogger("uvicorn.error").disabled = True
    with (
        live(Titles(), allowed_hosts=["*"]) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}") as client,
    ):
        found = conformance.check_server(client, address=("127.0.0.1", server.port))
    logging.getLogger("uvicorn.error").disabled = False
    assert {each.name for each in found if each.status == "fail"} == {
        "a foreign Host is refused",
        "a half-closed request is answered",
        "what is no HTTP is refused in JSON",
        "connections without a request are ended",
    }


class FailsWithoutScores(Plain):
    """As Search-R1's: two values are unpacked from what is one list per query."""

    def result(self, queries, k, scores, asked):
        if not scores and len(queries) != 2:
            raise ZeroDivisionError
        return super().result(queries, k, scores, asked)


class AlwaysWrapped(Plain):
    def result(self, queries, k, scores, asked):
        return super().result(queries, k, True, asked)


class OneFlatList(Plain):
    def result(self, queries, k, scores, asked):
        return sum(super().result(queries, k, scores, asked), [])


class IgnoresTopk(Plain):
    def found(self, query, k):
        return super().found(query, 3)


class OneTooMany(Plain):
    def found(self, query, k):
        return super().found(query, k + 1)


class NoDefault(Plain):
    def result(self, queries, k, scores, asked):
        if asked is None:
            raise ZeroDivisionError
        return super().result(queries, k, scores, asked)


class Reversed(Plain):
    def result(self, queries, k, scores, asked):
        return super().result(queries, k, scores, asked)[::-1]


class DropsRepeatedQueries(Plain):
    def result(self, queries, k, scores, asked):
        return super().result(list(dict.fromkeys(queries))[:5], k, scores, asked)


class WorstFirst(Plain):
    def found(self, query, k):
        return super().found(query, k)[::-1]


class NotANumber(Plain):
    def found(self, query, k):
        return [item | {"score": float("nan")} for item in super().found(query, k)]


class TextAsScore(Plain):
    def found(self, query, k):
        return [item | {"score": "0.5"} for item in super().found(query, k)]


class FindsNothing(Plain):
    def found(self, query, k):
        return []


class NoContents(Plain):
    def found(self, query, k):
        return [{"document": {"id": "1", "text": "x"}, "score": 1.0}] * k


class NeverTheSame(Plain):
    count = 0

    def found(self, query, k):
        self.count += 1
        return super().found(f"{query}{self.count}", k)


class Mixed(Plain):
    """Hands out what was found for whichever request came last."""

    last: tuple[list[str], int] = ([], 0)

    def result(self, queries, k, scores, asked):
        self.last = (queries, k)
        PAUSE.wait(0.002)
        return super().result(*self.last, scores, asked)


class OthersTopk(Plain):
    """Joins concurrent requests and takes the first one's topk for all."""

    topks: list[int] = []

    def result(self, queries, k, scores, asked):
        self.topks.append(k)
        PAUSE.wait(0.002)
        first = self.topks[0]
        self.topks.remove(k)
        return super().result(queries, first, scores, asked)


class AfraidOfQuotes(Plain):
    def found(self, query, k):
        if '"' in query:
            raise ZeroDivisionError
        return super().found(query, k)


class RefusesWithA500(Plain):
    def refuse(self):
        return httpx2.Response(500)


class TakesAnything(Plain):
    def refuse(self):
        return httpx2.Response(200, json={"result": []})


class Page(Plain):
    def page(self, path):
        return httpx2.Response(200, text="<html>hello</html>")


class NeverReady(Plain):
    def page(self, path):
        return httpx2.Response(503, json={"ready": False})


class Anonymous(Plain):
    def page(self, path):
        return (
            httpx2.Response(200, json={"ready": True}) if path == "/health" else super().page(path)
        )


class LimitsOnPaper(Plain):
    def page(self, path):
        names = ("max_topk", "max_queries", "max_query_chars", "max_body_bytes")
        return httpx2.Response(200, json={"limits": dict.fromkeys(names, 3000)})


class Trusting(Plain):
    """Names limits, as ours, and does nothing else of what ours does."""

    health: dict[str, Any] = {"ready": True, "limits": {}}

    def page(self, path):
        return httpx2.Response(200, json=self.health) if path == "/health" else super().page(path)


class Boundless(Trusting):
    """To try these limits would take all memory."""

    health: dict[str, Any] = {
        "limits": dict.fromkeys(
            ("max_topk", "max_queries", "max_query_chars", "max_body_bytes"), 10**15
        )
    }


class Redirects(Trusting):
    def page(self, path):
        if path.endswith("/"):
            return httpx2.Response(307, headers={"Location": "http://evil.example/retrieve"})
        return super().page(path)


class Chatty(Trusting):
    health = Trusting.health | {"reason": "IndexFormatError('/srv/index/passages: torn')"}


@pytest.mark.parametrize(
    ("server", "check"),
    [
        (Trusting, "refusals are JSON"),
        (Trusting, "a foreign Host is refused"),
        (Trusting, "only JSON is taken"),
        (Redirects, "nothing is redirected"),
        (Chatty, "GET /health tells nothing of the machine"),
        (Trusting, "limits named are kept"),
        (Boundless, "limits named are kept"),
        (FailsWithoutScores, "the same documents without scores"),
        (AlwaysWrapped, "the same documents without scores"),
        (OneFlatList, "passages with scores"),
        (IgnoresTopk, "topk bounds each list"),
        (OneTooMany, "topk bounds each list"),
        (NoDefault, "topk null or absent is a default"),
        (Reversed, "a batch is its queries in order"),
        (DropsRepeatedQueries, "a batch is its queries in order"),
        (WorstFirst, "passages with scores"),
        (NotANumber, "passages with scores"),
        (TextAsScore, "passages with scores"),
        (FindsNothing, "passages with scores"),
        (NoContents, "passages with scores"),
        (NeverTheSame, "answers repeat"),
        (Mixed, "concurrent requests do not mix"),
        (OthersTopk, "concurrent requests do not mix"),
        (AfraidOfQuotes, "odd queries are answered"),
        (RefusesWithA500, "wrong requests get a 4xx"),
        (TakesAnything, "wrong requests get a 4xx"),
        (NeverReady, "GET /health says ready and what"),
        (Anonymous, "GET /health says ready and what"),
        (LimitsOnPaper, "limits named are kept"),
        (Page, "GET /metrics is Prometheus text"),
    ],
)
def test_a_fault_is_caught(server, check):
    assert check in failed(server())


def test_faults_of_concurrency_are_seen_by_no_other_check():
    assert failed(Mixed()) == failed(OthersTopk()) == {"concurrent requests do not mix"}


@pytest.mark.parametrize(
    "reply",
    [httpx2.Response(200, text="<html>"), httpx2.Response(200, json=[]), httpx2.ConnectError("no")],
    ids=repr,
)
def test_something_else_than_a_server_fails_every_check_of_the_protocol(reply):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if isinstance(reply, Exception):
            raise reply
        return reply

    found = outcomes(answer)
    assert {each.status for each in list(found.values())[:9]} == {"fail"}
    assert all(e.reason.startswith("expected ") for e in found.values() if e.status == "fail")


def test_the_command_prints_a_table_and_exits_by_it(monkeypatch, capsys):
    clients: list[dict[str, Any]] = []
    real, server = httpx2.Client, Plain()

    def client(**options):
        clients.append(options)
        return real(**options | {"transport": httpx2.MockTransport(server)})

    monkeypatch.setattr(conformance.httpx2, "Client", client)
    monkeypatch.setenv("AT2PO_SERVER_TOKEN", "geheim")
    with pytest.raises(SystemExit) as ended:
        conformance.main(["http://s:8000/retrieve"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "concurrent requests do not" in shown and "skip" in shown and "geheim" not in shown
    assert clients[0]["base_url"] == "http://s:8000"
    assert clients[0]["headers"]["Authorization"] == "Bearer geheim"
    server = Reversed()
    with pytest.raises(SystemExit) as ended:
        conformance.main(["http://s:8000", "--query", "a", "--query", "b"])
    assert ended.value.code == 1
    assert "fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["s:8000"],
        ["http://[::1"],
        ["http://s", "--timeout", "nan"],
        ["http://s:x"],
        ["http://127.0.0.1:73536"],  # the system would take it for 8000
    ],
)
def test_a_wrong_command_line_is_told_so(words, capsys):
    with pytest.raises(SystemExit) as ended:
        conformance.main(words)
    assert ended.value.code == 2 and "expected a URL such as" in capsys.readouterr().err


ENDLESS = {
    "head": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "hints": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", b" "),
}


@pytest.mark.parametrize(("head", "drip"), ENDLESS.values(), ids=ENDLESS)
def test_a_server_that_drips_is_given_up(head, drip):
    def answer(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(head)
        while not PAUSE.wait(0.01):
            connection.sendall(drip)

    with raw_server(answer) as port, patient(port, 0.05) as client:
        found = conformance.check_server(client, ["a"])
    assert {each.status for each in found} == {"fail"}
    assert "ReadTimeout" in found[0].reason


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", "encoding"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 200, "at most 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 99, "found"),
    ],
)
def test_a_reply_that_would_fill_the_memory_is_not_read(monkeypatch, reply, message):
    monkeypatch.setattr(conformance_server, "_LARGEST_REPLY", 100)

    def answer(connection: socket.socket) -> None:
        connection.recv(2**16)
        connection.sendall(reply)

    with raw_server(answer) as port, patient(port, 20) as client:
        found = conformance.check_server(client, ["a"])
    assert found[0].status == "fail" and message in found[0].reason


def test_a_body_that_is_nested_deeply_is_no_json():
    found = outcomes(lambda request: httpx2.Response(200, content=b"[" * 100_000))
    assert {each.status for each in found.values()} == {"fail"}


def test_what_a_server_says_does_not_reach_the_terminal_as_control(monkeypatch, capsys):
    real = httpx2.Client
    transport = httpx2.MockTransport(lambda request: httpx2.Response(400, content=b"\x1b[2J[/x]"))
    monkeypatch.setattr(
        conformance.httpx2, "Client", lambda **given: real(**given | {"transport": transport})
    )
    with pytest.raises(SystemExit):
        conformance.main(["http://s:8000"])
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown and "[/x]" in shown


@pytest.mark.parametrize("token", ["a b", "\udcff"])
def test_a_token_that_cannot_be_sent_is_told_so(token, monkeypatch, capsys):
    monkeypatch.setenv("AT2PO_SERVER_TOKEN", token)
    with pytest.raises(SystemExit) as ended:
        conformance.main(["http://s:8000"])
    assert ended.value.code == 2 and "expected a token" in capsys.readouterr().err


def patient(port: int, timeout_s: float) -> httpx2.Client:
    transport = PatientTransport(timeout_s, verify=False)
    return httpx2.Client(base_url=f"http://127.0.0.1:{port}", transport=transport)
