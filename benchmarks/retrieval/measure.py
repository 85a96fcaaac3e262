"""What `benchmarks.retrieval.speed` measures.

Each function runs in a process of its own, which executes this file as a script, so that nothing
but the retriever is in its memory: not the package `benchmarks`, and with it torch.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retrieval import IndexBuild, StoredPassages, build_index, open_retriever, store_passages
from retrieval.bm25.scoring import Style
from retrieval.storage.manifest import read_manifest

BATCH = 64
K = 3
Search = Callable[[Sequence[str]], object]


def passages(folder: str, size: int, data: str) -> dict[str, Any]:
    """Store a corpus: the data pack's for size 0, else a MiniWiki's."""
    from at2po_envs.miniwiki import MiniWiki

    start = time.perf_counter()
    if size:
        store_passages(MiniWiki(passages=size).corpus, folder)
    else:
        corpus = f"{data}/corpus/passages.jsonl"
        build_index(IndexBuild(corpus=corpus, out=Path(folder), kind="passages"))
    manifest = read_manifest(folder)
    return {
        "passages": manifest.documents,
        "bytes": manifest.bytes,
        "bytes_of_text": sum(e["bytes"] for n, e in manifest.files.items() if n == "text.bin"),
        "seconds_with_generation": round(time.perf_counter() - start, 2),
    }


def queries(size: int, data: Path, number: int) -> list[str]:
    """Questions that the corpus answers, spread over the sets of the data pack."""
    from at2po_envs.miniwiki import MiniWiki
    from at2po_envs.question_sets.questions import load_questions

    if size:
        wiki = MiniWiki(passages=size, questions=number)
        return [question.question for question in wiki.question_list]
    files = sorted((data / "questions").glob("*/test.jsonl"))
    asked = [q.question for file in files for q in load_questions(file.parent.name, "test", file)]
    order = np.random.default_rng(0).permutation(len(asked))[:number]
    return [asked[i] for i in order.tolist()]


def build(corpus: str, out: str, kind: Literal["bm25", "lucene"], style: Style) -> dict[str, Any]:
    """Build an index."""
    info = build_index(IndexBuild(corpus=corpus, out=Path(out), kind=kind, style=style))
    return {
        "build_seconds": info["facts"]["build_seconds"],
        "build_peak_mib": _memory("VmHWM"),
        "index_bytes": info["bytes"],
    }


def search(name: str, asked: Sequence[str], seconds: float) -> dict[str, Any]:
    """Open an index and search it, one query at a time and in batches.

    Args:
        name: Name of the retriever.
        asked: The queries.
        seconds: Time for each of the two.

    Returns:
        Seconds to open it and MiB resident then, both with a first query; queries per second.
    """
    before = _memory("VmRSS")
    start = time.perf_counter()
    retriever = open_retriever(name)
    opened = time.perf_counter() - start
    retriever.search(asked[:1], K)
    first = time.perf_counter() - start
    resident = {"rss_mib": _memory("VmRSS"), "anonymous_mib": _memory("RssAnon")}
    find = lambda batch: retriever.search(batch, K)  # noqa: E731
    figures = _rates(find, [[query] for query in asked], _batches(asked), seconds)
    return {
        "open_seconds": round(opened, 3),
        "open_and_first_query_seconds": round(first, 3),
        "rss_before_open_mib": before,
        **resident,
        "rss_after_searches_mib": _memory("VmRSS"),
    } | figures


def beside_bm25s(index: str, asked: Sequence[str], seconds: float) -> dict[str, Any]:
    """Search one and the same index by turns with ours and with bare bm25s.

    Bare means: cut the queries, score, return positions; ours returns passages.

    Args:
        index: Folder of a bm25 index in the style of bm25s, whose files bm25s opens as they are.
        asked: The queries.
        seconds: Time for each of the ways.

    Returns:
        Queries in batches per second of processor time, for each, and the median of our time over
        theirs, batch for batch.
    """
    import bm25s

    data = Path(index) / read_manifest(index, "bm25").data
    ours = open_retriever(f"bm25:{index}")
    backends = ["numpy", *(["numba"] if find_spec("numba") else [])]
    bare = {name: bm25s.BM25.load(data, mmap=True, backend=name) for name in backends}

    def retrieve(name: str, batch: Sequence[str]) -> object:
        tokens = bm25s.tokenize(list(batch), stopwords="en", show_progress=False)
        return bare[name].retrieve(tokens, k=K, show_progress=False)

    ways: dict[str, Search] = {"ours": lambda batch: ours.search(batch, K)}
    for name in backends:
        ways[f"bm25s-{name}"] = lambda batch, name=name: retrieve(name, batch)  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for find in ways.values():
        find(asked[:BATCH])  # maps files, compiles numba
    stop = time.perf_counter() + seconds * len(ways)
    done = 0
    for batch in cycle(_batches(asked)):
        for name, find in ways.items():
            start = time.process_time()
            find(batch)
            times[name].append(time.process_time() - start)
        done += len(batch)
        if time.perf_counter() > stop:
            break
    figures: dict[str, Any] = {
        f"{name}_queries_per_cpu_second": round(done / sum(spent), 1)
        for name, spent in times.items()
    }
    for name in backends:
        ratios = [a / b for a, b in zip(times["ours"], times[f"bm25s-{name}"], strict=True)]
        figures[f"our_time_over_bm25s-{name}"] = round(statistics.median(ratios), 3)
    figures["batches"] = len(times["ours"])
    return figures


def build_bm25s(folder: str) -> dict[str, Any]:
    """Build an index with bare bm25s, from a list of texts to its files."""
    import bm25s

    corpus = StoredPassages(folder)
    start = time.perf_counter()
    texts = [passage.contents for passage in corpus]
    tokens = bm25s.tokenize(texts, stopwords="en", show_progress=False)
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="numpy")
    index.index(tokens, show_progress=False)
    with tempfile.TemporaryDirectory() as out:
        index.save(out)
    return {
        "build_seconds": round(time.perf_counter() - start, 3),
        "build_peak_mib": _memory("VmHWM"),
    }


def vectors(size: int, width: int, factory: str, parameters: str, seconds: float) -> dict[str, Any]:
    """Build and search a FAISS index of made-up unit vectors: its cost without an encoder's.

    Args:
        size: Number of vectors.
        width: Numbers in each.
        factory: FAISS's description of the index.
        parameters: FAISS's search parameters.
        seconds: Time for each way of searching.

    Returns:
        Seconds to build, bytes, queries per second one at a time and in batches.
    """
    from retrieval.dense.index import load_faiss, set_search

    faiss = load_faiss()
    rng = np.random.default_rng(0)
    # Around 1,000 centres, as texts are around topics: without any, lists would mean nothing.
    centres = rng.standard_normal((1000, width), np.float32)
    made = rng.standard_normal((size, width), np.float32) * np.float32(0.7)
    made += centres[rng.integers(0, 1000, size)]
    faiss.normalize_L2(made)
    start = time.perf_counter()
    index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    set_search(index, parameters)
    index.train(made[: 1 << 14])
    index.add(made)
    built = time.perf_counter() - start
    asked = made[rng.integers(0, size, 512)] + np.float32(0.02) * rng.standard_normal(
        (512, width), np.float32
    )
    find = lambda batch: index.search(batch, K)  # noqa: E731
    singles = [asked[i : i + 1] for i in range(512)]
    batches = [asked[i : i + BATCH] for i in range(0, 512, BATCH)]
    return {
        "vectors": size,
        "width": width,
        "build_seconds": round(built, 2),
        "index_bytes": int(faiss.serialize_index(index).nbytes),
        **_rates(find, singles, batches, seconds),
    }


def _rates(
    find: Callable[[Any], object], singles: Sequence[Any], batches: Sequence[Any], seconds: float
) -> dict[str, float]:
    """Queries per second, and per second of processor time, which other processes disturb less."""
    figures = {}
    for name, given in (("single", singles), ("batch", batches)):
        find(given[0])
        done, start, cpu = 0, time.perf_counter(), time.process_time()
        for batch in cycle(given):
            find(batch)
            done += len(batch)
            if time.perf_counter() - start > seconds:
                break
        figures[f"{name}_queries_per_second"] = round(done / (time.perf_counter() - start), 1)
        spent = time.process_time() - cpu
        figures[f"{name}_queries_per_cpu_second"] = round(done / spent, 1)
    return figures


def _batches(asked: Sequence[str]) -> list[Sequence[str]]:
    whole = len(asked) // BATCH * BATCH
    return [asked[i : i + BATCH] for i in range(0, whole, BATCH)]


def _memory(field: str) -> float:
    """A field of this process's status, in MiB."""
    with open(f"/proc/{os.getpid()}/status", encoding="ascii") as lines:
        return next(round(int(x.split()[1]) / 1024, 1) for x in lines if x.startswith(field + ":"))


def main() -> None:
    """Measure what the command line names and write it to standard output."""
    figure, arguments = globals()[sys.argv[1]], json.loads(sys.stdin.read())
    sys.stdout.write("\n" + json.dumps(figure(*arguments)))


if __name__ == "__main__":
    main()
