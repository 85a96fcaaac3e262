"""A web application that serves any retriever, spoken to as Search-R1's server."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated

from pydantic import BaseModel, FailFast, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from retrieval.errors import SearchArgumentError
from retrieval.http.messages import INDEX_HEADER, Limits, is_token, to_result
from retrieval.http.server.batcher import Batcher
from retrieval.http.server.hosts import HostCheck, known_names
from retrieval.http.server.metrics import Metrics
from retrieval.http.server.refusals import (
    AGAIN,
    CLOSE,
    HANDLERS,
    RefusedError,
    invalid,
    json_reply,
    refusal,
)
from retrieval.http.server.uploads import Uploads
from retrieval.protocol import Retriever

_log = logging.getLogger(__name__)


class _Query(BaseModel):
    """The body of a search; pydantic reads it as leniently as in Search-R1's server."""

    # Without FailFast, a body of millions of wrong queries makes as many errors.
    queries: Annotated[list[str], FailFast()]
    topk: int | None = None
    return_scores: bool = False


def create_app(
    retriever: Retriever | Callable[[], Retriever],
    *,
    default_topk: int = 3,
    limits: Limits | None = None,
    max_batch: int = 64,
    max_waiting: int = 1024,
    deadline_s: float = 30.0,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    on_failure: Callable[[BaseException], object] = lambda error: None,
) -> Starlette:
    r"""Make the web application that serves a retriever.

    `POST /retrieve` takes `{"queries": [text, ...], "topk": number or null, "return_scores":
    true or false}` and returns `{"result": [[item, ...], ...]}`: for each query, in order, its
    items, the best first. With scores an item is `{"document": {"id": ..., "contents":
    "\"Title\"\ntext"}, "score": number}`, without them the bare document, for any number of
    queries. `topk` null, 0 or absent means `default_topk`.

    A reply other than 200 is `{"error": kind, "detail": text}`; `docs/how-to/retrieval-server.md`
    lists the statuses, and how the server differs from Search-R1's own.

    `GET /health` says 200 once the retriever has answered a first query, and 503 before that and
    while a search takes longer than the deadline; both with readiness, identity and limits as JSON.
    `GET /metrics` is in the Prometheus text format. `/health` never asks for the token.

    Args:
        retriever: What to serve, or a function that opens it. The function, and every search, run
            in one thread of their own.
        default_topk: Passages per query where the request names no number, >= 1.
        limits: Bounds on a request.
        max_batch: Most queries of concurrent requests that one search takes together; 1 never joins
            requests.
        max_waiting: Most queries that wait for the retriever; more are answered 503.
        deadline_s: Seconds from the arrival of a request to its answer, body included, > 0 and at
            most a day.
        token: Secret that clients must send as `Authorization: Bearer ...`; None asks for none.
        allowed_hosts: Names by which clients may call the server, besides `localhost`, this
            machine's name and IP addresses; `*` takes all.
        on_failure: Called, in the retriever's thread, if the retriever cannot be opened.

    Returns:
        The application, for any ASGI server.

    Raises:
        SearchArgumentError: If a number is out of range, the token is none, or a host is no name.
    """
    limits = limits or Limits()
    if not 1 <= default_topk <= limits.max_topk:
        raise SearchArgumentError(
            f"expected 1 <= default_topk <= {limits.max_topk}, found {default_topk}"
        )
    if max_batch < 1 or max_waiting < 1 or not 0 < deadline_s <= 86_400:
        raise SearchArgumentError(
            "expected max_batch >= 1, max_waiting >= 1 and deadline_s > 0 and at most a day, "
            f"found {max_batch}, {max_waiting} and {deadline_s}"
        )
    if token is not None and not is_token(token):
        raise SearchArgumentError("expected a token of visible characters, found none or others")
    names = known_names(allowed_hosts)
    metrics = Metrics()
    batcher = Batcher(
        retriever if callable(retriever) else lambda: retriever,
        max_batch=max_batch,
        max_waiting=max_waiting,
        on_batch=metrics.searched,
        on_failure=on_failure,
    )
    metrics.watch(batcher)
    uploads = Uploads(limits.max_body_bytes)
    service = _Service(batcher, metrics, uploads, default_topk, limits, deadline_s, token)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.start()
        yield
        await batcher.stop(timeout_s=5.0)  # the server has waited for all requests already

    app = Starlette(
        routes=[
            Route("/retrieve", service.retrieve, methods=["POST"]),
            Route("/health", service.health),
            Route("/metrics", service.scrape),
        ],
        middleware=[Middleware(HostCheck, names=names)],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would name the host that the client has named
    app.state.metrics = metrics
    return app


@dataclass(frozen=True, slots=True)
class _Service:
    """What the routes do."""

    batcher: Batcher
    metrics: Metrics
    uploads: Uploads
    default_topk: int
    limits: Limits
    deadline_s: float
    token: str | None = field(repr=False)

    async def scrape(self, request: Request) -> Response:
        self._authorise(request)
        return Response(self.metrics.text(), media_type=self.metrics.media_type)

    async def health(self, request: Request) -> Response:
        reason = self._not_ready()
        body = {
            "ready": not reason,
            "reason": reason,
            **asdict(self.batcher.identity),
            "limits": asdict(self.limits),
        }
        return json_reply(503 if reason else 200, body, AGAIN if reason else {})

    async def retrieve(self, request: Request) -> Response:
        start = time.perf_counter()
        try:
            response = await self._answer(request)
        except RefusedError as refused:
            response = refusal(refused)
        except ClientDisconnect:
            _log.warning("a client broke off what it sent")
            response = refusal(RefusedError(499, "disconnected", "the client has gone"))
        self.metrics.answered(response.status_code, time.perf_counter() - start)
        return response

    async def _answer(self, request: Request) -> Response:
        self._admit(request)
        until = asyncio.get_running_loop().time() + self.deadline_s
        query = self._parse(await self.uploads.body(request, until))
        if self.batcher.retriever is None:
            raise RefusedError(503, "not_ready", self._not_ready() or "try again", AGAIN)
        try:
            async with asyncio.timeout_at(until):
                found = await self.batcher.search(query.queries, query.topk or self.default_topk)
        except TimeoutError:
            raise RefusedError(
                504,
                "deadline_exceeded",
                f"expected an answer within {self.deadline_s:g} s, found none; ask for fewer "
                "queries at a time, or raise the server's deadline",
            ) from None
        try:
            result = [to_result(each, query.return_scores) for each in found]
            return json_reply(200, {"result": result}, self._index_header())
        except (ValueError, TypeError, AttributeError):  # a score that is not finite, no passages
            _log.exception("what the retriever found cannot be sent")
            raise RefusedError(
                500,
                "retriever_failed",
                "expected passages with finite scores of the retriever, found something that JSON "
                "cannot hold; the server's log says what",
            ) from None

    def _admit(self, request: Request) -> None:
        """Refuse what need not be read."""
        self._authorise(request)
        if getattr(request.state, "spare", False):
            detail = "expected a connection to spare, found all in use; try again later"
            raise RefusedError(503, "overloaded", detail, AGAIN | CLOSE)
        sent = request.headers.get("Content-Type", "")
        if sent.partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(
                415,
                "unsupported_media_type",
                f"expected the header 'Content-Type: application/json', found {sent!r:.100}; fix: "
                "send it: it keeps pages of other sites from asking in a browser's name",
            )

    def _authorise(self, request: Request) -> None:
        if self.token is None:
            return
        sent = request.headers.get("Authorization", "").encode("latin-1")
        if not hmac.compare_digest(sent, b"Bearer " + self.token.encode()):
            raise RefusedError(
                401,
                "unauthorized",
                "expected the header 'Authorization: Bearer TOKEN' with this server's token, found "
                f"{'another one' if sent else 'none'}; ask its operator for the token",
                {"WWW-Authenticate": "Bearer"},
            )

    def _parse(self, body: bytes) -> _Query:
        try:
            query = _Query.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the body"
            raise invalid(
                '{"queries": [text, ...], "topk": number or null, "return_scores": true or false}',
                f"in {where} {first['input']!r:.100} ({first['msg']})",
                "send JSON of that form",
            ) from None
        longest = max(map(len, query.queries), default=0)
        limits = self.limits
        for name, most, found in (
            ("queries", limits.max_queries, len(query.queries)),
            ("characters in a query", limits.max_query_chars, longest),
        ):
            if found > most:
                raise invalid(f"at most {most} {name}", str(found), "send less at a time")
        if not 0 <= (query.topk or 0) <= limits.max_topk:
            bounds = f"topk from 1 to {limits.max_topk}, or null"
            raise invalid(bounds, str(query.topk), "ask for a number in that range")
        return query

    def _not_ready(self) -> str | None:
        """Why no query would be answered now."""
        if self.batcher.failure is not None:
            return "the retriever could not be opened; the server's log says why"
        if self.batcher.retriever is None:
            return "the retriever is being loaded; try again"
        if self.batcher.busy_s > self.deadline_s:
            return f"the retriever has not come back for {self.batcher.busy_s:.0f} s"
        return None

    def _index_header(self) -> dict[str, str]:
        index = self.batcher.identity.index_hash
        return {INDEX_HEADER: index} if index else {}
