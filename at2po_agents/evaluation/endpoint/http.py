"""One request to an endpoint, retried as long as that may help: the lower half of its agent."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future

import httpx2

from at2po_agents.errors import AgentUnusableError, ConfigError, EndpointError
from at2po_agents.evaluation.endpoint.rate_limit import RateLimiter
from at2po_agents.evaluation.endpoint.reply import (
    ContextFullError,
    error_of,
    says_context_is_full,
)
from at2po_agents.rollout.agents import Reply
from retrieval.http.retry_policy import RetryPolicy, TemporaryError, is_temporary, retry_after_s
from retrieval.text import to_unicode

LARGEST_REPLY = 1 << 25
"""Bytes of a reply that are read; turns are far smaller."""

# Compressed replies have no bound that holds before they are decompressed.
_HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_CONNECT_S = 10.0  # longest wait for a connection
_UNUSABLE = (401, 402, 403, 404, 405, 407, 410)  # as redirects: no other request fares better
_SPENT = "insufficient_quota"  # OpenAI's code, sent with 429
_CHARACTERS = 4  # of a token, about, until the endpoint tells


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
        transport: Replaces the network.

    Raises:
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
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            self._host = httpx2.URL(url).host
        except httpx2.InvalidURL as error:
            raise ConfigError(f"url: expected an address, found {url!r}: {error}") from None
        self._url, self._key, self._timeout_s = url, key, timeout_s
        self._limiter, self._stopped, self._lock = limiter, stopped, threading.Lock()
        self._retry = RetryPolicy(
            retries=retries, first_pause_s=0.5, longest_pause_s=60.0, sleep=sleep
        )
        self._transport = transport
        # Connections belong to the loop that they were opened on, a forked process has another one.
        self._opened: tuple[asyncio.AbstractEventLoop, httpx2.AsyncClient] | None = None
        self._sent: set[Future[httpx2.Response]] = set()

    def post(
        self, body: Mapping[str, object], read: Callable[[object], Reply], max_tokens: int
    ) -> Reply:
        """Send a request until a reply can be read.

        Args:
            body: Sent as JSON.
            read: Makes a `Reply` of the JSON that comes back; raises KeyError, IndexError,
                TypeError, ValueError or AttributeError where it is none.
            max_tokens: Most tokens of the turn.

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
        guess = len(content) // _CHARACTERS + max_tokens

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
        """Cancel all requests that are under way."""
        with self._lock:
            for sent in self._sent:
                sent.cancel()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None and opened[0] is _loop.running():
            asyncio.run_coroutine_threadsafe(opened[1].aclose(), opened[0]).result()

    def _attempt(self, content: bytes, read: Callable[[object], Reply]) -> Reply:
        """Send a request once.

        Raises:
            TemporaryError: If trying again may help; the key is not in its message.
        """
        reply = self._response(content)
        asked_s = retry_after_s(reply.headers.get("retry-after", ""))
        text = reply.content.decode("utf-8", "replace")
        if not 200 <= reply.status_code < 300:
            raise self._refusal(reply.status_code, text, asked_s)
        try:
            found = json.loads(text)
            if error_of_gateway := error_of(found):
                raise self._refusal(*error_of_gateway, asked_s)
            return read(found)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # Hidden before it is cut, which might leave a part of the key.
            shown, why = self._hidden(text)[:300], self._hidden(str(error))
            problem = f"expected a chat completion, found {shown!r} ({why})"[:500]
            raise TemporaryError(problem) from None

    def _response(self, content: bytes) -> httpx2.Response:
        """Send a request, and wait until it has its whole reply or is cancelled."""
        with self._lock:
            loop, client = self._connections()
            sent = asyncio.run_coroutine_threadsafe(self._send(client, content), loop)
            self._sent.add(sent)
            if self._stopped.is_set():
                sent.cancel()
        try:
            return sent.result()
        except CancelledError:
            raise AgentUnusableError("the call was cancelled") from None
        except TimeoutError:
            raise TemporaryError(f"no whole reply within {self._timeout_s} s") from None
        except httpx2.RequestError as error:
            problem = self._hidden(f"{type(error).__name__}: {error}")
            raise TemporaryError(problem) from None
        finally:
            with self._lock:
                self._sent.discard(sent)

    def _connections(self) -> tuple[asyncio.AbstractEventLoop, httpx2.AsyncClient]:
        """The loop that carries requests, and the connections on it, opened now if need be."""
        loop = _loop.running()
        if self._opened is None or self._opened[0] is not loop:
            self._opened = loop, self._client()
        return self._opened

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={**_HEADERS, **({"Authorization": f"Bearer {self._key}"} if self._key else {})},
            # Those of httpx2 begin again with every byte that arrives.
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            transport=self._transport,
            # A proxy may lead to the outside, never to this machine itself.
            trust_env=self._host not in ("127.0.0.1", "::1", "localhost"),
            verify=self._url.startswith("https:"),  # reading certificates takes some 20 ms
            limits=httpx2.Limits(max_connections=None),
        )

    async def _send(self, client: httpx2.AsyncClient, content: bytes) -> httpx2.Response:
        received = bytearray()
        async with (
            asyncio.timeout(self._timeout_s),
            client.stream("POST", self._url, content=content) as reply,
        ):
            if (coding := reply.headers.get("content-encoding", "identity")) != "identity":
                raise httpx2.DecodingError(
                    f"expected a reply that is not compressed, found {coding:.80}"
                )
            async for chunk in reply.aiter_bytes():
                received += chunk
                if len(received) > LARGEST_REPLY:
                    raise httpx2.ReadError(f"no end of the reply after {LARGEST_REPLY} bytes")
        return httpx2.Response(reply.status_code, headers=reply.headers, content=bytes(received))

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


class _EventLoop:
    """The loop that carries the requests of all clients of a process, in a thread of its own.

    A request on it can be cancelled from any thread and at any byte; one that blocks a thread can
    not.
    """

    def __init__(self) -> None:
        self.forget()
        # A forked process has no thread but the one that forked.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Start a new loop when one is asked for."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def running(self) -> asyncio.AbstractEventLoop:
        """Return the loop, started now if it was not."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="endpoints", daemon=True
                ).start()
            return self._loop


_loop = _EventLoop()
