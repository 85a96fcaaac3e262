"""A retrieval server under load: concurrent clients, with and without coalescing, as JSON.

`python -m benchmarks.retrieval.load` serves BM25 over the data pack's corpus to 64 clients and
writes `benchmarks/results/retrieval_load.json`; `--retrievers` names others.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.retrieval.clients import (
    ask_for,
    connected,
    data_path,
    read_questions,
    resident_mib,
    serving,
    summarise,
)
from retrieval import Passage, Retriever, open_retriever
from retrieval.http.messages import describe

_SERVER_LIBRARIES = ("fastapi", "httpx2", "starlette", "uvicorn")


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
    questions = read_questions(config.questions)
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
    name: str, known: dict[str, list[Passage]], max_batch: int, config: LoadConfig
) -> dict[str, Any]:
    with (
        serving(name, max_batch=max_batch) as (port, pid),
        connected(port, config.clients) as clients,
    ):
        for client in clients:
            client.search(["warm up"], 1)  # opens its connection
        before, own, started = _cpu_seconds(pid), _own_cpu_seconds(), time.perf_counter()
        replies, memory = ask_for(
            config.seconds, clients, known, config.topk, lambda: resident_mib(pid)
        )
        elapsed = time.perf_counter() - started
        memory.append((round(elapsed, 1), resident_mib(pid)))
        used, own = _cpu_seconds(pid) - before, _own_cpu_seconds() - own
        answered = sum(len(each.seconds) for each in replies)
        return {
            **summarise(replies, elapsed),
            "server_cpu_ms_per_query": round(1000 * used / answered, 3),
            "server_cpus": round(used / elapsed, 2),
            "clients_cpus": round(own / elapsed, 2),
            "server_resident_mib": memory,
        }


def _cpu_seconds(pid: int) -> float:
    """User and system time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


main = partial(run, "benchmarks.retrieval.load", LoadConfig, measure)


if __name__ == "__main__":
    main()
