"""Sessions with a retrieval server for `RemoteRetriever`; `retry_policy` holds the retry loop."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from retrieval.errors import SearchArgumentError
from retrieval.http.errors import RemoteDeadlineError, ServerFailedError, ServerUnavailableError
from retrieval.http.messages import is_token
from retrieval.http.retry_policy import RetryPolicy, is_temporary, retry_after_s
from retrieval.http.transport import BoundedTransport, client_headers
from retrieval.text import to_terminal


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """How a session talks to its server.

    Attributes:
        retries: Attempts after the first one, >= 0.
        token: The server's bearer token; None sends none.
        max_reply_bytes: Most bytes of a reply, >= 1.
        seed: Seed of the random part of the pauses.
        transport: Replaces the network, for tests and for Unix sockets.
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.
    """

    retries: int = 10
    token: str | None = None
    max_reply_bytes: int = 64 * 2**20
    seed: int = 0
    transport: httpx2.BaseTransport | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def detail(reply: httpx2.Response) -> str:
    """Return what an error message should say about the body of a reply."""
    try:
        fields = reply.json()
        return to_terminal(str(fields.get("detail") or fields.get("reason") or fields)[:500])
    except (ValueError, AttributeError, RecursionError):
        return repr(reply.content[:200])


def check_url(url: str) -> None:
    """Refuse what is no address of a server.

    Raises:
        SearchArgumentError: If it is none.
    """
    try:
        parts = httpx2.URL(url)
        # The system's functions would take a port beyond 65535 for another one.
        port = 1 if parts.port is None else parts.port
        good = url.startswith(("http://", "https://")) and parts.host and 1 <= port <= 65_535
        good, why = good and not (parts.query or parts.fragment), ""
    except (httpx2.InvalidURL, UnicodeError) as error:
        good, why = False, f" ({error})"
    if not good:
        raise SearchArgumentError(
            "expected a URL such as http://127.0.0.1:8000, of a host, a port from 1 to 65535 "
            f"and a path alone, found {url!r}{why}"
        )


class RetryingSession:
    """Connections to one server, kept and reused, by any number of threads and after a fork.

    Args:
        url: Address of the server.
        options: How to talk to it.

    Raises:
        SearchArgumentError: If an argument is out of range.
    """

    def __init__(self, url: str, options: SessionOptions) -> None:
        check_url(url)
        if options.retries < 0:
            raise SearchArgumentError(f"expected retries >= 0, found {options.retries}")
        if options.max_reply_bytes < 1:
            raise SearchArgumentError(
                f"expected max_reply_bytes >= 1, found {options.max_reply_bytes}"
            )
        if options.token is not None and not is_token(options.token):
            raise SearchArgumentError("expected a token of visible characters, found others")
        self.url, self.options = url, options
        self._retry = RetryPolicy(
            retries=options.retries,
            first_pause_s=0.1,
            longest_pause_s=5.0,
            seed=options.seed,
            clock=options.clock,
            sleep=options.sleep,
        )
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._owner = 0

    def send(
        self,
        method: str,
        path: str,
        deadline: float,
        body: dict[str, Any] | None = None,
        *,
        repeat_failed: bool = True,
    ) -> httpx2.Response:
        """Send a request until there is an answer that trying again would not change.

        Args:
            method: Such as `POST`.
            path: Below the server's address.
            deadline: Time of the session's clock by which all attempts have ended: connections,
                heads and bodies. Only looking up a name is not bounded by it.
            body: Sent as JSON.
            repeat_failed: Whether to try again what the server says it failed at (500).

        Returns:
            The reply, which may be a refusal.

        Raises:
            TemporaryRemoteError: As the last attempt ended, if none succeeded.
            ReplyFormatError: If a reply is longer than it may be.
        """
        return self._retry.call(
            lambda: self._attempt(method, path, deadline, body),
            deadline=deadline,
            final=() if repeat_failed else (ServerFailedError,),
        )

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._client is not None and self._owner == os.getpid():
            self._client.close()
        self._client = None

    def _http(self) -> httpx2.Client:
        with self._lock:
            if self._client is None or self._owner != os.getpid():
                self._client = httpx2.Client(
                    base_url=self.url,
                    headers=client_headers(self.options.token),
                    trust_env=False,
                    transport=BoundedTransport(
                        self.options.max_reply_bytes,
                        verify=self.url.startswith("https:"),
                        inner=self.options.transport,
                        clock=self.options.clock,
                    ),
                )
                self._owner = os.getpid()
            return self._client

    def _attempt(
        self, method: str, path: str, deadline: float, body: dict[str, Any] | None
    ) -> httpx2.Response:
        """Send a request once."""
        where, left_s = f"{method} {self.url}{path}", deadline - self.options.clock()
        late = RemoteDeadlineError(
            f"expected {where} to answer in time, found nothing; fix: look at the server's load, "
            "or raise timeout_s"
        )
        if left_s <= 0:
            raise late
        try:
            reply = self._http().request(
                method,
                path,
                content=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                timeout=left_s,
            )
        except httpx2.TransportError as error:
            waiting = isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout)
            if waiting or self.options.clock() >= deadline:
                raise late from None
            raise ServerUnavailableError(
                f"expected a server at {self.url}, found {type(error).__name__}: {error}; fix: "
                "start one with `at2po serve`, or check the address"
            ) from None
        if not is_temporary(reply.status_code):
            return reply
        kinds = {500: ServerFailedError, 504: RemoteDeadlineError}
        problem = kinds.get(reply.status_code, ServerUnavailableError)(
            f"expected {where} to answer, found status {reply.status_code}: {detail(reply)}"
        )
        problem.retry_after_s = retry_after_s(reply.headers.get("Retry-After", ""))
        raise problem
