"""One request to an endpoint, retried as long as that may help: the lower half of its agent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from at2po_agents.errors import AgentUnusableError, ConfigError, EndpointError
from at2po_agents.evaluation.endpoint.connection import Connection
from at2po_agents.evaluation.endpoint.rate_limit import RateLimiter
from at2po_agents.evaluation.endpoint.reply import error_of, says_context_is_full
from at2po_agents.rollout.agents import Reply
from retrieval.extras import require
from retrieval.http.retry_policy import RetryPolicy, TemporaryError, is_temporary, retry_after_s
from retrieval.text import to_unicode

_CONNECT_S = 10.0  # longest wait for a connection
_UNUSABLE = (401, 402, 403, 404, 405, 407, 410)  # as redirects: no other request fares better
_SPENT = "insufficient_quota"  # OpenAI's code, sent with 429
_CHARACTERS = 4  # of a token, about, until the endpoint tells


class ContextFullError(EndpointError):
    """The conversation is longer than the model can read."""


class EndpointClient:
    """Sends requests to one address, from any number of threads.

    Args:
        url: The address.
        key: Bearer token; empty sends none.
        retries: Attempts after the first one, >= 0.
        timeout_s: Seconds that an attempt may take, > 0.
        limiter: Lets requests through.
        stopped: Set once the call is cancelled.
        sleep: Waits for so many seconds, or until `stopped`.
        transport: Replaces the network (httpx2).

    Raises:
        AgentUnusableError: If the package httpx2 is missing.
        ConfigError: If there can be no such address.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        retries: int,
        timeout_s: float,
        limiter: RateLimiter,
        stopped: threading.Event,
        sleep: Callable[[float], object],
        transport: Any = None,
    ) -> None:
        require("httpx2", "endpoint", AgentUnusableError)
        import httpx2

        try:
            host = httpx2.URL(url).host
        except httpx2.InvalidURL as error:
            raise ConfigError(f"url: expected an address, found {url!r}: {error}") from None
        self._http, self._transport = httpx2, transport
        self._url, self._key, self._timeout_s = url, key, timeout_s
        self._limiter, self._stopped, self._lock = limiter, stopped, threading.Lock()
        self._retry = RetryPolicy(
            retries=retries, first_pause_s=0.5, longest_pause_s=60.0, sleep=sleep
        )
        # A proxy may lead to the outside, never to this machine itself.
        self._trust_env = host not in ("127.0.0.1", "::1", "localhost")
        # Reading certificates takes some 20 ms: once for all connections.
        self._verify = httpx2.create_ssl_context() if url.startswith("https:") else False
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    def post(self, body: Mapping[str, Any], read: Callable[[Any], Reply]) -> Reply:
        """Send a request until a reply can be read.

        Args:
            body: Sent as JSON.
            read: Makes a `Reply` of the JSON that comes back; raises KeyError, IndexError,
                TypeError, ValueError or AttributeError where it is none.

        Returns:
            What it made.

        Raises:
            ContextFullError: If the conversation is too long.
            EndpointError: If the request is refused, or no attempt succeeded.
            AgentUnusableError: If every other request would be refused, too.
        """
        # What questions and turns hold may have no UTF-8 form.
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        content = to_unicode(text).encode("utf-8")
        guess = len(content) // _CHARACTERS + int(body.get("max_tokens", 0))

        def attempt() -> Reply:
            slot = self._limiter.wait(guess)
            reply = self._attempt(content, read)
            slot.tokens = reply.prompt_tokens + reply.tokens or guess
            return reply

        try:
            return self._retry.call(attempt)
        except TemporaryError as problem:
            raise EndpointError(
                f"expected a turn from {self._url} in {problem.attempts} attempts, found at last "
                f"{problem}; look at the endpoint, and try the failed episodes again"
            ) from None

    def abort(self) -> None:
        """End all requests that are under way."""
        with self._lock:
            busy = list(self._busy)
        for connection in busy:
            connection.abort("the call was cancelled")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.client.close()

    def _attempt(self, content: bytes, read: Callable[[Any], Reply]) -> Reply:
        """Send a request once.

        Raises:
            TemporaryError: If trying again may help; the key is not in its message.
        """
        try:
            with self._connection() as connection:
                status, headers, text = connection.post(self._url, content, self._timeout_s)
        except self._http.RequestError as error:
            problem = self._hidden(f"{type(error).__name__}: {error}")
            raise TemporaryError(problem) from None
        asked_s = retry_after_s(headers.get("retry-after", ""))
        if not 200 <= status < 300:
            raise self._refusal(status, text, asked_s)
        try:
            reply = json.loads(text)
            if error_of_gateway := error_of(reply):
                raise self._refusal(*error_of_gateway, asked_s)
            return read(reply)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # Hidden before it is cut, which might leave a part of the key.
            found, why = self._hidden(text)[:300], self._hidden(str(error))
            problem = f"expected a chat completion, found {found!r} ({why})"[:500]
            raise TemporaryError(problem) from None

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """Lend a connection of its own to a thread."""
        with self._lock:
            if self._stopped.is_set():
                raise AgentUnusableError("the call was cancelled")
            connection = self._idle.pop() if self._idle else self._connect()
            self._busy.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._busy.discard(connection)
                if connection.usable:
                    self._idle.append(connection)
            if not connection.usable:
                connection.client.close()

    def _connect(self) -> Connection:
        client = self._http.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._http.Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_S)),
            transport=self._transport,
            trust_env=self._trust_env,
            verify=self._verify,
            limits=self._http.Limits(max_connections=1),
        )
        return Connection(client, self._http.TransportError)

    def _refusal(self, status: int, text: str, asked_s: float) -> Exception:
        """Return the error of a status other than 2xx."""
        # Hidden before it is cut, which might leave a part of the key.
        problem = f"status {status}: {self._hidden(text)[:500]}"
        spent = status == 429 and _SPENT in text
        if status in _UNUSABLE or status < 400 or spent:
            return AgentUnusableError(
                f"expected {self._url} to take requests, found {problem}; check the address, the "
                "model's name, and the key in the environment"
            )
        if status != 429 and says_context_is_full(text):
            return ContextFullError(problem)
        if not is_temporary(status):
            return EndpointError(f"expected {self._url} to take the request, found {problem}")
        temporary = TemporaryError(problem)
        temporary.retry_after_s = asked_s
        return temporary

    def _hidden(self, text: str) -> str:
        """Take the key out of what a server may have repeated."""
        return text.replace(self._key, "<key>") if self._key else text
