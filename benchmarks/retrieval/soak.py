"""A retrieval server beside slow, broken and hostile clients, as JSON.

`python -m benchmarks.retrieval.soak` serves BM25 over the data pack's corpus to 64 sound clients,
alone and then beside 56 others, and writes `benchmarks/results/retrieval_soak.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro

from benchmarks.environment import environment
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
from benchmarks.retrieval.rude_clients import be_rude
from retrieval import Passage, open_retriever


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """Measure what sound clients of a retrieval server notice of hostile ones."""

    retriever: str = field(default_factory=lambda: f"bm25:{data_path('corpus/passages.jsonl')}")
    """What is served, as `at2po serve` names it."""
    questions: Path = field(
        default_factory=lambda: Path(data_path("questions/hotpotqa/test.jsonl"))
    )
    """File of the questions that the sound clients ask, again and again."""
    clients: int = 64
    """Sound clients, each with a connection and one question at a time."""
    rude: int = 56
    """Other clients; fourteen kinds take turns."""
    seconds: float = 60.0
    """Length of the run beside the others; without them it is a quarter of that."""
    topk: int = 3
    """Passages per question."""
    out: Path = Path("benchmarks/results/retrieval_soak.json")
    """Where the figures go."""


def measure(config: SoakConfig) -> dict[str, Any]:
    """Serve, and ask with and without hostile clients.

    Args:
        config: What is served and who asks.

    Returns:
        JSON-able figures: latencies and kinds of replies of the sound clients in both runs,
        attempts of the others, lines of the log, memory and descriptors over time, metrics.

    Raises:
        EvaluationError: If a number is out of range, or there is no question.
    """
    if min(config.clients, config.rude, config.topk) < 1 or not config.seconds > 0:
        raise EvaluationError(
            "expected clients, rude, topk >= 1 and seconds > 0, found "
            f"{config.clients}, {config.rude}, {config.topk} and {config.seconds}"
        )
    questions = read_questions(config.questions)
    found = open_retriever(config.retriever).search(questions, config.topk)
    known = dict(zip(questions, found, strict=True))
    with (
        TemporaryDirectory() as folder,
        serving(config.retriever, log=Path(folder, "log")) as place,
    ):
        server = _Server(*place)
        alone = _run(server, known, config, config.seconds / 4)
        with _rude(server.port, config.rude) as counts:
            beside = _run(server, known, config, config.seconds)
        time.sleep(min(2.0, config.seconds))
        figures = {
            "clients": config.clients,
            "rude": config.rude,
            "seconds": config.seconds,
            "alone": alone,
            "beside": beside,
            "attempts": counts,
            "after": server.state(),
            "log_lines": len(Path(folder, "log").read_text(encoding="utf-8").splitlines()),
            "ended": server.ended(),
        }
    return figures | {"environment": environment()}


@dataclass(frozen=True)
class _Server:
    port: int
    pid: int

    def state(self) -> dict[str, float]:
        descriptors = len(list(Path(f"/proc/{self.pid}/fd").iterdir()))
        return {"resident_mib": resident_mib(self.pid), "descriptors": descriptors}

    def ended(self) -> dict[str, float]:
        """Connections that the server has ended, by why."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            lines = b"".join(iter(lambda: connection.recv(2**16), b"")).decode().splitlines()
        name = "at2po_retrieval_connections_ended_total"
        counts = [line.partition('reason="')[2] for line in lines if line.startswith(name)]
        return {each.partition('"')[0]: float(each.rpartition(" ")[2]) for each in counts}


def _run(
    server: _Server, known: dict[str, list[Passage]], config: SoakConfig, seconds: float
) -> dict[str, Any]:
    with connected(server.port, config.clients) as clients:
        replies, states = ask_for(seconds, clients, known, config.topk, server.state)
    return {
        **summarise(replies, seconds),
        "longest_ms": round(1000 * max(s for reply in replies for s in reply.seconds), 2),
        "fewest_per_client": min(len(reply.seconds) for reply in replies),
        "states": [{"second": second, **state} for second, state in states],
    }


@contextmanager
def _rude(port: int, clients: int) -> Iterator[dict[str, int]]:
    context = multiprocessing.get_context("spawn")
    begun, stop, queue = context.Event(), context.Event(), context.Queue()
    words = (port, clients, begun, stop, queue)
    process = context.Process(target=be_rude, args=words, daemon=True)
    process.start()
    begun.wait(120)
    counts: dict[str, int] = {}
    try:
        yield counts
    finally:
        stop.set()
        counts |= queue.get(timeout=60)
        process.join(60)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    config = tyro.cli(SoakConfig, prog="python -m benchmarks.retrieval.soak", args=arguments)
    figures = measure(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=2) + "\n"
    config.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
