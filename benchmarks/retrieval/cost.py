"""What 21 million passages would cost, from what was measured on the data pack's corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DOCUMENTS = 21_015_324
"""Passages of wiki-18, Source: DPR (Karpukhin et al. 2020)."""
WIDTH = 768
"""Numbers in a vector of E5-base."""
_TERM_BYTES = 150  # of a Python dictionary for a term of some eight letters and its number
_FACTORIES = {
    "Flat": 4 * WIDTH,
    "SQ8": WIDTH,
    "HNSW32": 4 * WIDTH + 64 * 4 + 12,
    "IVF65536,PQ64": 64 + 8,
}

ASSUMPTIONS = (
    "passages, and what they hold, are like those of the data pack's corpus",
    "disk: bytes a passage as measured; a posting takes 8 bytes",
    "vocabulary: grows by the power law that the data pack's corpus follows from half to all of it",
    "RAM of bm25: the vocabulary and two numbers a term; the arrays are mapped, and what the page "
    "cache keeps of them makes searches faster",
    "latency of bm25: a query's lists grow with the corpus, so its time does, from the page cache",
    "RAM of dense: the whole index; bytes a vector by FAISS's own count for vectors of 768 numbers",
    "latency of dense: Flat and SQ8 read every vector, so in proportion to number and width; a "
    "graph takes the logarithm of the number; of lists the same share is read (nprobe / lists = "
    "1 / 64); the encoder comes on top",
    "on the machine named under environment",
)


def cost_table(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """Forecast disk, RAM and latency.

    Args:
        measured: Figures of the data pack's corpus, by name.

    Returns:
        Rows in GiB and milliseconds a query, and the assumptions; None without the figures.
    """
    needed = {"passages", "bm25 build", "bm25 search", "vocabulary"}
    if not needed <= measured.keys():
        return None
    stored = measured["passages"]
    growth = DOCUMENTS / stored["passages"]
    rows = {"passages store": {"disk_gib": _gib(stored["bytes"] * growth), "ram_gib": 0.0}}
    terms = _vocabulary(measured["vocabulary"]["terms_by_passages"])
    for name in ("bm25", "bm25-lucene"):
        if f"{name} build" in measured and f"{name} search" in measured:
            rows[name] = {
                "disk_gib": _gib(measured[f"{name} build"]["index_bytes"] * growth),
                "ram_gib": _gib(terms * (_TERM_BYTES + 16)),
                "milliseconds": _milliseconds(measured[f"{name} search"]) * growth,
            }
    graph = math.log(DOCUMENTS) / math.log(stored["passages"])
    faiss = {"Flat": "Flat", "SQ8": "SQ8", "HNSW32": "HNSW32", "IVF65536,PQ64": "IVF256,PQ48"}
    for factory, alike in faiss.items():
        if f"faiss {alike}" in measured:
            figure = measured[f"faiss {alike}"]
            wider = WIDTH / figure["width"]
            factor = graph if factory == "HNSW32" else growth
            rows[f"dense {factory}"] = {
                "disk_gib": _gib(_FACTORIES[factory] * DOCUMENTS),
                "ram_gib": _gib(_FACTORIES[factory] * DOCUMENTS),
                "milliseconds": _milliseconds(figure) * wider * factor,
            }
    rounded = {
        name: {key: float(f"{value:.3g}") for key, value in row.items()}
        for name, row in rows.items()
    }
    return {"documents": DOCUMENTS, "terms": round(terms), "rows": rounded, "assume": ASSUMPTIONS}


def _vocabulary(terms_by_passages: Mapping[str, int]) -> float:
    """Terms of the large corpus by Heaps' law, through two measured points."""
    points = sorted((int(passages), terms) for passages, terms in terms_by_passages.items())
    (n1, v1), (n2, v2) = points[len(points) // 2 - 1], points[-1]
    exponent = math.log(v2 / v1) / math.log(n2 / n1)
    return float(v2 * (DOCUMENTS / n2) ** exponent)


def _milliseconds(figure: Mapping[str, Any]) -> float:
    return 1000 / float(figure["single_queries_per_cpu_second"])


def _gib(size: float) -> float:
    return size / 2**30
