"""Building a dense index: encode a corpus, train FAISS on a sample, measure what it misses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.dense.encoder import Encoder, EncoderSettings
from retrieval.dense.index import ALTERNATIVES, INDEX_FILE, load_faiss, probe, set_search
from retrieval.dense.vectors import encode_passages
from retrieval.errors import BackendUnavailableError, SearchArgumentError
from retrieval.protocol import Corpus
from retrieval.storage.memory import require_memory

_log = logging.getLogger(__name__)

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class DenseParameters:
    """How a dense index is built and searched.

    Attributes:
        encoder: The encoder.
        factory: FAISS's description of the index: `Flat`, `SQ8`, `HNSW32`, `IVF4096,PQ64`.
        search: FAISS's search parameters: `nprobe=32` or `efSearch=64`; empty for its defaults.
        seed: Of the training sample and of the sampled queries, >= 0.
    """

    encoder: EncoderSettings = EncoderSettings()
    factory: str = "Flat"
    search: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise SearchArgumentError(f"expected a seed in [0, 2^63), found {self.seed}")


def write_dense(
    passages: Corpus,
    folder: Path,
    parameters: DenseParameters,
    *,
    encoder: Encoder,
    vectors: Path | None = None,
) -> dict[str, Any]:
    """Encode a corpus and index its vectors.

    Args:
        passages: The passages.
        folder: Where the index is written to.
        parameters: Encoder and kind of index.
        encoder: The encoder, loaded.
        vectors: Where the passages' vectors are kept, to resume from after a stop or to build
            another index from; None keeps them only meanwhile.

    Returns:
        What was measured: the encoder's probe and, for an approximate index, its recall.

    Raises:
        BackendUnavailableError: If FAISS is missing.
        NotEnoughMemoryError: If the index would not fit; the message names what would.
        SearchArgumentError: If FAISS knows no such index or search parameter.
    """
    faiss = load_faiss()
    index = _empty(faiss, encoder.width, parameters)
    needed = bytes_per_passage(faiss, index) * len(passages)
    require_memory(needed, f"a {parameters.factory} index", ALTERNATIVES)
    path = vectors or folder / "vectors.bin"
    encoded = encode_passages(passages, encoder, path)
    _train(faiss, index, encoded, parameters.seed)
    for start in range(0, len(encoded), _CHUNK):
        index.add(np.ascontiguousarray(encoded[start : start + _CHUNK]))
    _save(faiss, index, folder / INDEX_FILE)
    facts: dict[str, Any] = {"probe": probe(encoder), "width": encoder.width}
    if parameters.factory != "Flat" and len(passages):
        facts["recall"] = _recall(index, encoded, encoder, passages, parameters.seed)
        _log.info(
            "%s finds %.1f %% of the %d best that Flat finds (%d sampled queries)",
            parameters.factory,
            100 * facts["recall"]["recall"],
            facts["recall"]["k"],
            facts["recall"]["queries"],
        )
    if vectors is None:
        path.unlink()
    return facts


def bytes_per_passage(faiss: Any, index: Any) -> int:
    """Estimate what a passage takes in an index, from its code, its links and its id."""
    if hasattr(index, "hnsw"):
        links = int(index.hnsw.cum_nb_neighbors(1)) * 4
        return bytes_per_passage(faiss, faiss.downcast_index(index.storage)) + links + 12
    if isinstance(index, faiss.IndexPreTransform):
        return bytes_per_passage(faiss, faiss.downcast_index(index.index))
    inverted = isinstance(index, faiss.IndexIVF)
    return int(index.code_size) + 8 if inverted else int(index.sa_code_size())


def _empty(faiss: Any, width: int, parameters: DenseParameters) -> Any:
    try:
        index = faiss.index_factory(width, parameters.factory, faiss.METRIC_INNER_PRODUCT)
        set_search(index, parameters.search)
    except RuntimeError as problem:
        raise SearchArgumentError(
            f"expected an index and search parameters that FAISS knows for vectors of {width} "
            f"numbers, found {parameters.factory!r} and {parameters.search!r} ({problem}); for "
            "example Flat, SQ8, HNSW32 with efSearch=64, IVF4096,PQ64 with nprobe=32"
        ) from None
    return index


def _save(faiss: Any, index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as problem:
        raise BackendUnavailableError(
            f"{path}: expected FAISS to write the index, found {problem}; make room on the disk"
        ) from None


def _train(faiss: Any, index: Any, vectors: NDArray[np.float32], seed: int) -> None:
    if index.is_trained:
        return
    lists = getattr(index, "nlist", 0)
    # Source: FAISS, `faiss/Clustering.h`: 39 to 256 vectors a centroid; codebooks have 256.
    size = min(len(vectors), 64 * max(lists, 1024))
    if size < 39 * max(lists, 1):
        _log.warning("%d passages are few to train %d lists: use fewer", len(vectors), lists)
    chosen = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    chosen.sort()
    try:
        index.train(np.ascontiguousarray(vectors[chosen]))
    except RuntimeError as problem:
        raise SearchArgumentError(
            f"expected enough passages to train the index, found {len(vectors)} ({problem}); use "
            "Flat, SQ8 or HNSW32, or fewer lists"
        ) from None


def _recall(
    index: Any, vectors: NDArray[np.float32], encoder: Encoder, passages: Corpus, seed: int
) -> dict[str, Any]:
    """How many of the best by exact search the index finds, for titles as queries."""
    rng = np.random.default_rng(seed)
    sample = rng.choice(len(passages), min(200, len(passages)), replace=False)
    k = min(10, len(passages))
    queries = encoder.encode([passages[i].title for i in sample.tolist()], "query")
    best_scores = np.empty((len(queries), 0), np.float32)
    best = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), 1 << 16):
        scores = queries @ vectors[start : start + (1 << 16)].T
        places = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best = np.concatenate([best, places], axis=1)
        keep = np.argpartition(-best_scores, min(k, best.shape[1]) - 1, axis=1)[:, :k]
        best_scores = np.take_along_axis(best_scores, keep, axis=1)
        best = np.take_along_axis(best, keep, axis=1)
    _, found = index.search(queries, k)
    hits = sum(len(set(a) & set(b)) for a, b in zip(found.tolist(), best.tolist(), strict=True))
    return {"k": k, "queries": len(queries), "recall": round(hits / best.size, 4)}
