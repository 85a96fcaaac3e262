"""Checks that a server speaks Search-R1's protocol: `python -m retrieval.conformance URL`."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2

# What is asked first; the titles that come back are asked too, so that answers differ.
PROBES = ("capital of France", "who wrote the novel", "film directed by", "river in the county")
_CONCURRENT = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found.

    Attributes:
        name: The check.
        status: ``pass``, ``fail``, or ``skip`` where the server does not offer what is checked.
        reason: Why it is not ``pass``.
    """

    name: str
    status: str
    reason: str = ""


class _FailedError(Exception):
    """The server does not do what the check asks for."""


class _SkippedError(Exception):
    """The server does not offer what the check is about, and need not."""


_Item = dict[str, Any]
_Result = list[list[_Item]]


@dataclass(frozen=True, slots=True)
class _Server:
    """A server under test and queries that it has answers for."""

    client: httpx2.Client
    queries: Sequence[str]

    def post(self, **body: Any) -> httpx2.Response:
        return self.client.post("/retrieve", json=body)

    def search(self, queries: Sequence[str], topk: int | None, scores: bool) -> _Result:
        """Search, and check all that holds for every reply."""
        reply = self.post(queries=list(queries), topk=topk, return_scores=scores)
        _expect(reply.status_code == 200, "status 200", f"{reply.status_code}: {reply.text:.200}")
        body = reply.json()
        result: Any = body.get("result") if isinstance(body, dict) else None
        _expect(isinstance(result, list), 'an object with a list in "result"', body)
        _expect(len(result) == len(queries), f"{len(queries)} lists", f"{len(result)}")
        for items in result:
            _expect(isinstance(items, list), "a list for each query", items)
            _expect(len(items) <= (topk or math.inf), f"at most {topk} items", f"{len(items)}")
            for item in items:
                _check_item(item, scores)
            numbers = [item["score"] for item in items] if scores else []
            _expect(numbers == sorted(numbers, reverse=True), "the best first", numbers)
        found: _Result = result
        return found


def check_server(client: httpx2.Client, queries: Sequence[str] = PROBES) -> list[Outcome]:
    """Check a server.

    Args:
        client: Has the server's address as base URL, and its token among the headers.
        queries: Texts that the server should find something for; at least one.

    Returns:
        An outcome for each check: the protocol's, then those of what our server offers beyond it,
        which are skipped where the server has no such page.
    """
    server = _Server(client, [*queries, *_titles(_Server(client, queries))])
    return [_outcome(name, check, server) for name, check in _CHECKS.items()]


def _outcome(name: str, check: Callable[[_Server], None], server: _Server) -> Outcome:
    try:
        check(server)
    except _SkippedError as reason:
        return Outcome(name, "skip", str(reason))
    except _FailedError as reason:
        return Outcome(name, "fail", str(reason))
    except (httpx2.HTTPError, ValueError) as error:  # a ValueError: the body is no JSON
        return Outcome(name, "fail", f"expected a reply in JSON, found {error!r}")
    return Outcome(name, "pass")


def _titles(server: _Server) -> list[str]:
    """Titles of what is found for the first queries; none if the server fails at that already."""
    try:
        found = server.search(server.queries, 3, True)
    except (_FailedError, httpx2.HTTPError, ValueError):
        return []
    contents = [item["document"]["contents"] for items in found for item in items]
    return list(dict.fromkeys(each.partition("\n")[0].strip('"') for each in contents))[:12]


def _expect(holds: bool, expected: str, found: object) -> None:
    if not holds:
        raise _FailedError(f"expected {expected}, found {found!s:.300}")


def _check_item(item: Any, scores: bool) -> None:
    if scores:
        _expect(
            isinstance(item, dict) and item.keys() == {"document", "score"},
            'items {"document": ..., "score": ...} with return_scores true',
            item,
        )
        score = item["score"]
        number = isinstance(score, int | float) and not isinstance(score, bool)
        _expect(number and math.isfinite(score), "a finite number as score", score)
    document = item["document"] if scores else item
    _expect(
        isinstance(document, dict) and isinstance(document.get("contents"), str),
        'documents with a text in "contents"' + (", not wrapped" if not scores else ""),
        document,
    )


def _documents(found: Sequence[Sequence[_Item]]) -> _Result:
    return [[item["document"] for item in items] for items in found]


def _with_scores(server: _Server) -> None:
    found = server.search(server.queries, 3, True)
    _expect(any(found), "passages for at least one query; name others with --query", "none")


def _without_scores(server: _Server) -> None:
    for queries in (server.queries[:1], server.queries[:2], server.queries[:3], server.queries):
        bare = server.search(queries, 3, False)
        scored = _documents(server.search(queries, 3, True))
        _expect(bare == scored, "the same documents as with scores", bare)


def _topk(server: _Server) -> None:
    most = server.search(server.queries, 5, True)
    for k in (1, 2):
        lengths = [len(items) for items in server.search(server.queries, k, True)]
        expected = [min(k, len(items)) for items in most]
        _expect(lengths == expected, f"{expected} passages with topk {k}", lengths)


def _no_topk(server: _Server) -> None:
    null = server.search(server.queries, None, True)
    bare = server.post(queries=list(server.queries), return_scores=True)
    _expect(bare.status_code == 200, "status 200 without topk", bare.status_code)
    _expect(bare.json()["result"] == null, "the same for topk null and absent", bare.text)
    _expect(any(null), "a default number of passages", "none")


def _batches(server: _Server) -> None:
    batch = _documents(server.search(server.queries, 3, True))
    for query, items in zip(server.queries, batch, strict=True):
        (alone,) = _documents(server.search([query], 3, True))
        _expect(alone == items, f"{query!r} to find the same alone and in a batch", items)


def _repeats(server: _Server) -> None:
    first, second = (server.search(server.queries, 3, True) for _ in range(2))
    _expect(first == second, "the same answer to the same request", second)


def _concurrent(server: _Server) -> None:
    alone = {(q, k): server.search([q], k, True) for q in server.queries for k in (1, 3)}
    asked = list(itertools.islice(itertools.cycle(alone), 4 * _CONCURRENT))
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        replies = list(pool.map(lambda each: server.search([each[0]], each[1], True), asked))
    for (query, k), found in zip(asked, replies, strict=True):
        same = _documents(found) == _documents(alone[query, k])
        _expect(same, f"{query!r} with topk {k} to find the same beside other requests", found)


def _odd_queries(server: _Server) -> None:
    known = server.queries[0]
    odd = ["", " ", '"', "\n\t\0", "é 漢字 🙂 \u202e", "' OR 1=1 --", "AND (", "~*:\\/", "x" * 2000]
    found = _documents(server.search([*odd, known], 3, True))
    (alone,) = _documents(server.search([known], 3, True))
    _expect(found[-1] == alone, f"{known!r} to find the same after odd queries", found[-1])


def _wrong_requests(server: _Server) -> None:
    good = {"queries": [server.queries[0]], "topk": 1, "return_scores": True}
    wrong: dict[str, Any] = {
        "no queries": {"topk": 1},
        "queries that are no list": good | {"queries": 7},
        "a query that is no text": good | {"queries": [{"a": 1}]},
        "topk that is no number": good | {"topk": "many"},
        "topk below 0": good | {"topk": -1},
        "an array": [],
    }
    for name, body in wrong.items():
        status = server.client.post("/retrieve", json=body).status_code
        _expect(400 <= status < 500, f"a 4xx for {name}", status)
    status = server.client.post("/retrieve", content=b'{"queries": [').status_code
    _expect(400 <= status < 500, "a 4xx for half a body", status)
    _expect(server.post(**good).status_code == 200, "a reply after wrong requests", "none")


def _offered(server: _Server, path: str) -> httpx2.Response:
    reply = server.client.get(path)
    if reply.status_code in (404, 405):
        raise _SkippedError(f"the server has no {path}")
    return reply


def _health(server: _Server) -> None:
    reply = _offered(server, "/health")
    _expect(reply.status_code == 200, "status 200 from a server that answers", reply.status_code)
    body = reply.json()
    _expect(isinstance(body, dict) and body.get("ready") is True, '"ready": true', body)
    for name in ("retriever", "index_hash", "documents"):
        _expect(name in body, f'"{name}"', body)


def _limits(server: _Server) -> None:
    body = _offered(server, "/health").json()
    limits = body.get("limits") if isinstance(body, dict) else None
    if not isinstance(limits, dict):
        raise _SkippedError("the server names no limits")
    query = server.queries[0]
    over = {
        "max_topk": {"queries": [query], "topk": limits["max_topk"] + 1},
        "max_queries": {"queries": [""] * (limits["max_queries"] + 1)},
        "max_query_chars": {"queries": ["x" * (limits["max_query_chars"] + 1)]},
        "max_body_bytes": {"queries": ["x" * limits["max_body_bytes"]]},
    }
    for name, request in over.items():
        reply = server.post(**request)
        refused = 400 <= reply.status_code < 500
        _expect(refused, f"a 4xx for more than {name} = {limits[name]}", reply.status_code)
        said = str(limits[name]) in reply.text
        _expect(said, f"the limit {limits[name]} in the reply to more than {name}", reply.text)


def _metrics(server: _Server) -> None:
    reply = _offered(server, "/metrics")
    _expect(reply.status_code == 200, "status 200", reply.status_code)
    lines = [line for line in reply.text.splitlines() if line and not line.startswith("#")]
    _expect(bool(lines), "at least one metric", "none")
    for line in lines:
        try:
            float(line.rpartition(" ")[2])
        except ValueError:
            raise _FailedError(f"expected Prometheus text, found the line {line!r}") from None


_CHECKS: dict[str, Callable[[_Server], None]] = {
    "passages with scores": _with_scores,
    "the same documents without scores": _without_scores,
    "topk bounds each list": _topk,
    "topk null or absent is a default": _no_topk,
    "a batch is its queries in order": _batches,
    "answers repeat": _repeats,
    "concurrent requests do not mix": _concurrent,
    "odd queries are answered": _odd_queries,
    "wrong requests get a 4xx": _wrong_requests,
    "GET /health says ready and what": _health,
    "limits named are kept": _limits,
    "GET /metrics is Prometheus text": _metrics,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Check a server and print a table.

    Args:
        arguments: Words of the command line; None takes the process's own.

    Raises:
        SystemExit: With code 1 if a check failed.
    """
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m retrieval.conformance", description=__doc__)
    parser.add_argument("url", help="address of the server, without /retrieve")
    parser.add_argument("--query", action="append", help="a query it should find something for")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a request")
    parser.add_argument(
        "--token-variable", default="AT2PO_SERVER_TOKEN", help="environment variable of the token"
    )
    given = parser.parse_args(arguments)
    token = os.environ.get(given.token_variable)
    with httpx2.Client(
        base_url=given.url.rstrip("/").removesuffix("/retrieve"),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=given.timeout,
        trust_env=False,
    ) as client:
        outcomes = check_server(client, given.query or PROBES)
    table = Table("check", "status", "reason", title=f"Search-R1 protocol at {given.url}")
    colours = {"pass": "green", "fail": "red", "skip": "yellow"}
    for each in outcomes:
        status = f"[{colours[each.status]}]{each.status}[/]"
        table.add_row(each.name, status, each.reason.replace("[", r"\["))
    Console().print(table)
    sys.exit(any(each.status == "fail" for each in outcomes))


if __name__ == "__main__":
    main()
