"""Checks that a server speaks Search-R1's protocol: `python -m retrieval.http.conformance URL`."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from retrieval.errors import SearchArgumentError
from retrieval.http.conformance.server_under_test import (
    FailedError,
    Item,
    Outcome,
    Result,
    Server,
    SkippedError,
    expect,
    offered,
)
from retrieval.http.errors import ReplyFormatError
from retrieval.http.messages import TOKEN_VARIABLE, is_token
from retrieval.http.retrying_session import check_url
from retrieval.http.transport import BoundedTransport, client_headers
from retrieval.text import to_terminal

# What is asked first; the titles that come back are asked too, so that answers differ.
PROBES = ("capital of France", "who wrote the novel", "film directed by", "river in the county")
_CONCURRENT = 16
_LARGEST = 2**26  # limit that is put to the test
_LARGEST_REPLY = 64 * 2**20  # bytes; as much as a client takes


def check_server(client: httpx2.Client, queries: Sequence[str] = PROBES) -> list[Outcome]:
    """Check a server.

    Args:
        client: Has the server's address as base URL, and its token among the headers.
        queries: Texts that the server should find something for; at least one.

    Returns:
        An outcome for each check: the protocol's, then those of what our server offers beyond it,
        which are skipped where the server has no such page.
    """
    server = Server(client, [*queries, *_titles(Server(client, queries))])
    return [_outcome(name, check, server) for name, check in _CHECKS.items()]


def _outcome(name: str, check: Callable[[Server], None], server: Server) -> Outcome:
    try:
        check(server)
    except SkippedError as reason:
        return Outcome(name, "skip", str(reason))
    except (FailedError, ReplyFormatError) as reason:
        return Outcome(name, "fail", str(reason))
    except Exception as error:  # a body that is no JSON, or of another shape
        return Outcome(name, "fail", f"expected a reply in JSON, found {error!r}")
    return Outcome(name, "pass")


def _titles(server: Server) -> list[str]:
    """Titles of what is found for the first queries; none if the server fails at that already."""
    try:
        found = server.search(server.queries, 3, True)
    except Exception:  # whatever it is, the checks will say it
        return []
    contents = [item["document"]["contents"] for items in found for item in items]
    return list(dict.fromkeys(each.partition("\n")[0].strip('"') for each in contents))[:12]


def _documents(found: Sequence[Sequence[Item]]) -> Result:
    return [[item["document"] for item in items] for items in found]


def _with_scores(server: Server) -> None:
    found = server.search(server.queries, 3, True)
    expect(any(found), "passages for at least one query; name others with --query", "none")


def _without_scores(server: Server) -> None:
    for queries in (server.queries[:1], server.queries[:2], server.queries[:3], server.queries):
        bare = server.search(queries, 3, False)
        scored = _documents(server.search(queries, 3, True))
        expect(bare == scored, "the same documents as with scores", bare)


def _topk(server: Server) -> None:
    most = server.search(server.queries, 5, True)
    for k in (1, 2):
        lengths = [len(items) for items in server.search(server.queries, k, True)]
        expected = [min(k, len(items)) for items in most]
        expect(lengths == expected, f"{expected} passages with topk {k}", lengths)


def _no_topk(server: Server) -> None:
    null = server.search(server.queries, None, True)
    bare = server.post(queries=list(server.queries), return_scores=True)
    expect(bare.status_code == 200, "status 200 without topk", bare.status_code)
    expect(bare.json()["result"] == null, "the same for topk null and absent", bare.text)
    expect(any(null), "a default number of passages", "none")


def _batches(server: Server) -> None:
    batch = _documents(server.search(server.queries, 3, True))
    for query, items in zip(server.queries, batch, strict=True):
        (alone,) = _documents(server.search([query], 3, True))
        expect(alone == items, f"{query!r} to find the same alone and in a batch", items)


def _repeats(server: Server) -> None:
    first, second = (server.search(server.queries, 3, True) for _ in range(2))
    expect(first == second, "the same answer to the same request", second)


def _concurrent(server: Server) -> None:
    alone = {(q, k): server.search([q], k, True) for q in server.queries for k in (1, 3)}
    asked = list(itertools.islice(itertools.cycle(alone), 4 * _CONCURRENT))
    with ThreadPoolExecutor(_CONCURRENT) as pool:
        replies = list(pool.map(lambda each: server.search([each[0]], each[1], True), asked))
    for (query, k), found in zip(asked, replies, strict=True):
        same = _documents(found) == _documents(alone[query, k])
        expect(same, f"{query!r} with topk {k} to find the same beside other requests", found)


def _odd_queries(server: Server) -> None:
    known = server.queries[0]
    odd = ["", " ", '"', "\n\t\0", "é 漢字 🙂 \u202e", "' OR 1=1 --", "AND (", "~*:\\/", "x" * 2000]
    found = _documents(server.search([*odd, known], 3, True))
    (alone,) = _documents(server.search([known], 3, True))
    expect(found[-1] == alone, f"{known!r} to find the same after odd queries", found[-1])


def _wrong_requests(server: Server) -> None:
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
        expect(400 <= status < 500, f"a 4xx for {name}", status)
    kind = {"Content-Type": "application/json"}
    status = server.client.post("/retrieve", content=b'{"queries": [', headers=kind).status_code
    expect(400 <= status < 500, "a 4xx for half a body", status)
    expect(server.post(**good).status_code == 200, "a reply after wrong requests", "none")


def _health(server: Server) -> None:
    reply = offered(server, "/health")
    expect(reply.status_code == 200, "status 200 from a server that answers", reply.status_code)
    body = reply.json()
    expect(isinstance(body, dict) and body.get("ready") is True, '"ready": true', body)
    for name in ("retriever", "index_hash", "documents"):
        expect(name in body, f'"{name}"', body)


def _limits(server: Server) -> None:
    body = offered(server, "/health").json()
    limits = body.get("limits") if isinstance(body, dict) else None
    if not isinstance(limits, dict):
        raise SkippedError("the server names no limits")
    for name in ("max_topk", "max_queries", "max_query_chars", "max_body_bytes"):
        found = limits.get(name)
        sensible = isinstance(found, int) and 1 <= found <= _LARGEST
        expect(sensible, f"a number from 1 to {_LARGEST} as {name}", found)
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
        expect(refused, f"a 4xx for more than {name} = {limits[name]}", reply.status_code)
        said = str(limits[name]) in reply.text
        expect(said, f"the limit {limits[name]} in the reply to more than {name}", reply.text)


def _metrics(server: Server) -> None:
    reply = offered(server, "/metrics")
    expect(reply.status_code == 200, "status 200", reply.status_code)
    try:
        metrics = list(text_string_to_metric_families(reply.text))
    except ValueError as problem:
        raise FailedError(f"expected Prometheus text, found {problem}") from None
    expect(any(metric.samples for metric in metrics), "at least one metric", "none")


_CHECKS: dict[str, Callable[[Server], None]] = {
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
    from rich.text import Text

    parser = argparse.ArgumentParser(
        prog="python -m retrieval.http.conformance", description=__doc__
    )
    parser.add_argument("url", help="address of the server, without /retrieve")
    parser.add_argument("--query", action="append", help="a query it should find something for")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a request")
    given = parser.parse_args(arguments)
    if not 0 < given.timeout <= 1e6:
        parser.error("expected a URL such as http://127.0.0.1:8000, and a timeout up to 1e6 s")
    try:
        check_url(given.url)
    except SearchArgumentError as error:
        parser.error(str(error))
    token = os.environ.get(TOKEN_VARIABLE)
    if token and not is_token(token):
        parser.error(f"expected a token of visible characters in {TOKEN_VARIABLE}")
    with httpx2.Client(
        base_url=given.url.rstrip("/").removesuffix("/retrieve"),
        headers=client_headers(token),
        timeout=given.timeout,
        trust_env=False,
        transport=BoundedTransport(_LARGEST_REPLY, verify=given.url.startswith("https:")),
    ) as client:
        outcomes = check_server(client, given.query or PROBES)
    table = Table("check", "status", "reason", title=f"Search-R1 protocol at {given.url}")
    colours = {"pass": "green", "fail": "red", "skip": "yellow"}
    for each in outcomes:
        status = Text(each.status, colours[each.status])
        table.add_row(each.name, status, Text(to_terminal(each.reason)))
    Console().print(table)
    sys.exit(any(each.status == "fail" for each in outcomes))
