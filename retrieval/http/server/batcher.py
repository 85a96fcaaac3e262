"""Requests that arrive while the retriever works wait together and become its next batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retrieval.errors import RetrievalError
from retrieval.http.messages import Identity, describe
from retrieval.http.server.refusals import AGAIN, RefusedError
from retrieval.protocol import Passage, Retriever

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    queries: Sequence[str]
    k: int
    future: asyncio.Future[list[list[Passage]]]


class Batcher:
    """One worker thread that calls the retriever; requests queue up while it works.

    An idle worker starts at once, so a lone request waits for nothing. Requests are answered in the
    order of their arrival, except that those which ask for the same `k` as the first one join its
    batch: an approximate or a fused ranking for a larger `k` need not begin like the one for a
    smaller `k`, so requests with another `k` go separately.

    Args:
        open_retriever: Called in the worker thread; gives the retriever.
        max_batch: Most queries of a batch that is made of several requests, >= 1.
        max_waiting: Most queries that wait, >= 1.
        on_batch: Called in the worker thread with the number of queries and the seconds of each
            search.
        on_failure: Called in the worker thread if the retriever could not be opened.

    Attributes:
        retriever: The retriever, once it has answered for the first time.
        identity: What it is, from then on.
        failure: Why it could not be opened.
    """

    def __init__(
        self,
        open_retriever: Callable[[], Retriever],
        *,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int, float], object] = lambda queries, seconds: None,
        on_failure: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self.max_batch, self.max_waiting = max_batch, max_waiting
        self.retriever: Retriever | None = None
        self.identity = Identity(retriever="loading")
        self.failure: BaseException | None = None
        self._open, self._on_batch = open_retriever, on_batch
        self._on_failure = on_failure
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="retriever", daemon=True)

    @property
    def waiting(self) -> int:
        """Number of queries in the queue."""
        with self._changed:
            return sum(len(job.queries) for job in self._jobs)

    @property
    def busy_s(self) -> float:
        """Seconds that the search under way has taken so far; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def start(self) -> None:
        """Start the worker; call it from the event loop that will call `search`."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, timeout_s: float) -> None:
        """Let the worker finish what was accepted and end, or leave it behind at the timeout."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, timeout_s)

    async def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Wait for a place in a batch and for its result.

        Cancelling the wait takes the request out of the queue.

        Raises:
            RefusedError: If there is no retriever to ask any more, too many queries wait, or the
                retriever failed on just these queries.
        """
        job = _Job(queries, k, self._loop.create_future())
        with self._changed:
            if self._stopping:
                raise RefusedError(503, "not_ready", "the server is being stopped", AGAIN)
            waiting = self.waiting
            if self._jobs and waiting + len(queries) > self.max_waiting:
                detail = (
                    f"expected at most {self.max_waiting} waiting queries, found {waiting} and "
                    f"{len(queries)} new ones; try again later"
                )
                raise RefusedError(503, "overloaded", detail, AGAIN)
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await job.future
        except asyncio.CancelledError:
            with self._changed, contextlib.suppress(ValueError):
                self._jobs.remove(job)  # unless the worker has taken it
            raise

    def _work(self) -> None:
        try:
            retriever = self._open()
            retriever.search(["warm up"], 1)  # loads what is loaded late
            self.identity = describe(retriever)  # hashes the corpus of an index without a file
        except BaseException as error:  # not all is an Exception: a panic of Rust code, an exit
            known = isinstance(error, RetrievalError | OSError)  # whose message says it all
            _log.error("the retriever could not be opened: %s", error, exc_info=not known)
            self.failure = error
            self._on_failure(error)
            return
        self.retriever = retriever
        while jobs := self._take():
            self._answer(retriever, jobs)

    def _take(self) -> list[_Job]:
        """Wait for the first request and take those that can share its batch; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopping)
            batch: list[_Job] = []
            others: deque[_Job] = deque()
            size = 0
            for job in self._jobs:
                fits = job.k == self._jobs[0].k and size + len(job.queries) <= self.max_batch
                if not batch or fits:
                    batch.append(job)
                    size += len(job.queries)
                else:
                    others.append(job)
            self._jobs = others
            return batch

    def _answer(self, retriever: Retriever, jobs: Sequence[_Job]) -> None:
        queries = [query for job in jobs for query in job.queries]
        try:
            found = self._search(retriever, queries, jobs[0].k)
        except BaseException as error:  # without this thread no request would be answered
            if len(jobs) > 1:  # one request's queries must not spoil the others' answers
                for job in jobs:
                    self._answer(retriever, [job])
                return
            _log.exception("the retriever failed on %d queries", len(queries))
            # What the error says is for the log: it may name files of this machine.
            text = "expected an answer of the retriever, found an error; the server's log says it"
            refused = RefusedError(500, "retriever_failed", text)
            self._deliver([(jobs[0], error if isinstance(error, RefusedError) else refused)])
            return
        rest = iter(found)
        self._deliver([(job, [next(rest) for _ in job.queries]) for job in jobs])

    def _search(self, retriever: Retriever, queries: Sequence[str], k: int) -> list[list[Passage]]:
        start = self._busy_since = time.monotonic()
        try:
            found = retriever.search(queries, k)
        finally:
            self._busy_since = None
            self._on_batch(len(queries), time.monotonic() - start)
        if len(found) != len(queries):
            detail = f"expected one list for each of {len(queries)} queries, found {len(found)}"
            raise RefusedError(500, "retriever_failed", detail)
        return found

    def _deliver(self, answers: Sequence[tuple[_Job, list[list[Passage]] | Exception]]) -> None:
        def deliver() -> None:
            for job, answer in answers:
                if job.future.done():
                    continue  # its client has gone
                if isinstance(answer, Exception):
                    job.future.set_exception(answer)
                else:
                    job.future.set_result(answer)

        with contextlib.suppress(RuntimeError):  # a loop that was closed at the stop's timeout
            self._loop.call_soon_threadsafe(deliver)
