"""Inverting a corpus: for each term the passages that hold it, with its weight in each.

Passages stream through in chunks, so what is held in memory is the vocabulary and a few numbers a
passage. The arrays and files are those of ``bm25s``, which can open them; it would build them from
the tokens of the whole corpus in memory, and knows no rounded lengths.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.analysis import analyzer
from retrieval.errors import SearchArgumentError
from retrieval.passages import Passage

Style = Literal["bm25s", "lucene"]
"""``bm25s``: its analyzer and exact lengths. ``lucene``: what Anserini's Lucene computes."""

TOP = 10
"""Rank of the weights in ``Postings.floors``."""

_CHUNK = 16_384
_SPILL_BYTES = 64 * 2**20
_FILES = {
    "weights": "data.csc.index.npy",
    "positions": "indices.csc.index.npy",
    "starts": "indptr.csc.index.npy",
    "ceilings": "ceilings.npy",
    "floors": "floors.npy",
}
_VOCABULARY, _PARAMETERS = "vocab.index.json", "params.index.json"


@dataclass(frozen=True, slots=True)
class Scoring:
    """How terms are cut and weighed.

    Attributes:
        k1: Term-frequency saturation, >= 0.
        b: Length normalisation, in [0, 1].
        style: Whose analyzer and arithmetic.
    """

    k1: float = 0.9
    b: float = 0.4
    style: Style = "bm25s"

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        if not (self.k1 >= 0 and 0 <= self.b <= 1):
            raise SearchArgumentError(
                f"expected k1 >= 0 and 0 <= b <= 1, found k1={self.k1}, b={self.b}"
            )
        if self.style not in get_args(Style):
            raise SearchArgumentError(f"expected a style of {get_args(Style)}, found {self.style}")

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, repeated as often as they occur."""
        return analyzer("english" if self.style == "lucene" else "words")(text)

    def weights(
        self, counts: NDArray[Any], lengths: NDArray[Any], mean: float, idf: NDArray[Any]
    ) -> NDArray[np.float32]:
        """Weigh terms in passages.

        Args:
            counts: How often the term is in the passage.
            lengths: Terms of the passage.
            mean: Mean length of the corpus.
            idf: Inverse document frequency of the term.

        Returns:
            The weights, in the shape of the arguments.

        Source: Kamphuis et al. 2020 ("Lucene, accurate"), with the order of operations of ``bm25s``
        0.3, and that of Lucene 9 `BM25Similarity` in single precision for style ``lucene``.
        """
        if self.style == "bm25s":
            saturation = self.k1 * ((1 - self.b) + self.b * lengths / mean)
            return np.asarray(idf * (counts / (saturation + counts)), np.float32)
        one, k1, b = np.float32(1), np.float32(self.k1), np.float32(self.b)
        rounded = byte_lengths(lengths).astype(np.float32)
        with np.errstate(divide="ignore"):  # with k1 = 0 a term counts in full wherever it is
            inverse = one / (k1 * ((one - b) + b * rounded / np.float32(mean)))
        return np.asarray(idf - idf / (one + counts.astype(np.float32) * inverse), np.float32)


def byte_lengths(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Round lengths as Lucene does, which keeps them in one byte.

    Args:
        lengths: Numbers of terms, >= 0.

    Returns:
        Up to 40 the number itself; above, 24 more than a number of four significant bits.

    Source: Lucene 9 `SmallFloat.intToByte4` and `byte4ToInt`.
    """
    above = np.maximum(np.asarray(lengths, np.int64) - 24, 0)
    shift = np.maximum(np.frexp(above)[1] - 4, 0)
    return np.where(lengths < 24, lengths, 24 + (above >> shift << shift))


@dataclass(frozen=True, slots=True)
class Postings:
    """An inverted corpus.

    Attributes:
        vocabulary: Number of each term.
        starts: Where each term's passages start in the arrays below, and where the last ones end.
        positions: Positions of the passages that hold a term, ascending.
        weights: Weights of the term in them.
        ceilings: Largest weight of each term.
        floors: The ``TOP``-th largest weight of each term, 0 if fewer passages hold it.
    """

    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    weights: NDArray[np.float32]
    ceilings: NDArray[np.float32]
    floors: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> Postings:
        """Map the arrays that `invert` wrote to a folder; only the vocabulary is read."""
        vocabulary = json.loads((folder / _VOCABULARY).read_text(encoding="utf-8"))
        arrays = {
            field: np.asarray(np.load(folder / name, mmap_mode="r"))
            for field, name in _FILES.items()
        }
        return cls(vocabulary, **arrays)


def invert(passages: Iterable[Passage], scoring: Scoring, folder: Path | None = None) -> Postings:
    """Invert a corpus.

    Args:
        passages: The passages, read once; titles and texts are both indexed.
        scoring: How terms are cut and weighed.
        folder: Where the arrays are written to; None keeps them in memory.

    Returns:
        The inverted corpus.
    """
    with tempfile.SpooledTemporaryFile(
        _SPILL_BYTES, dir=None if folder is None else str(folder)
    ) as spill:
        vocabulary, lengths = _count(passages, scoring, spill)
        postings = _weigh(vocabulary, np.frombuffer(lengths, np.int32), scoring, spill, folder)
    if folder is not None:
        # What bm25s reads beside the arrays.
        parameters = {"k1": scoring.k1, "b": scoring.b, "delta": 0.5, "method": "lucene"}
        numbers = {"dtype": "float32", "int_dtype": "int32", "num_docs": len(lengths)}
        text = json.dumps({**parameters, **numbers, "backend": "numpy"})
        (folder / _PARAMETERS).write_text(text, encoding="utf-8")
        (folder / _VOCABULARY).write_text(json.dumps(vocabulary), encoding="utf-8")
    return postings


def _count(
    passages: Iterable[Passage], scoring: Scoring, spill: IO[bytes]
) -> tuple[dict[str, int], array[int]]:
    """Write (terms, positions, counts) of chunk after chunk, each by term and then position."""
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # an unseen term gets the next number
    lengths = array("i")
    stream = iter(passages)
    while chunk := list(islice(stream, _CHUNK)):
        numbers, first = array("i"), len(lengths)
        for passage in chunk:
            terms = scoring.terms(passage.contents)
            numbers.extend([vocabulary[term] for term in terms])
            lengths.append(len(terms))
        places = np.repeat(np.arange(len(chunk)), lengths[first:])
        keys, counts = np.unique(
            np.frombuffer(numbers, np.int32) * np.int64(_CHUNK) + places, return_counts=True
        )
        np.save(spill, np.stack([keys // _CHUNK, keys % _CHUNK + first, counts]).astype(np.int32))
    return dict(vocabulary), lengths


def _weigh(
    vocabulary: dict[str, int],
    lengths: NDArray[np.int32],
    scoring: Scoring,
    spill: IO[bytes],
    folder: Path | None,
) -> Postings:
    """Move what was counted to its place in the arrays, weighed."""
    holding = np.zeros(len(vocabulary), np.int64)
    for terms, _, _ in _spilled(spill, len(lengths)):
        holding += np.bincount(terms, minlength=len(vocabulary))
    # Lucene's statistics are of the passages that hold any term at all.
    documents = np.count_nonzero(lengths) if scoring.style == "lucene" else len(lengths)
    mean = float(lengths.sum(dtype=np.int64) / max(1, documents))
    idf = np.array(
        [math.log(1 + (documents - n + 0.5) / (n + 0.5)) for n in holding.tolist()], np.float32
    )
    starts = np.concatenate([[0], np.cumsum(holding)])
    positions = _array(folder, "positions", np.int32, int(starts[-1]))
    weights = _array(folder, "weights", np.float32, int(starts[-1]))
    free = starts[:-1].copy()
    for terms, places, counts in _spilled(spill, len(lengths)):
        runs, sizes = np.unique(terms, return_counts=True)
        rank = np.arange(len(terms)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        target = free[terms] + rank
        positions[target] = places
        weights[target] = scoring.weights(counts, lengths[places], mean, idf[terms])
        free[runs] += sizes
    ceilings = _array(folder, "ceilings", np.float32, len(vocabulary))
    floors = _array(folder, "floors", np.float32, len(vocabulary))
    if len(vocabulary):
        ceilings[:] = np.maximum.reduceat(weights, starts[:-1])
    floors[:] = 0
    for term in np.flatnonzero(holding >= TOP).tolist():
        floors[term] = np.partition(weights[starts[term] : starts[term + 1]], -TOP)[-TOP]
    written = _array(folder, "starts", np.int64, len(starts))
    written[:] = starts
    return Postings(vocabulary, written, positions, weights, ceilings, floors)


def _spilled(spill: IO[bytes], documents: int) -> Iterator[NDArray[np.int32]]:
    spill.seek(0)
    for _ in range(0, documents, _CHUNK):
        yield np.load(spill)


def _array(folder: Path | None, field: str, dtype: Any, size: int) -> NDArray[Any]:
    if folder is None:
        return np.empty(size, dtype)
    path = folder / _FILES[field]
    mapped = np.lib.format.open_memmap(path, "w+", dtype, (size,))
    with path.open("r+b") as file:
        # Takes the room now: on a full disk a write to the map would kill the process.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return np.asarray(mapped)
