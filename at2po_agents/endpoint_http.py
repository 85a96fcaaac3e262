"""One request to an endpoint, tried again as long as that may help: the lower half of its agent."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from at2po_agents.agents import Reply
from at2po_agents.errors import AgentUnusableError, EndpointError
from at2po_agents.rate_limit import RateLimiter

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0  # longest wait for a connection
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0  # between attempts; doubles from one to the other
_PATIENCE_S = 600.0  # a Retry-After beyond this is a refusal
_TRY_AGAIN = (408, 409, 429)  # and every 5xx
_UNUSABLE = (401, 402, 403, 404)  # no other request will fare better
_FULL = ("context_length_exceeded", "maximum context length")  # OpenAI's code; vLLM's words
_SPENT = "insufficient_quota"  # OpenAI's code, sent with 429
_CHARACTERS = 4  # of a token, about, until the endpoint tells


class ContextFullError(EndpointError):
    """The conversation is longer than the model can read."""


class Connection:
    """Sends requests to one address, from any number of threads.

    Args:
        url: The address.
        key: Bearer token; empty sends none.
        retries: Attempts after the first one, >= 0.
        timeout_s: Seconds that an attempt may take, > 0.
        limiter: Lets requests through.
        transport: Replaces the network (httpx2).
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds.

    Raises:
        AgentUnusableError: If the package httpx2 is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str,
        retries: int,
        timeout_s: float,
        limiter: RateLimiter,
        transport: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import httpx2
        except ImportError:
            raise AgentUnusableError(
                "expected the package httpx2 to reach an endpoint, found none; "
                "run: pip install 'at2po[server]'"
            ) from None
        self._transport_error = httpx2.TransportError
        self._url, self._key, self._retries, self._timeout_s = url, key, retries, timeout_s
        self._limiter, self._clock, self._sleep = limiter, clock, sleep
        self._jitter, self._lock = np.random.default_rng(0), threading.Lock()
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
            transport=transport,
            # A proxy may lead to the outside, never to this machine itself.
            trust_env=urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost"),
            limits=httpx2.Limits(max_connections=None),
        )

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
        content = json.dumps(body).encode("ascii")
        guess = len(content) // _CHARACTERS + int(body.get("max_tokens", 0))
        for attempt in itertools.count():
            slot = self._limiter.wait(guess)
            outcome = self._attempt(content, read)
            if isinstance(outcome, Reply):
                slot.tokens = outcome.prompt_tokens + outcome.tokens or guess
                return outcome
            problem, asked_s = self._hidden(outcome[0]), outcome[1]
            if attempt >= self._retries or asked_s > _PATIENCE_S:
                raise EndpointError(
                    f"expected a turn from {self._url} in {attempt + 1} attempts, found at last "
                    f"{problem}; look at the endpoint, and try the failed episodes again"
                )
            self._pause(attempt, asked_s, problem)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, content: bytes, read: Callable[[Any], Reply]) -> Reply | tuple[str, float]:
        """Try once; a trouble that may pass comes back with the pause that was asked for."""
        try:
            status, headers, text = self._send(content)
        except self._transport_error as error:
            return f"{type(error).__name__}: {error}", 0.0
        if status != 200:
            return self._refused(status, text), _asked(headers.get("retry-after", ""))
        try:
            return read(json.loads(text))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            return f"expected a chat completion, found {text[:300]!r}", 0.0

    def _send(self, content: bytes) -> tuple[int, Mapping[str, str], str]:
        """Send a request once, and read its reply as long as the time allows."""
        deadline = self._clock() + self._timeout_s
        received = bytearray()
        headers = {"Content-Type": "application/json"}
        with self._client.stream("POST", self._url, content=content, headers=headers) as reply:
            for chunk in reply.iter_bytes():
                received += chunk
                if self._clock() > deadline:  # every chunk begins httpx2's timeout anew
                    raise self._transport_error(f"no whole reply within {self._timeout_s} s")
            return reply.status_code, reply.headers, received.decode("utf-8", "replace")

    def _refused(self, status: int, text: str) -> str:
        """Return a refusal that may pass; raise the others."""
        problem = self._hidden(f"status {status}: {text[:500]}")
        if status in _UNUSABLE or _SPENT in text:
            raise AgentUnusableError(
                f"expected {self._url} to take requests, found {problem}; check the address, the "
                "model's name, and the key in the environment"
            )
        if any(words in text for words in _FULL):
            raise ContextFullError(problem)
        if status < 500 and status not in _TRY_AGAIN:
            raise EndpointError(f"expected {self._url} to take the request, found {problem}")
        return problem

    def _pause(self, attempt: int, asked_s: float, problem: str) -> None:
        with self._lock:
            jitter = float(self._jitter.uniform(0.5, 1.5))
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(attempt, 16), _LONGEST_PAUSE_S)
        wait_s = asked_s + jitter * pause_s
        _log.debug("%s; trying again in %.1f s", problem, wait_s)
        self._sleep(wait_s)

    def _hidden(self, text: str) -> str:
        """Take the key out of what a server may have repeated."""
        return text.replace(self._key, "<key>") if self._key else text


def _asked(header: str) -> float:
    """Seconds that a Retry-After asks for: a number, or a date."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
