"""A retriever that asks a server: ours or any other that speaks Search-R1's protocol."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import httpx2

from retrieval.errors import SearchArgumentError
from retrieval.http.errors import (
    IdentityUnknownError,
    IndexMismatchError,
    ReplyFormatError,
    RequestRefusedError,
)
from retrieval.http.messages import INDEX_HEADER, Identity, Limits, from_result
from retrieval.http.retrying_session import RetryingSession, SessionOptions, detail
from retrieval.protocol import Passage, require_k
from retrieval.text import to_unicode

_log = logging.getLogger(__name__)


class RemoteRetriever:
    """Searches through a server's `POST /retrieve`.

    Connections are kept and reused; the object may be shared by threads, pickled, and used on both
    sides of a fork.

    Args:
        url: Address of the server, such as `http://127.0.0.1:8000`; `/retrieve` may follow.
        timeout_s: Seconds for a whole search, retries and pauses included, > 0 and at most a
            million. Only looking up the server's name is not bounded by it.
        index_hash: Hash of the index that every reply must come from; None takes any.
        options: Fields of `SessionOptions`: `retries`, `token`, `seed`, ...

    Raises:
        SearchArgumentError: If an argument is out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60.0,
        index_hash: str | None = None,
        **options: Any,
    ) -> None:
        if not 0 < timeout_s <= 1e6:
            raise SearchArgumentError(
                f"expected timeout_s > 0 and at most 1e6 seconds, found {timeout_s}"
            )
        self.url = url.rstrip("/").removesuffix("/retrieve")
        self.timeout_s, self.index_hash = timeout_s, index_hash
        self._session = RetryingSession(self.url, SessionOptions(**options))
        self._limits: Limits | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: the copy opens connections of its own."""
        return self._like(), ()

    def _like(self, **changes: Any) -> partial[RemoteRetriever]:
        own = {"timeout_s": self.timeout_s, "index_hash": self.index_hash}
        return partial(type(self), self.url, **{**own, **vars(self._session.options), **changes})

    def __repr__(self) -> str:
        return f"RemoteRetriever({self.url!r})"

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank passages for each query, in as many requests as the server's limits ask for.

        Lone surrogates, which no request can hold, are sent as U+FFFD.

        Raises:
            SearchArgumentError: If `k` is below 1.
            ServerUnavailableError: If the server was not there, overloaded or failing throughout.
            ServerFailedError: If it failed at these queries; several are not tried again, since one
                of them may be the reason.
            RemoteDeadlineError: If it did not answer in time.
            RequestRefusedError: If it refuses the queries, `k` or the token.
            ReplyFormatError: If its reply is no answer to the request.
            IndexMismatchError: If it serves another index than expected.
        """
        require_k(k)
        deadline = self._session.options.clock() + self.timeout_s
        found: list[list[Passage]] = []
        clean = [to_unicode(query) for query in queries]
        for part in _parts(clean, self._bounds(deadline) if len(clean) > 1 else Limits()):
            body = {"queries": part, "topk": k, "return_scores": True}
            alone = len(queries) == 1
            reply = self._session.send("POST", "/retrieve", deadline, body, repeat_failed=alone)
            found += self._passages(reply, len(part), k)
        return found

    def identity(self) -> Identity:
        """Ask what the server serves, and check it against the expected index.

        Raises:
            IdentityUnknownError: If it has no `/health`, as Search-R1's own server.
            IndexMismatchError: If the index is another than expected.
            TemporaryRemoteError: If it is not ready or cannot be reached.
        """
        reply = self._session.send("GET", "/health", self._session.options.clock() + self.timeout_s)
        if reply.status_code == 404:
            raise IdentityUnknownError(
                f"expected GET {self.url}/health to name the index, found no such page: this looks "
                "like a plain Search-R1 server, which says neither whether it is ready nor which "
                "index it serves; serve the index with `at2po serve`, or do without the check"
            )
        self._refuse_other_status(reply, "/health")
        try:
            identity = _identity(reply.json())
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise IdentityUnknownError(
                f"expected {self.url}/health to name retriever, index_hash and documents, found "
                f"{detail(reply)} ({error!r}); serve the index with `at2po serve`"
            ) from None
        self._check_index(identity.index_hash)
        return identity

    def wait_until_ready(self, deadline_s: float = 600.0) -> Identity | None:
        """Wait until the server answers queries, and check its index.

        Args:
            deadline_s: Seconds to wait, > 0.

        Returns:
            What it serves; None for a server without `/health`, which is ready once it answers a
            query.

        Raises:
            TemporaryRemoteError: If it is not ready by then; the message says why.
            RemoteError: As `identity`, for what waiting does not resolve.
        """
        with closing(self._like(timeout_s=deadline_s, retries=2**31)()) as patient:
            try:
                return patient.identity()
            except IdentityUnknownError:
                if self.index_hash is not None:
                    raise
                _log.warning("%s has no /health: its index cannot be checked", self.url)
                patient.search(["warm up"], 1)
                return None

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._session.close()

    def _bounds(self, deadline: float) -> Limits:
        """The server's limits, asked for once; our defaults where it names none."""
        if self._limits is None:
            reply = self._session.send("GET", "/health", deadline)
            try:
                self._limits = Limits(**reply.json()["limits"])
            except (ValueError, TypeError, KeyError, RecursionError):
                self._limits = Limits()
        return self._limits

    def _passages(self, reply: httpx2.Response, queries: int, k: int) -> list[list[Passage]]:
        """Read the passages off a reply to so many queries."""
        self._refuse_other_status(reply, "/retrieve")
        self._check_index(reply.headers.get(INDEX_HEADER))
        try:
            lists = [_list(items) for items in _list(reply.json()["result"])]
            # Counted before they are read: there may be millions.
            if len(lists) != queries or any(len(items) > k for items in lists):
                raise ValueError(
                    f"expected {queries} lists of at most {k} passages, found {len(lists)} of "
                    f"{[len(items) for items in lists[:20]]}"
                )
            return [[from_result(item) for item in items] for items in lists]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ReplyFormatError(
                f'expected {self.url}/retrieve to send {{"result": [[item, ...], ...]}}, found '
                f"{detail(reply)} ({type(error).__name__}: {error}); fix: "
                f"`python -m retrieval.http.conformance {self.url}` shows what is wrong with it"
            ) from None

    def _refuse_other_status(self, reply: httpx2.Response, path: str) -> None:
        if reply.status_code != 200:
            raise RequestRefusedError(
                f"expected {self.url}{path} to take the request, found status {reply.status_code}: "
                f"{detail(reply)}"
            )

    def _check_index(self, found: str | None) -> None:
        if self.index_hash not in (None, found):
            raise IndexMismatchError(
                f"expected {self.url} to serve the index {self.index_hash}, found "
                f"{found or 'none named'}; fix: serve the right index, or expect this one"
            )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, found {value!r:.100}")
    return value


def _identity(fields: Any) -> Identity:
    kinds = {"retriever": str, "index_hash": str | None, "documents": int | None}
    for name, kind in kinds.items():
        if not isinstance(fields[name], kind):
            raise TypeError(f"expected another kind of {name}, found {fields[name]!r:.100}")
    return Identity(**{name: fields[name] for name in kinds})


def _parts(queries: Sequence[str], limits: Limits) -> Iterator[list[str]]:
    """Split queries so that each part keeps to the server's limits."""
    part: list[str] = []
    size, room = 0, limits.max_body_bytes - 100  # for the other fields
    for query in queries:
        length = len(json.dumps(query)) + 2
        if part and (size + length > room or len(part) == limits.max_queries):
            yield part
            part, size = [], 0
        part.append(query)
        size += length
    if part:
        yield part
