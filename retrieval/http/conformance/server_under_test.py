"""A server under test: what every check asks of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found.

    Attributes:
        name: The check.
        status: `pass`, `fail`, or `skip` where the server does not offer what is checked.
        reason: Why it is not `pass`.
    """

    name: str
    status: str
    reason: str = ""


class FailedError(Exception):
    """The server does not do what the check asks for."""


class SkippedError(Exception):
    """The server does not offer what the check is about, and need not."""


Item = dict[str, Any]
Result = list[list[Item]]


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test.

    Attributes:
        client: Has its address as base URL.
        queries: What it has answers for.
    """

    client: httpx2.Client
    queries: Sequence[str]

    def post(self, **body: Any) -> httpx2.Response:
        """Send a search."""
        return self.client.post("/retrieve", json=body)

    def search(self, queries: Sequence[str], topk: int | None, scores: bool) -> Result:
        """Search, and check all that holds for every reply."""
        reply = self.post(queries=list(queries), topk=topk, return_scores=scores)
        expect(reply.status_code == 200, "status 200", f"{reply.status_code}: {reply.text:.200}")
        body = reply.json()
        result: Any = body.get("result") if isinstance(body, dict) else None
        expect(isinstance(result, list), 'an object with a list in "result"', body)
        expect(len(result) == len(queries), f"{len(queries)} lists", f"{len(result)}")
        for items in result:
            expect(isinstance(items, list), "a list for each query", items)
            expect(len(items) <= (topk or math.inf), f"at most {topk} items", f"{len(items)}")
            for item in items:
                _check_item(item, scores)
            numbers = [item["score"] for item in items] if scores else []
            expect(numbers == sorted(numbers, reverse=True), "the best first", numbers)
        found: Result = result
        return found


def expect(holds: bool, expected: str, found: object) -> None:
    """Fail the check unless something holds."""
    if not holds:
        raise FailedError(f"expected {expected}, found {found!s:.300}")


def _check_item(item: Any, scores: bool) -> None:
    if scores:
        expect(
            isinstance(item, dict) and item.keys() == {"document", "score"},
            'items {"document": ..., "score": ...} with return_scores true',
            item,
        )
        score = item["score"]
        number = isinstance(score, int | float) and not isinstance(score, bool)
        expect(number and math.isfinite(score), "a finite number as score", score)
    document = item["document"] if scores else item
    expect(
        isinstance(document, dict) and isinstance(document.get("contents"), str),
        'documents with a text in "contents"' + (", not wrapped" if not scores else ""),
        document,
    )


def offered(server: Server, path: str) -> httpx2.Response:
    """Get a page, or skip the check where there is none."""
    reply = server.client.get(path)
    if reply.status_code in (404, 405):
        raise SkippedError(f"the server has no {path}")
    return reply
