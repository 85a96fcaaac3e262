"""Dense retrieval: FAISS over the vectors of an encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.dense.encoder import Encoder, EncoderSettings
from retrieval.errors import BackendUnavailableError, IndexFormatError
from retrieval.extras import require
from retrieval.protocol import Corpus, Passage, require_k
from retrieval.storage.manifest import REBUILD, Manifest, parameters_of
from retrieval.storage.memory import require_memory
from retrieval.storage.opening import Built, open_built

_log = logging.getLogger(__name__)

INDEX_FILE = "index.faiss"
_PROBE = "Who wrote the first program for a machine?"
ALTERNATIVES = (
    "a smaller index (--factory SQ8 takes a quarter of Flat, IVF4096,PQ64 about a fortieth), "
    "`mapped=True`, which reads from the disk, a bm25 index, or http:// to a larger machine"
)


class Dense:
    """FAISS by inner product of unit vectors, ranked by score and then by position.

    Args:
        folder: Folder of an index of kind `dense`, or its files if they are open already.
        passages: The corpus that it was built from.
        mapped: Leave the index on the disk and let the system cache what is read of it.
        encoder: The encoder that built it; None loads the one that the index names.

    Attributes:
        passages: The corpus.
        index_hash: Hash of the index.

    Raises:
        BackendUnavailableError: If FAISS or the encoder is missing.
        IndexFormatError: If the folder is something else, or its files are corrupt, or the
            encoder is another one.
        NotEnoughMemoryError: If it does not fit; the message names what would.
    """

    def __init__(
        self,
        folder: str | Path | Built,
        passages: Corpus,
        *,
        mapped: bool = False,
        encoder: Encoder | None = None,
    ) -> None:
        faiss = load_faiss()
        self._built, self._mapped = open_built(folder, "dense"), mapped
        manifest, place = self._built.manifest, self._built.folder
        self.passages, self.index_hash = passages, manifest.hash
        settings, search = parameters_of(manifest, place, _parameters)
        path = self._built.path / INDEX_FILE
        if INDEX_FILE not in manifest.files:
            raise IndexFormatError(f"{path}: expected an index, found none; {REBUILD}")
        if not mapped:
            require_memory(manifest.files[INDEX_FILE]["bytes"], f"the index {place}", ALTERNATIVES)
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_MMAP_IFC if mapped else 0
        self._encoder = encoder or Encoder(settings)
        try:
            self._index = faiss.read_index(str(path), flags)
            set_search(self._index, search)
        except (RuntimeError, MemoryError) as problem:
            raise IndexFormatError(
                f"{path}: expected an index that FAISS reads, found {problem}; {REBUILD}"
            ) from None
        self._index = _on_gpus(self._index)
        _check(self._encoder, manifest)

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank the corpus for each query.

        Args:
            queries: Any texts.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages, best first; an approximate index may miss some.

        Raises:
            SearchArgumentError: If `k` is below 1.
            IndexFormatError: If the files were altered since they were opened.
        """
        require_k(k)
        self._built.check()
        if not queries or not len(self.passages):
            return [[] for _ in queries]
        vectors = self._encoder.encode(queries, "query")
        scores, positions = self._index.search(vectors, min(k, len(self.passages)))
        if positions.max() >= len(self.passages):
            raise IndexFormatError(
                f"{self._built.folder}: expected positions in the corpus, found others; {REBUILD}"
            )
        return [self._ranked(*row) for row in zip(scores, positions, strict=True)]

    def _ranked(self, scores: NDArray[Any], positions: NDArray[Any]) -> list[Passage]:
        order = np.lexsort((positions, -scores))
        ranked = zip(positions[order].tolist(), scores[order].tolist(), strict=True)
        # Position -1 stands for nothing found.
        return [self.passages[place].scored(score) for place, score in ranked if place >= 0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the folder: another process loads the same build of it."""
        return partial(type(self), mapped=self._mapped), (self._built, self.passages)


def load_faiss() -> Any:
    """Import FAISS, which is an extra.

    Raises:
        BackendUnavailableError: If it is not installed.
    """
    require("faiss", "a dense index (faiss-gpu for a GPU)", BackendUnavailableError)
    import faiss

    return faiss


def set_search(index: Any, search: str) -> None:
    """Set FAISS's search parameters, written as `name=value,name=value`."""
    if search:
        load_faiss().ParameterSpace().set_index_parameters(index, search)


def _on_gpus(index: Any) -> Any:
    """Spread an index over the GPUs in half precision, where FAISS has them and knows how."""
    faiss = load_faiss()
    if not hasattr(faiss, "index_cpu_to_all_gpus") or not faiss.get_num_gpus():
        return index
    options = faiss.GpuMultipleClonerOptions()
    options.shard, options.useFloat16 = True, True
    try:
        return faiss.index_cpu_to_all_gpus(index, co=options)
    except RuntimeError as problem:
        _log.warning("the index stays on the CPU: %s", problem)
        return index


def probe(encoder: Encoder) -> list[float]:
    """The first numbers of a vector that tells one encoder from another."""
    return [round(float(number), 4) for number in encoder.encode([_PROBE], "query")[0, :8]]


def _parameters(kept: dict[str, Any]) -> tuple[EncoderSettings, str]:
    search = kept["search"]
    if not isinstance(search, str):
        raise TypeError(f"search = {search!r}")
    return EncoderSettings(**kept["encoder"]), search


def _check(encoder: Encoder, manifest: Manifest) -> None:
    expected, width = manifest.facts.get("probe"), manifest.facts.get("width")
    found = probe(encoder)
    try:
        alike = encoder.width == width and np.allclose(found, np.array(expected, float), atol=0.01)
    except (TypeError, ValueError):  # another version may have written anything
        alike = False
    if not alike:
        raise IndexFormatError(
            f"expected the encoder that built the index ({manifest.parameters['encoder']}), found "
            "one that gives other vectors; restore its files, or build the index again"
        )
