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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tyro

from benchmarks.environment import environment
from benchmarks.errors import BenchmarkError
from benchmarks.retrieval import measure

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
    """Time for each rate."""
    minutes: float = 15.0
    """Time after which no further figure is begun; the next run goes on from there."""
    out: Path = Path("benchmarks/results/retrieval_speed.json")
    """Where the figures go."""


class Figures:
    """Figures by corpus and name, written to a file after each; measured in processes of their own.

    Args:
        config: Where they go, and how long to go on.
    """

    def __init__(self, config: SpeedConfig) -> None:
        """Read what was measured before."""
        self._config, self._end = config, time.monotonic() + 60 * config.minutes
        self.by_corpus: dict[str, dict[str, Any]] = (
            json.loads(config.out.read_text(encoding="utf-8"))["corpora"]
            if config.out.exists()
            else {}
        )

    def take(self, corpus: str, name: str, figure: Callable[..., Any], *arguments: Any) -> bool:
        """Measure a figure unless it is known; say whether it is known now.

        Args:
            corpus: Name of the corpus.
            name: Name of the figure.
            figure: A function of `benchmarks.retrieval.measure`.
            *arguments: Its arguments, JSON-able.

        Returns:
            Whether it is known.

        Raises:
            BenchmarkError: If the measurement fails.
        """
        known = self.by_corpus.setdefault(corpus, {})
        if name in known:
            return True
        if time.monotonic() > self._end:
            _log.warning("%s, %s: left for the next run, the time is up", corpus, name)
            return False
        _log.info("%s, %s ...", corpus, name)
        load = os.getloadavg()[0]
        command = [sys.executable, measure.__file__, figure.__name__]
        # One thread each: what a core does; only Pyserini's batches are spread over all of them.
        done = subprocess.run(
            command,
            input=json.dumps(arguments),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )
        if done.returncode != 0:
            raise BenchmarkError(
                f"{corpus}, {name}: expected a figure, found exit code {done.returncode}; its "
                "process has said why"
            )
        known[name] = json.loads(done.stdout.splitlines()[-1])
        known[name]["load_before"] = round(load, 2)  # of the machine, by whatever else runs
        self._write()
        return True

    def _write(self) -> None:
        self._config.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "quick": self._config.quick,
            "batch": measure.BATCH,
            "k": measure.K,
            "corpora": self.by_corpus,
            "environment": environment(),
        }
        text = json.dumps(record, indent=2) + "\n"
        self._config.out.write_text(text, encoding="utf-8")


def measure_corpus(figures: Figures, config: SpeedConfig, corpus: str, size: int) -> None:
    """Measure every retriever on one corpus.

    Args:
        figures: Where the figures go.
        config: Folders and times.
        corpus: Name of the corpus.
        size: Its number of passages; 0 for the data pack.
    """
    work = config.work / corpus
    passages, asked = str(work / "passages"), measure.queries(size, config.data, 512)
    if not figures.take(corpus, "passages", measure.passages, passages, size, str(config.data)):
        return
    builds = {"bm25": ("bm25", "bm25s"), "bm25-lucene": ("bm25", "lucene")}
    if find_spec("pyserini"):
        builds["lucene"] = ("lucene", "lucene")
    for name, (kind, style) in builds.items():
        out = str(work / name)
        if figures.take(corpus, f"{name} build", measure.build, passages, out, kind, style):
            arguments = f"{kind}:{out}", asked, config.seconds
            figures.take(corpus, f"{name} search", measure.search, *arguments)
    if "bm25 build" in figures.by_corpus[corpus]:
        arguments = str(work / "bm25"), asked, config.seconds
        figures.take(corpus, "bm25 beside bm25s", measure.beside_bm25s, *arguments)
    if size <= LARGEST_IN_MEMORY:
        figures.take(corpus, "bm25s build", measure.build_bm25s, passages)


def measure_faiss(figures: Figures, config: SpeedConfig, corpus: str, size: int) -> None:
    """Measure FAISS's indexes on as many vectors as a corpus has passages.

    Args:
        figures: Where the figures go.
        config: Times.
        corpus: Name of the corpus.
        size: Number of vectors; 0 for as many as the data pack has passages.
    """
    for factory, parameters in FACTORIES.items():
        if factory.startswith("HNSW") and size > LARGEST_GRAPH:
            continue
        shape = size or 49_265, WIDTH, factory, parameters
        figures.take(corpus, f"faiss {factory}", measure.vectors, *shape, config.seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the figures.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    config = tyro.cli(SpeedConfig, prog="python -m benchmarks.retrieval.speed", args=arguments)
    corpora = CORPORA
    if config.quick:
        config, corpora = replace(config, seconds=0.5), {"miniwiki-20k": 20_000}
    figures = Figures(config)
    for corpus, size in corpora.items():
        measure_corpus(figures, config, corpus, size)
    if find_spec("faiss"):
        for corpus, size in corpora.items():
            measure_faiss(figures, config, corpus, size)
    sys.stdout.write(config.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
