"""Inverting a corpus: for each term the passages that hold it, with its weight in each.

Passages stream through in chunks, so what is held in memory is the vocabulary and a few numbers a
passage. The arrays and files are those of `bm25s`, which can open them; it would build them from
the tokens of the whole corpus in memory, and knows no rounded lengths.
"""

from __future__ import annotations

import hashlib
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
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bm25.scoring import Scoring
from retrieval.errors import IndexFormatError
from retrieval.protocol import Passage
from retrieval.storage.manifest import REBUILD
from retrieval.storage.opening import Built

TOP = 10
"""Rank of the weights in `Postings.floors`."""

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
class Postings:
    """An inverted corpus.

    Attributes:
        vocabulary: Number of each term.
        starts: Where each term's passages start in the arrays below, and where the last ones end.
        positions: Positions of the passages that hold a term, ascending.
        weights: Weights of the term in them.
        ceilings: Largest weight of each term.
        floors: The `TOP`-th largest weight of each term, 0 if fewer passages hold it.
    """

    vocabulary: dict[str, int]
    starts: NDArray[np.int64]
    positions: NDArray[np.int32]
    weights: NDArray[np.float32]
    ceilings: NDArray[np.float32]
    floors: NDArray[np.float32]

    @classmethod
    def load(cls, built: Built) -> Postings:
        """Map the arrays that `invert` wrote; only the vocabulary is read.

        Raises:
            IndexFormatError: If they are not what was built.
        """
        files = built.manifest.files
        try:
            content = (built.path / _VOCABULARY).read_bytes()
            if hashlib.sha256(content).hexdigest() != files[_VOCABULARY]["sha256"]:
                raise ValueError(f"{_VOCABULARY} altered")
            arrays = {
                field: np.asarray(np.load(built.path / name, mmap_mode="r"))
                for field, name in _FILES.items()
            }
            postings = cls(json.loads(content), **arrays)
            postings._require_one_size()
        except (OSError, ValueError, LookupError, EOFError, RecursionError) as problem:
            raise IndexFormatError(
                f"{built.folder}: expected the arrays that were built, found {problem}; {REBUILD}"
            ) from None
        return postings

    def _require_one_size(self) -> None:
        terms, weights = len(self.vocabulary), len(self.weights)
        sizes = [len(each) for each in (self.starts[1:], self.ceilings, self.floors)]
        if sizes != [terms] * 3 or len(self.positions) != weights or self.starts[-1] != weights:
            raise ValueError("arrays of different sizes")


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
