"""Sound clients of a retrieval server that runs in a process of its own, and what they get."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.errors import EvaluationError
from retrieval import Passage, open_retriever
from retrieval.corpus.jsonl import read_objects
from retrieval.http.client import RemoteRetriever
from retrieval.http.errors import RemoteError
from retrieval.http.server.run import ServeOptions, serve

_NEAR = 1e-4  # difference of scores that a neural encoder shows between batches
_READY_S = 300.0  # longest wait for a server that opens its retriever

Sample = TypeVar("Sample")


@dataclass(slots=True)
class Replies:
    """What one client got.

    Attributes:
        seconds: Latency of each reply.
        kinds: Replies that are ``exact`` (equal to the in-process result), ``near`` (the same
            scores within 1e-4, where batches decide about the last digits), ``wrong`` (anything
            else: lost, mixed up, altered), or errors by their class.
    """

    seconds: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def data_path(path: str) -> str:
    """Place of a file in the data pack."""
    return str(Path(os.environ.get("AT2PO_DATA", "AT2PO_DATA-is-not-set")) / path)


def read_questions(file: Path) -> list[str]:
    """Read what the clients ask.

    Raises:
        EvaluationError: If there is no question, or something else.
    """
    expected = 'lines with a "question"'
    questions = [
        str(record["question"]) for _, record in read_objects(file, expected, EvaluationError)
    ]
    if not questions:
        raise EvaluationError(f"{file}: expected {expected}, found none")
    return questions


@contextmanager
def serving(name: str, log: Path | None = None, **options: Any) -> Iterator[tuple[int, int]]:
    """Run a server until it is ready, and on; yields its port and the number of its process.

    Args:
        name: What is served, as `at2po serve` names it.
        log: File of its log; None leaves it on standard error.
        options: Other fields of `ServeOptions`.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(ServeOptions(index=name, port=port, **options), log), daemon=True
    )
    process.start()
    try:
        with closing(RemoteRetriever(f"http://127.0.0.1:{port}")) as first:
            first.wait_until_ready(_READY_S)
        yield port, process.pid or 0
    finally:
        process.terminate()
        process.join(60)


def _serve(options: ServeOptions, log: Path | None) -> None:
    if log is not None:
        logging.basicConfig(filename=log, level=logging.INFO)
    serve(options, open_retriever)


@contextmanager
def connected(port: int, number: int) -> Iterator[list[RemoteRetriever]]:
    """Yield clients of the server at a port of this machine; each seeds its own pauses."""
    clients = [RemoteRetriever(f"http://127.0.0.1:{port}", seed=i) for i in range(number)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


def ask_for(
    seconds: float,
    clients: Sequence[RemoteRetriever],
    known: Mapping[str, list[Passage]],
    k: int,
    sample: Callable[[], Sample],
) -> tuple[list[Replies], list[tuple[float, Sample]]]:
    """Let every client ask without a pause in a thread of its own.

    Args:
        seconds: Until each asks no further question.
        clients: The clients.
        known: Questions, and what is found for them in process.
        k: Passages per question.
        sample: Called once a second.

    Returns:
        What each client got, and what `sample` returned, with the second.
    """
    replies, stop = [Replies() for _ in clients], threading.Event()
    threads = [
        threading.Thread(target=_ask, args=(client, i, known, k, stop, replies[i]))
        for i, client in enumerate(clients)
    ]
    samples, start = [], time.perf_counter()
    for thread in threads:
        thread.start()
    while (passed := time.perf_counter() - start) < seconds:
        samples.append((round(passed, 1), sample()))
        time.sleep(min(1.0, seconds - passed))
    stop.set()
    for thread in threads:
        thread.join()
    return replies, samples


def _ask(
    client: RemoteRetriever,
    number: int,
    known: Mapping[str, list[Passage]],
    k: int,
    stop: threading.Event,
    replies: Replies,
) -> None:
    """Ask one question after the other, in an order of this client's own."""
    questions = list(known)
    order = np.random.default_rng(number).permutation(len(questions))
    while True:
        for place in order:
            if stop.is_set():
                return
            question, start = questions[place], time.perf_counter()
            try:
                (found,) = client.search([question], k)
            except RemoteError as error:
                replies.kinds[type(error).__name__] += 1
                continue
            replies.seconds.append(time.perf_counter() - start)
            replies.kinds[compare(found, known[question])] += 1


def compare(found: Sequence[Passage], expected: Sequence[Passage]) -> str:
    """Say whether a reply is ``exact``, ``near`` or ``wrong``; see `Replies`."""
    if list(found) == list(expected):
        return "exact"
    pairs = list(zip(found, expected, strict=False))
    near = all(abs(a.score - b.score) <= _NEAR for a, b in pairs)
    return "near" if near and len(found) == len(expected) else "wrong"


def summarise(replies: Sequence[Replies], seconds: float) -> dict[str, Any]:
    """Return JSON-able figures of all clients together: throughput, latencies, kinds of replies.

    Args:
        replies: What each client got.
        seconds: Time that they took.

    Raises:
        EvaluationError: If there is no reply at all.
    """
    latencies = [each for reply in replies for each in reply.seconds]
    kinds = sum((reply.kinds for reply in replies), Counter[str]())
    if not latencies:
        raise EvaluationError(f"expected replies within {seconds:g} s, found only {dict(kinds)}")
    median, most = np.percentile(latencies, [50, 99])
    return {
        "queries_per_second": round(len(latencies) / seconds, 1),
        "p50_ms": round(1000 * median, 2),
        "p99_ms": round(1000 * most, 2),
        "replies": {"exact": 0, "near": 0, "wrong": 0, **kinds},
    }


def resident_mib(pid: int) -> float:
    """Memory that a process has, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
