"""A retrieval server under load: concurrent clients, with and without coalescing, as JSON.

`python -m benchmarks.retrieval_load` serves BM25 over the data pack's corpus to 64 clients and
writes `benchmarks/results/retrieval_load.json`; `--retrievers` names others.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.environment import environment
from benchmarks.errors import EvaluationError
from retrieval import Passage, Retriever, open_retriever
from retrieval.client import RemoteRetriever
from retrieval.jsonl import read_objects
from retrieval.remote_errors import RemoteError
from retrieval.server_protocol import describe
from retrieval.server_run import ServeOptions, serve

_NEAR = 1e-4  # difference of scores that a neural encoder shows between batches
_SERVER_LIBRARIES = ("fastapi", "httpx2", "starlette", "uvicorn")


def data_path(path: str) -> str:
    """Place of a file in the data pack."""
    return str(Path(os.environ.get("AT2PO_DATA", "AT2PO_DATA-is-not-set")) / path)


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Measure a retrieval server under many clients, with and without coalescing."""

    retrievers: tuple[str, ...] = field(
        default_factory=lambda: (f"bm25:{data_path('corpus/passages.jsonl')}",)
    )
    """What is served, one after the other, as `at2po serve` names it."""
    questions: Path = field(
        default_factory=lambda: Path(data_path("questions/hotpotqa/test.jsonl"))
    )
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
        "environment": environment(),
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
    name: str, known: dict[str, list[Passage]], max_batch: int, config: LoadConfig
) -> dict[str, Any]:
    with _serving(name, max_batch) as (port, process):
        clients = [
            RemoteRetriever(f"http://127.0.0.1:{port}", seed=i) for i in range(config.clients)
        ]
        clients[0].wait_until_ready(300)
        for client in clients:
            client.search(["warm up"], 1)  # opens its connection
        replies = [Replies() for _ in clients]
        stop = threading.Event()
        threads = [
            threading.Thread(target=ask, args=(client, i, known, config.topk, stop, replies[i]))
            for i, client in enumerate(clients)
        ]
        before, started = _cpu_seconds(process.pid), time.perf_counter()
        own = _own_cpu_seconds()
        for thread in threads:
            thread.start()
        memory = []
        while (passed := time.perf_counter() - started) < config.seconds:
            memory.append((round(passed, 1), resident_mib(process.pid)))
            time.sleep(min(1.0, config.seconds - passed))
        stop.set()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
        memory.append((round(elapsed, 1), resident_mib(process.pid)))
        used, own = _cpu_seconds(process.pid) - before, _own_cpu_seconds() - own
        figures = {
            **_figures(replies, elapsed, used),
            "server_cpus": round(used / elapsed, 2),
            "clients_cpus": round(own / elapsed, 2),
            "server_resident_mib": memory,
        }
        for client in clients:
            client.close()
        return figures


def ask(
    client: RemoteRetriever,
    number: int,
    known: dict[str, list[Passage]],
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


def _figures(replies: Sequence[Replies], elapsed: float, used: float) -> dict[str, Any]:
    seconds = [each for reply in replies for each in reply.seconds]
    kinds = sum((reply.kinds for reply in replies), Counter[str]())
    if not seconds:
        raise EvaluationError(f"expected replies within {elapsed:.0f} s, found only {dict(kinds)}")
    median, most = np.percentile(seconds, [50, 99])
    return {
        "queries_per_second": round(len(seconds) / elapsed, 1),
        "p50_ms": round(1000 * median, 2),
        "p99_ms": round(1000 * most, 2),
        "server_cpu_ms_per_query": round(1000 * used / len(seconds), 3),
        "replies": {"exact": 0, "near": 0, "wrong": 0, **kinds},
    }


@contextmanager
def _serving(name: str, max_batch: int) -> Iterator[tuple[int, Any]]:
    """Run a server in a process of its own; yields its port and process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
    options = ServeOptions(index=name, port=port, max_batch=max_batch)
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(options, open_retriever), daemon=True
    )
    process.start()
    try:
        yield port, process
    finally:
        process.terminate()
        process.join(60)


def _cpu_seconds(pid: int) -> float:
    """User and system time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mib(pid: int) -> float:
    """Memory that a process has, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    config = tyro.cli(LoadConfig, prog="python -m benchmarks.retrieval_load", args=arguments)
    figures = measure(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2) + "\n"
    config.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
