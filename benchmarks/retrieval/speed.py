"""Speed, size and memory of the retrievers, as JSON.

`python -m benchmarks.retrieval.speed` measures on the data pack's corpus and on MiniWikis of
100,000 and a million passages, each figure in a process of its own, and writes
`benchmarks/results/retrieval_speed.json` after each; what is there already is not measured again.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from benchmarks.environment import environment
from benchmarks.errors import BenchmarkError
from benchmarks.retrieval import measure
from retrieval.storage.files import write_whole

_log = logging.getLogger(__name__)

CORPORA = {"data-pack": 0, "miniwiki-100k": 100_000, "miniwiki-1m": 1_000_000}
WIDTH = 384  # of all-MiniLM-L6-v2
# FAISS's indexes and their search parameters.
FACTORIES = {"Flat": "", "SQ8": "", "HNSW32": "efSearch=64", "IVF256,PQ48": "nprobe=4"}
# A graph of a million vectors takes two cores a good part of an hour.
LARGEST_GRAPH = 100_000
# Bare bm25s builds from the tokens of the whole corpus in memory.
LARGEST_IN_MEMORY = 100_000


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Measure how fast the retrievers are and what they take."""

    data: Path = Path(os.environ.get("AT2PO_DATA", "data"))
    """Folder of the data pack."""
    work: Path = Path(tempfile.gettempdir()) / "at2po-retrieval"
    """Folder that keeps corpora and indexes; what was built before is used again."""
    quick: bool = False
    """Take a MiniWiki of 20,000 passages only, and half a second for each rate."""
    seconds: float = 5.0
    """Time for each rate, in seconds."""
    out: Path = Path("benchmarks/results/retrieval_speed.json")
    """Where the figures go."""


def plan(
    config: SpeedConfig, corpus: str, size: int
) -> Iterator[tuple[str, Callable[..., object], tuple[Any, ...]]]:
    """Say what is measured on a corpus, in an order in which each needs only earlier ones.

    Args:
        config: Folders and times.
        corpus: Name of the corpus.
        size: Its number of passages; 0 for the data pack.

    Yields:
        The name of a figure, a function of `benchmarks.retrieval.measure`, and its arguments.
    """
    work, seconds = config.work / corpus, config.seconds
    passages, asked = str(work / "passages"), measure.queries(size, config.data, 512)
    yield "passages", measure.passages, (passages, size, str(config.data))
    builds = {"bm25": ("bm25", "bm25s"), "bm25-lucene": ("bm25", "lucene")}
    if find_spec("pyserini"):
        builds["lucene"] = ("lucene", "lucene")
    for name, (kind, style) in builds.items():
        out = str(work / name)
        yield f"{name} build", measure.build, (passages, out, kind, style)
        yield f"{name} search", measure.search, (f"{kind}:{out}", asked, seconds)
    yield "bm25 beside bm25s", measure.beside_bm25s, (str(work / "bm25"), asked, seconds)
    if size <= LARGEST_IN_MEMORY:
        yield "bm25s build", measure.build_bm25s, (passages,)
    if find_spec("faiss"):  # as many vectors as the corpus has passages
        for factory, parameters in FACTORIES.items():
            if not factory.startswith("HNSW") or size <= LARGEST_GRAPH:
                shape = size or 49_265, WIDTH, factory, parameters
                yield f"faiss {factory}", measure.vectors, (*shape, seconds)


def take(figure: Callable[..., object], arguments: Sequence[Any]) -> dict[str, Any]:
    """Measure a figure in a process of its own.

    Args:
        figure: A function of `benchmarks.retrieval.measure`.
        arguments: Its arguments, JSON-able.

    Returns:
        What it returns, and the load of the machine before.

    Raises:
        BenchmarkError: If the measurement fails.
    """
    load = os.getloadavg()[0]
    # One thread each: what a core does; only Pyserini's batches are spread over all of them.
    done = subprocess.run(
        [sys.executable, measure.__file__, figure.__name__],
        input=json.dumps(arguments),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    if done.returncode != 0:
        raise BenchmarkError(
            f"expected {figure.__name__} to be measured, found exit code {done.returncode}; its "
            "process has said why"
        )
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": round(load, 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures, after each of them.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    config = tyro.cli(SpeedConfig, prog="python -m benchmarks.retrieval.speed", args=arguments)
    corpora = CORPORA
    if config.quick:
        config, corpora = replace(config, seconds=0.5), {"miniwiki-20k": 20_000}
    figures: dict[str, dict[str, Any]] = {}
    if config.out.exists():
        figures = json.loads(config.out.read_text(encoding="utf-8"))["corpora"]
    record = {"quick": config.quick, "batch": measure.BATCH, "k": measure.K, "corpora": figures}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    for corpus, size in corpora.items():
        known = figures.setdefault(corpus, {})
        for name, figure, given in plan(config, corpus, size):
            if name not in known:
                _log.info("%s, %s ...", corpus, name)
                known[name] = take(figure, given)
                content = {**record, "environment": environment()}
                write_whole(config.out, json.dumps(content, indent=2) + "\n")
    sys.stdout.write(config.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
