"""Replies other than 200: always JSON with `error` and `detail`, never this machine's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

AGAIN = {"Retry-After": "1"}  # seconds; the client adds its own jitter
CLOSE = {"Connection": "close"}  # what else the client sends is not read
_PAGES = "POST /retrieve, GET /health or GET /metrics"


class RefusedError(Exception):
    """A reply other than 200."""

    def __init__(
        self, status: int, error: str, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.error, self.headers = status, error, headers or {}


def invalid(expected: str, found: str, fix: str) -> RefusedError:
    """Return the refusal of a request that would be refused again."""
    detail = f"expected {expected}; found {found}; fix: {fix}"
    return RefusedError(422, "invalid_request", detail)


def refusal(refused: RefusedError) -> Response:
    """Return the reply that refuses."""
    body = {"error": refused.error, "detail": str(refused)}
    return json_reply(refused.status, body, refused.headers)


def json_reply(status: int, body: Any, headers: Mapping[str, str]) -> Response:
    """Return a reply in JSON.

    Raises:
        ValueError: If JSON cannot hold it: a number that is not finite.
    """
    content = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return Response(content, status, dict(headers), media_type="application/json")


async def _unknown(request: Request, error: Exception) -> Response:
    error = cast(HTTPException, error)
    kind = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    found = f"{request.method:.20} {request.url.path:.100}"
    detail = f"expected {_PAGES}, found {found}; fix: ask for one of these"
    return refusal(RefusedError(error.status_code, kind, detail, error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    detail = "expected an answer, found a fault of the server; its log says which"
    return refusal(RefusedError(500, "internal_error", detail))


async def _refused(request: Request, error: Exception) -> Response:
    return refusal(cast(RefusedError, error))


HANDLERS = {HTTPException: _unknown, RefusedError: _refused, Exception: _failed}
"""Have unknown pages, other methods and errors of our own answered in the same form."""
