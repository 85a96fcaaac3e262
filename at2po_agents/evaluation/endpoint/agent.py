"""An OpenAI-compatible endpoint as an agent: concurrent, retried, within limits, accounted for."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from at2po_agents.errors import AgentUnusableError, ConfigError, EndpointError
from at2po_agents.evaluation.endpoint.chat import request_messages
from at2po_agents.evaluation.endpoint.rate_limit import RateLimiter
from at2po_agents.evaluation.endpoint.reply import ContextFullError, read_completion
from at2po_agents.rollout.agents import Reply, Transcript
from at2po_agents.settings import (
    Count,
    CountOrZero,
    Options,
    Range,
    Seconds,
    Settings,
    check_url,
)
from at2po_envs.dialects.messages import tools_of
from at2po_envs.seeds import stable_hash
from retrieval.extras import require

if TYPE_CHECKING:
    import httpx2

_Price = Annotated[float, Range(0, 1e9)]
_OWN_FIELDS = frozenset("messages model stop stream n tools temperature max_tokens".split())
"""Fields of a request that decide how its reply is read, or have settings of their own."""


@dataclass(frozen=True, kw_only=True)
class EndpointOptions(Settings):
    """How an endpoint is reached, what it may be asked for, and what it charges.

    Raises:
        ConfigError: If a number is out of range, or the address holds a secret.
    """

    url: str = ""
    """Address that `/chat/completions` is put behind, such as `http://127.0.0.1:8000/v1`."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; none is sent where it is unset."""
    max_tokens: Count = 1024
    """Most tokens of a turn."""
    body: Options = field(default_factory=dict)
    """Further fields of every request, such as `top_p=0.9`; they go on record."""
    concurrency: Count = 8
    """Most requests at a time."""
    retries: CountOrZero = 6
    """Attempts after the first one, after overload, server errors, timeouts and odd replies."""
    timeout_s: Seconds = 120.0
    """Seconds that one attempt may take."""
    requests_per_minute: CountOrZero = 0
    """Most requests in 60 seconds; 0 for no limit."""
    tokens_per_minute: CountOrZero = 0
    """Most tokens in 60 seconds, read and sampled; 0 for no limit."""
    prompt_price: _Price = 0.0
    """US dollars for a million tokens read."""
    completion_price: _Price = 0.0
    """US dollars for a million tokens sampled."""

    def __post_init__(self) -> None:
        """Check address and body, too, now rather than after the first request."""
        super().__post_init__()
        if self.url:
            _check_address(self.url)
        if taken := _OWN_FIELDS.intersection(self.body):
            raise ConfigError(
                f"body: expected further fields, found {min(taken)}, which the agent sets itself; "
                "leave it out, or use the setting of that name"
            )
        for name, value in self.body.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                raise ConfigError(
                    f"body: expected finite numbers, found {name} = {value}"
                ) from None


def _check_address(url: str) -> None:
    check_url("url", url)
    parts = urlsplit(url)
    if not url.isprintable() or " " in url or parts.fragment:
        raise ConfigError(f"url: expected http://HOST:PORT/PATH, found {url!r}")
    if "@" in parts.netloc or parts.query:
        raise ConfigError(
            "url: expected an address alone, as it goes on record, found a user or a query in "
            "it; put the key into the environment variable that key_variable names"
        )


class EndpointAgent:
    """A model behind `/chat/completions`, asked for one turn of many episodes at a time.

    The key is read from the environment, sent, and kept out of records, messages and logs.

    Args:
        options: How it is reached.
        model: Its name there.
        stop: Strings that end a turn: the `stop` of the environment's dialect. Most endpoints take
            up to four.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed of the sampling, sent where the temperature is above 0.
        transport: Replaces the network, for tests (httpx2).
        clock: Seconds, monotonic.
        sleep: Waits for so many seconds; by default until `act` is interrupted, too.

    Raises:
        ConfigError: If there is no address, or the key is none that can be sent.
        AgentUnusableError: If the package httpx2 is missing.
    """

    name = "react"

    def __init__(
        self,
        options: EndpointOptions,
        model: str,
        *,
        stop: tuple[str, ...],
        temperature: float = 0.0,
        seed: int = 0,
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if not options.url:
            raise ConfigError("url: expected the endpoint's address, found none; name one")
        self.options, self.model, self.stop = options, model, stop
        self.temperature, self.seed = temperature, seed
        self._stopped = threading.Event()
        sleep = sleep or self._stopped.wait
        require("httpx2", "endpoint", AgentUnusableError)
        from at2po_agents.evaluation.endpoint.http import EndpointClient

        self._client = EndpointClient(
            options.url.rstrip("/") + "/chat/completions",
            key=_key(options.key_variable),
            retries=options.retries,
            timeout_s=options.timeout_s,
            limiter=RateLimiter(
                options.requests_per_minute, options.tokens_per_minute, clock=clock, sleep=sleep
            ),
            stopped=self._stopped,
            transport=transport,
            sleep=sleep,
        )

    @property
    def settings(self) -> dict[str, object]:
        """All that decides about its turns and their cost; never the key."""
        kept = ("url", "max_tokens", "body", "prompt_price", "completion_price")
        return {
            "model": self.model,
            "decoding": "sampling" if self.temperature else "greedy",
            "temperature": self.temperature,
            "stop": list(self.stop),
            **{name: vars(self.options)[name] for name in kept},
        }

    def act(self, transcripts: Sequence[Transcript]) -> list[Reply]:
        """Ask for the next turn of every episode.

        Args:
            transcripts: One an episode.

        Returns:
            One reply an episode: cut off where the endpoint ran out of tokens or context, with an
            error where it refused the request or gave none in all attempts.

        Raises:
            AgentUnusableError: If it refuses the key, or knows no such model or page.
        """
        self._stopped.clear()
        pool = ThreadPoolExecutor(self.options.concurrency)
        try:
            waiting = [pool.submit(self._reply, transcript) for transcript in transcripts]
            return [each.result() for each in waiting]
        except BaseException:
            # No use in asking on, or the user interrupts: the other requests are cancelled.
            self._stopped.set()
            self._client.abort()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _reply(self, transcript: Transcript) -> Reply:
        try:
            return self._client.post(self._body(transcript), self._read, self.options.max_tokens)
        except ContextFullError:
            return Reply("", truncated=True)
        except EndpointError as error:
            return Reply("", error=f"{type(error).__name__}: {error}")

    def _body(self, transcript: Transcript) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "messages": request_messages(transcript),
            "temperature": self.temperature,
            "max_tokens": self.options.max_tokens,
        }
        if self.stop:
            body["stop"] = list(self.stop)
        if tools := tools_of(transcript[0]):
            body["tools"] = list(tools)
        if self.temperature:
            body["seed"] = stable_hash(self.seed, *transcript) % 2**31
        return body | self.options.body

    def _read(self, reply: object) -> Reply:
        """Read a completion; whatever is not as it should be raises."""
        turn = read_completion(reply, self.stop)
        read, sampled = self.options.prompt_price, self.options.completion_price
        return replace(turn, cost=(turn.prompt_tokens * read + turn.tokens * sampled) / 1e6)


def _key(variable: str) -> str:
    """The key in an environment variable, without the line end that a file of it has."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"{variable}: expected a key of ASCII characters without spaces, found others; "
            "set the variable again"
        )
    return key
