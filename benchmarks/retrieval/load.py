"""A retrieval server under load: concurrent clients, with and without coalescing, as JSON.

`python -m benchmarks.retrieval.load` serves BM25 over the data pack's corpus to 64 clients and
writes `benchmarks/results/retrieval_load.json`; `--retrievers` names others.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import run
from benchmarks.errors import EvaluationError
from retrieval import Passage, Retriever, open_retriever
from retrieval.corpus.jsonl import read_objects
from retrieval.http.client import RemoteRetriever
from retrieval.http.errors import RemoteError
from retrieval.http.messages import describe
from retrieval.http.server.run import ServeOptions, serve

_SERVER_LIBRARIES = ("httpx2", "starlette", "uvicorn")
_NEAR = 1e-4  # difference of scores that a neural encoder shows between batches
_READY_S = 300.0  # longest wait for a server that opens its retriever


def _data(path: str) -> str:
    """Place of a file in the data pack."""
    return str(Path(os.environ.get("AT2PO_DATA", "AT2PO_DATA-is-not-set")) / path)


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Measure a retrieval server under many clients, with and without coalescing."""

    retrievers: tuple[str, ...] = field(
        default_factory=lambda: (f"bm25:{_data('corpus/passages.jsonl')}",)
    )
    """What is served, one after the other, as `at2po serve` names it."""
    questions: Path = field(default_factory=lambda: Path(_data("questions/hotpotqa/test.jsonl")))
    """File of the questions that the clients ask, again and again."""
    clients: int = 64
    """Clients, each with a connection and one question at a time."""
    seconds: float = 15.0
    """Length of a run."""
    rounds: int = 2
    """Runs with and without coalescing, in turn."""
    topk: int = 3
    """Passages per question."""
    max_batch: int = 64
    """Most queries of a batch in the runs with coalescing."""
    out: Path = Path("benchmarks/results/retrieval_load.json")
    """Where the figures go."""


def measure(config: LoadConfig) -> dict[str, Any]:
    """Serve each retriever and load the server.

    Args:
        config: What is served and how it is loaded.

    Returns:
        JSON-able figures by retriever, and the machine.

    Raises:
        EvaluationError: If a number is out of range, or there is no question or no reply.
    """
    numbers = (config.clients, config.rounds, config.topk, config.max_batch)
    if min(numbers) < 1 or not config.seconds > 0:
        raise EvaluationError(
            "expected clients, rounds, topk, max_batch >= 1 and seconds > 0, found "
            f"{numbers} and {config.seconds}"
        )
    expected = 'lines with a "question"'
    records = read_objects(config.questions, expected, EvaluationError)
    questions = [str(record["question"]) for _, record in records]
    if not questions:
        raise EvaluationError(f"{config.questions}: expected {expected}, found none")
    settings = asdict(config)
    del settings["retrievers"], settings["questions"], settings["out"]
    return {
        **settings,
        "questions": len(questions),
        "retrievers": [_measure(name, questions, config) for name in config.retrievers],
        "server_versions": {name: version(name) for name in _SERVER_LIBRARIES},
    }


def _measure(name: str, questions: Sequence[str], config: LoadConfig) -> dict[str, Any]:
    retriever = open_retriever(name)
    identity = describe(retriever)
    known = dict(zip(questions, retriever.search(questions, config.topk), strict=True))
    in_process = {
        f"batches of {size}": _in_process(retriever, questions, config.topk, size)
        for size in (1, config.max_batch)
    }
    del retriever  # the server has its own
    runs = [
        {"max_batch": max_batch, **_run(name, known, max_batch, config)}
        for _ in range(config.rounds)
        for max_batch in (1, config.max_batch)
    ]
    alone, together = (
        {
            what: statistics.median(run[what] for run in runs if run["max_batch"] == max_batch)
            for what in ("queries_per_second", "server_cpu_ms_per_query")
        }
        for max_batch in (1, config.max_batch)
    )
    return {
        **asdict(identity),
        "in_process_queries_per_second": in_process,
        "coalescing": {
            "throughput": round(together["queries_per_second"] / alone["queries_per_second"], 2),
            # Unlike throughput this hardly depends on who else uses the machine.
            "queries_per_cpu_second": round(
                alone["server_cpu_ms_per_query"] / together["server_cpu_ms_per_query"], 2
            ),
        },
        "runs": runs,
    }


def _in_process(retriever: Retriever, questions: Sequence[str], k: int, size: int) -> float:
    """Queries per second without a server."""
    start, asked = time.perf_counter(), 0
    while time.perf_counter() - start < 2.0:
        first = asked % len(questions)
        batch = questions[first : first + size]
        retriever.search(batch, k)
        asked += len(batch)
    return round(asked / (time.perf_counter() - start), 1)


def _run(
    name: str, known: Mapping[str, list[Passage]], max_batch: int, config: LoadConfig
) -> dict[str, Any]:
    """Let every client ask without a pause, in a thread of its own."""
    with _serving(name, max_batch) as (url, pid), ExitStack() as stack:
        clients = [  # each seeds its own pauses
            stack.enter_context(closing(RemoteRetriever(url, seed=i)))
            for i in range(config.clients)
        ]
        for client in clients:
            client.search(["warm up"], 1)  # opens its connection
        latencies: list[list[float]] = [[] for _ in clients]
        kinds: list[Counter[str]] = [Counter() for _ in clients]
        stop, memory = threading.Event(), []
        threads = [
            threading.Thread(target=_ask, args=(i, *each, known, config.topk, stop))
            for i, each in enumerate(zip(clients, latencies, kinds, strict=True))
        ]
        used, own, start = _cpu_seconds(pid), time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        while (passed := time.perf_counter() - start) < config.seconds:
            memory.append((round(passed, 1), _resident_mib(pid)))
            time.sleep(min(1.0, config.seconds - passed))
        stop.set()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        memory.append((round(elapsed, 1), _resident_mib(pid)))
        used, own = _cpu_seconds(pid) - used, time.process_time() - own
    replies, seconds = sum(kinds, Counter[str]()), np.concatenate(latencies)
    if not len(seconds):
        raise EvaluationError(f"expected replies within {elapsed:g} s, found only {dict(replies)}")
    median, most = np.percentile(seconds, [50, 99]).tolist()
    return {
        "queries_per_second": round(len(seconds) / elapsed, 1),
        "p50_ms": round(1000 * median, 2),
        "p99_ms": round(1000 * most, 2),
        "replies": {"exact": 0, "near": 0, "wrong": 0, **replies},
        "server_cpu_ms_per_query": round(1000 * used / len(seconds), 3),
        "server_cpus": round(used / elapsed, 2),
        "clients_cpus": round(own / elapsed, 2),
        "server_resident_mib": memory,
    }


@contextmanager
def _serving(name: str, max_batch: int) -> Iterator[tuple[str, int]]:
    """Run a server in a process of its own; yields its address and the process's number."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
    options = ServeOptions(index=name, port=port, max_batch=max_batch)
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(options, open_retriever), daemon=True
    )
    process.start()
    try:
        url = f"http://127.0.0.1:{port}"
        with closing(RemoteRetriever(url)) as first:
            first.wait_until_ready(_READY_S)
        yield url, process.pid or 0
    finally:
        process.terminate()
        process.join(60)


def _ask(
    number: int,
    client: RemoteRetriever,
    latencies: list[float],
    kinds: Counter[str],
    known: Mapping[str, list[Passage]],
    k: int,
    stop: threading.Event,
) -> None:
    """Ask one question after the other, in an order of this client's own."""
    questions = list(known)
    order = np.random.default_rng(number).permutation(len(questions)).tolist()
    while True:
        for place in order:
            if stop.is_set():
                return
            question, start = questions[place], time.perf_counter()
            try:
                (found,) = client.search([question], k)
            except RemoteError as error:
                kinds[type(error).__name__] += 1
                continue
            latencies.append(time.perf_counter() - start)
            kinds[compare(found, known[question])] += 1


def compare(found: Sequence[Passage], expected: Sequence[Passage]) -> str:
    """Compare a reply with what is found in process.

    Returns:
        `exact` (equal), `near` (the same scores within 1e-4, where batches decide about the last
        digits) or `wrong` (anything else: lost, mixed up, altered).
    """
    if list(found) == list(expected):
        return "exact"
    pairs = list(zip(found, expected, strict=False))
    near = all(abs(a.score - b.score) <= _NEAR for a, b in pairs)
    return "near" if near and len(found) == len(expected) else "wrong"


def _resident_mib(pid: int) -> float:
    """Memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def _cpu_seconds(pid: int) -> float:
    """User and system time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


main = partial(run, "benchmarks.retrieval.load", LoadConfig, measure)


if __name__ == "__main__":
    main()
