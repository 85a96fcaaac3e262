"""The conformance suite passes our server and a plain one, and catches what breaks clients."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from retrieval import Passage
from retrieval.http.conformance import checks as conformance
from retrieval.http.transport import BoundedTransport

PAUSE = threading.Event()  # never set: waiting for it lets other threads go on


class Titles:
    """Finds passages whose titles are longer queries."""

    def search(self, queries, k):
        return [
            [Passage(f"{q}{i}", f"{q} {i}", "text", 9.0 - i) for i in range(k)] for q in queries
        ]


class Plain:
    """A server of Search-R1's kind, without pages beyond `/retrieve`; `parts` replace methods."""

    def __init__(self, **parts: Callable[..., Any]) -> None:
        vars(self).update(parts)

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
    ]


@pytest.mark.parametrize("token", [None, "geheim"])
def test_our_server_passes_everything(token):
    pytest.importorskip("starlette", reason="needs the extra: pip install 'at2po[serve]'")
    from retrieval.http.messages import Limits
    from tests.retrieval.http.live_server import live

    headers = {"Authorization": f"Bearer {token}"}
    with (
        live(Titles(), token=token, limits=Limits(max_body_bytes=50_000)) as server,
        httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client,
    ):
        found = conformance.check_server(client)
    assert [each for each in found if each.status != "pass"] == []


result, found = Plain().result, Plain().found
COUNT, TOPKS, LAST = itertools.count(), [], {}  # what servers with a fault remember
LIMITS = ("max_topk", "max_queries", "max_query_chars", "max_body_bytes")


def mixed(queries, k, scores, asked):
    """Hands out what was found for the request that came last."""
    LAST["request"] = queries, k
    PAUSE.wait(0.002)
    return result(*LAST["request"], scores, asked)


def topk_of_others(queries, k, scores, asked):
    """Joins concurrent requests and takes the first one's topk for all."""
    TOPKS.append(k)
    PAUSE.wait(0.002)
    first = TOPKS[0]
    TOPKS.remove(k)
    return result(queries, first, scores, asked)


def health(path: str = "/health", **body: Any) -> Callable[[str], httpx2.Response]:
    reply, none = httpx2.Response(200, json=body), httpx2.Response(404)
    return lambda asked: reply if path in (asked, "") else none


def fails(*_: Any) -> Any:
    raise ZeroDivisionError


def unless(right: bool) -> Callable[..., Any]:
    return result if right else fails


BOUNDLESS = health(limits=dict.fromkeys(LIMITS, 10**15))  # to try these would take all memory
FAULTS = [
    ({"page": health(ready=True, limits={})}, "limits named are kept"),
    ({"page": BOUNDLESS}, "limits named are kept"),
    ({"page": health("", limits=dict.fromkeys(LIMITS, 3000))}, "limits named are kept"),
    ({"page": lambda path: httpx2.Response(503, json={})}, "GET /health says ready and what"),
    ({"page": health(ready=True)}, "GET /health says ready and what"),
    ({"page": lambda path: httpx2.Response(200, text="<html>")}, "GET /metrics is Prometheus text"),
    ({"refuse": lambda: httpx2.Response(500)}, "wrong requests get a 4xx"),
    ({"refuse": lambda: httpx2.Response(200, json={"result": []})}, "wrong requests get a 4xx"),
    # As Search-R1's: two values are unpacked from what is one list per query.
    (
        {"result": lambda q, k, scores, asked: unless(scores or len(q) == 2)(q, k, scores, asked)},
        "the same documents without scores",
    ),
    (
        {"result": lambda q, k, scores, asked: result(q, k, True, asked)},
        "the same documents without scores",
    ),
    ({"result": lambda *asked: sum(result(*asked), [])}, "passages with scores"),
    ({"result": lambda *asked: result(*asked)[::-1]}, "a batch is its queries in order"),
    (
        {"result": lambda q, *asked: result(list(dict.fromkeys(q))[:5], *asked)},
        "a batch is its queries in order",
    ),
    (
        {"result": lambda q, k, scores, asked: unless(asked is not None)(q, k, scores, asked)},
        "topk null or absent is a default",
    ),
    ({"result": mixed}, "concurrent requests do not mix"),
    ({"result": topk_of_others}, "concurrent requests do not mix"),
    ({"found": lambda q, k: found(q, 3)}, "topk bounds each list"),
    ({"found": lambda q, k: found(q, k + 1)}, "topk bounds each list"),
    ({"found": lambda q, k: found(q, k)[::-1]}, "passages with scores"),
    (
        {"found": lambda q, k: [item | {"score": float("nan")} for item in found(q, k)]},
        "passages with scores",
    ),
    ({"found": lambda q, k: [i | {"score": "0.5"} for i in found(q, k)]}, "passages with scores"),
    ({"found": lambda q, k: []}, "passages with scores"),
    ({"found": lambda q, k: [{"document": {"text": "x"}, "score": 1.0}]}, "passages with scores"),
    ({"found": lambda q, k: found(f"{q}{next(COUNT)}", k)}, "answers repeat"),
    ({"found": lambda q, k: (fails if '"' in q else found)(q, k)}, "odd queries are answered"),
]


@pytest.mark.parametrize(("parts", "check"), FAULTS, ids=[check for _, check in FAULTS])
def test_a_fault_is_caught(parts, check):
    assert check in failed(Plain(**parts))


def test_faults_of_concurrency_are_seen_by_no_other_check():
    for fault in (mixed, topk_of_others):
        assert failed(Plain(result=fault)) == {"concurrent requests do not mix"}


@pytest.mark.parametrize(
    "reply",
    [*(httpx2.Response(200, text=t) for t in ("<html>", "[]", "[" * 100_000)), OSError("no")],
    ids=["HTML", "a list", "nested deeply", "an error"],
)
def test_something_else_than_a_server_fails_every_check_of_the_protocol(reply):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if isinstance(reply, Exception):
            raise reply
        return reply

    found = outcomes(answer)
    assert {each.status for each in list(found.values())[:9]} == {"fail"}
    assert all(e.reason.startswith("expected ") for e in found.values() if e.status == "fail")


@pytest.fixture
def given(monkeypatch) -> dict[str, Any]:
    """What the command's client is made of; it asks `given["server"]`."""
    options: dict[str, Any] = {"server": Plain()}
    real = httpx2.Client

    def client(**its: Any) -> httpx2.Client:
        options.update(its)
        return real(**its | {"transport": httpx2.MockTransport(options["server"])})

    monkeypatch.setattr(conformance.httpx2, "Client", client)
    return options


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        conformance.main(words)
    return ended.value.code


def test_the_command_prints_a_table_and_exits_by_it(monkeypatch, capsys, given):
    monkeypatch.setenv("AT2PO_SERVER_TOKEN", "geheim")
    assert run("http://s:8000/retrieve") == 0
    shown = capsys.readouterr().out
    assert "concurrent requests do not" in shown and "skip" in shown and "geheim" not in shown
    assert given["base_url"] == "http://s:8000"
    assert given["headers"]["Authorization"] == "Bearer geheim"
    assert isinstance(given["transport"], BoundedTransport) and given["timeout"] == 60
    given["server"] = Plain(result=lambda *asked: result(*asked)[::-1])
    assert run("http://s:8000", "--query", "a", "--query", "b") == 1
    assert "fail" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",  # the system would take port 73536 for 8000
    ["s:8000", "http://[::1", "http://s --timeout nan", "http://s:x", "http://127.0.0.1:73536"],
)
def test_a_wrong_command_line_is_refused(words, capsys):
    assert run(*words.split()) == 2
    assert "expected a URL such as" in capsys.readouterr().err


def test_what_a_server_says_does_not_reach_the_terminal_as_control(capsys, given):
    given["server"] = lambda request: httpx2.Response(400, content=b"\x1b[2J[/x]")
    assert run("http://s:8000") == 1
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown and "[/x]" in shown


@pytest.mark.parametrize("token", ["a b", "\udcff"])
def test_a_token_that_cannot_be_sent_is_refused(token, monkeypatch, capsys):
    monkeypatch.setenv("AT2PO_SERVER_TOKEN", token)
    assert run("http://s:8000") == 2 and "expected a token" in capsys.readouterr().err
