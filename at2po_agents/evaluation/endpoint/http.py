"""One request to an endpoint, tried again as long as that may help: the lower half of its agent."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np

from at2po_agents.errors import AgentUnusableError, ConfigError, EndpointError
from at2po_agents.evaluation.endpoint.connection import Line
from at2po_agents.evaluation.endpoint.rate_limit import RateLimiter
from at2po_agents.evaluation.endpoint.reply import error_of, says_context_is_full
from at2po_agents.evaluation.policy_agent import Reply
from at2po_agents.extras import require
from retrieval.text import to_unicode

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0  # longest wait for a connection
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0  # between attempts; doubles from one to the other
_PATIENCE_S = 600.0  # a Retry-After beyond this is a refusal
_TRY_AGAIN = (408, 409, 429)  # and every 5xx
_UNUSABLE = (401, 402, 403, 404, 405, 407, 410)  # as redirects: no other request fares better
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
        stopped: Set where nobody waits for replies any more.
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
        self._url, self._key, self._retries, self._timeout_s = url, key, retries, timeout_s
        self._limiter, self._stopped, self._sleep = limiter, stopped, sleep
        self._jitter, self._lock = np.random.default_rng(0), threading.Lock()
        # A proxy may lead to the outside, never to this machine itself.
        self._trust_env = host not in ("127.0.0.1", "::1", "localhost")
        # Reading certificates takes some 20 ms: once for all lines.
        self._verify = httpx2.create_ssl_context() if url.startswith("https:") else False
        self._idle: list[Line] = []
        self._busy: set[Line] = set()

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

    def cut(self) -> None:
        """End all requests that are under way."""
        with self._lock:
            busy = list(self._busy)
        for line in busy:
            line.cut("nobody waits for the reply any more")

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.client.close()

    def _attempt(self, content: bytes, read: Callable[[Any], Reply]) -> Reply | tuple[str, float]:
        """Try once; a trouble that may pass comes back with the pause that was asked for."""
        try:
            with self._line() as line:
                status, headers, text = line.post(self._url, content, self._timeout_s)
        except self._http.RequestError as error:
            return f"{type(error).__name__}: {error}", 0.0
        asked_s = _asked(headers.get("retry-after", ""))
        if not 200 <= status < 300:
            return self._refused(status, text), asked_s
        try:
            reply = json.loads(text)
            if error_of_gateway := error_of(reply):
                return self._refused(*error_of_gateway), asked_s
            return read(reply)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            found = self._hidden(text)[:300]
            return f"expected a chat completion, found {found!r} ({error})"[:500], 0.0

    @contextmanager
    def _line(self) -> Iterator[Line]:
        """Lend a line of its own to a thread."""
        with self._lock:
            if self._stopped.is_set():
                raise AgentUnusableError("nobody waits for a reply any more")
            line = self._idle.pop() if self._idle else self._new_line()
            self._busy.add(line)
        try:
            yield line
        finally:
            with self._lock:
                self._busy.discard(line)
                if line.usable:
                    self._idle.append(line)
            if not line.usable:
                line.client.close()

    def _new_line(self) -> Line:
        client = self._http.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=self._http.Timeout(self._timeout_s, connect=min(self._timeout_s, _CONNECT_S)),
            transport=self._transport,
            trust_env=self._trust_env,
            verify=self._verify,
            limits=self._http.Limits(max_connections=1),
        )
        return Line(client, self._http.TransportError)

    def _refused(self, status: int, text: str) -> str:
        """Return a refusal that may pass; raise the others."""
        # Hidden before it is cut, which might leave a part of the key.
        problem = f"status {status}: {self._hidden(text)[:500]}"
        spent = status == 429 and _SPENT in text
        if status in _UNUSABLE or status < 400 or spent:
            raise AgentUnusableError(
                f"expected {self._url} to take requests, found {problem}; check the address, the "
                "model's name, and the key in the environment"
            )
        if status != 429 and says_context_is_full(text):
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
        return max(0.0, float(header))  # NaN is no wait
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):  # no date, or none that there is
        return 0.0
