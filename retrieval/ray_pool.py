"""A retriever that several processes of Ray hold, and all collectors of a run share."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from retrieval.errors import BackendUnavailableError, SearchArgumentError
from retrieval.passages import Passage, Retriever
from retrieval.remote_errors import RemoteDeadlineError, ServerUnavailableError

_MOST = 1024  # processes


class _Holder:
    """Holds the retriever in a process of its own."""

    def __init__(self, name: str, corpus: str | None) -> None:
        self._name, self._corpus = name, corpus
        self._retriever: Retriever | None = None

    def search(self, queries: list[str], k: int) -> list[list[Passage]]:
        if self._retriever is None:  # here, so that its errors are those of a search
            from retrieval.factory import open_retriever

            self._retriever = open_retriever(self._name, corpus=self._corpus)
        return self._retriever.search(queries, k)


class RayPool:
    """Searches with processes of Ray, which are started at the first search and found by name.

    Whoever asks for the same retriever on the same Ray cluster gets the same processes. They live
    until that cluster ends, and Ray starts one again that dies.

    Args:
        name: What each process opens, as for `open_retriever`.
        size: Number of processes, from 1 to 1024; queries are shared out among them.
        corpus: As for `open_retriever`.
        timeout_s: Longest wait for an answer, in seconds, > 0 and at most a million.

    Raises:
        SearchArgumentError: If a number is out of range.
        BackendUnavailableError: If Ray is not installed.
    """

    def __init__(
        self, name: str, size: int, *, corpus: str | Path | None = None, timeout_s: float = 600.0
    ) -> None:
        if not 1 <= size <= _MOST or not 0 < timeout_s <= 1e6:
            raise SearchArgumentError(
                f"expected 1 <= size <= {_MOST} and 0 < timeout_s <= 1e6, found {size} and "
                f"{timeout_s}"
            )
        if importlib.util.find_spec("ray") is None:
            raise BackendUnavailableError(
                f"expected the package ray for 'ray:{size}:{name}', found none; "
                "run: pip install 'at2po[ray]'"
            )
        self.name, self.size, self.timeout_s = name, size, timeout_s
        self.corpus = None if corpus is None else str(corpus)
        self._holders: list[Any] = []
        self._next = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings: the copy finds the processes by name."""
        return _pool, (self.name, self.size, self.corpus, self.timeout_s)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank passages for each query.

        Args:
            queries: The queries.
            k: Most passages of each, >= 1.

        Raises:
            SearchArgumentError: If ``k`` is below 1.
            ServerUnavailableError: If a process died while it searched.
            RemoteDeadlineError: If there was no answer in time.
            RetrievalError: What the retriever itself raises.
        """
        import ray

        if k < 1:
            raise SearchArgumentError(f"expected k >= 1, found {k}")
        parts = [list(queries[i :: self.size]) for i in range(min(self.size, len(queries)))]
        # Whoever searches for few queries at a time begins with another process each time.
        holders = self._found()[self._next :] + self._found()[: self._next]
        self._next = (self._next + len(parts)) % self.size
        asked = [
            holder.search.remote(part, k) for holder, part in zip(holders, parts, strict=False)
        ]
        try:
            answers = ray.get(asked, timeout=self.timeout_s)
        except ray.exceptions.GetTimeoutError as error:
            raise RemoteDeadlineError(
                f"expected an answer of {self.name} within {self.timeout_s:g} s, found none; add "
                "processes, or raise timeout_s"
            ) from error
        except ray.exceptions.RayActorError as error:
            raise ServerUnavailableError(
                f"expected {self.size} processes of {self.name}, found one dead; Ray starts it "
                "again"
            ) from error
        found: list[list[Passage]] = [[] for _ in queries]
        for i, answer in enumerate(answers):
            found[i :: self.size] = answer
        return found

    def wait_until_ready(self, deadline_s: float = 600.0) -> None:
        """Wait until every process answers.

        Args:
            deadline_s: Seconds to wait, > 0.

        Raises:
            ServerUnavailableError: If one does not by then.
        """
        import ray

        end = time.monotonic() + deadline_s
        while True:
            try:
                asked = [holder.search.remote(["warm up"], 1) for holder in self._found()]
                ray.get(asked, timeout=max(0.0, end - time.monotonic()))
                return
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                if time.monotonic() >= end:
                    raise ServerUnavailableError(
                        f"expected {self.size} processes of {self.name} to answer within "
                        f"{deadline_s:g} s, found one that does not; look into Ray's logs"
                    ) from error
                time.sleep(0.2)

    def _found(self) -> list[Any]:
        """Return the processes; whoever is first starts them."""
        import ray

        if not self._holders:
            key = sha256(f"{self.name}\n{self.corpus}".encode()).hexdigest()[:16]
            kind: Any = ray.remote(_Holder)
            self._holders = [
                kind.options(
                    name=f"at2po-retriever-{key}-{number}",
                    namespace="at2po",
                    get_if_exists=True,
                    lifetime="detached",
                    max_restarts=-1,
                ).remote(self.name, self.corpus)
                for number in range(self.size)
            ]
        return self._holders


def _pool(name: str, size: int, corpus: str | None, timeout_s: float) -> RayPool:
    return RayPool(name, size, corpus=corpus, timeout_s=timeout_s)
