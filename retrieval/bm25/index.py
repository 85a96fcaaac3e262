"""BM25 over passages in memory or on disk, built for many small batches of queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bm25.postings import TOP, Postings, invert
from retrieval.bm25.scoring import Scoring, Style
from retrieval.corpus.passages import corpus_hash
from retrieval.errors import CorpusMismatchError, IndexFormatError
from retrieval.protocol import Corpus, Passage, require_k
from retrieval.storage.manifest import REBUILD
from retrieval.storage.opening import Built, open_built

# Bounds are sums of rounded numbers; what misses one by less than this may still be a tie.
_SLACK = 1e-6


class BM25:
    """BM25, ranked by score and then by position in the corpus.

    Scores are exact. A common term whose weight, added to those of still commoner ones, cannot
    bring a passage among the best is only looked up for the passages that the rarer terms bring in
    (MaxScore), so most of the long lists are never read.

    Args:
        passages: The corpus; titles and texts are both indexed.
        k1: Term-frequency saturation, in [0, 1000].
        b: Length normalisation, in [0, 1].
        style: `"bm25s"` (its default analyzer) or `"lucene"` (Anserini's English analyzer, and
            Lucene's rounding of lengths and scores).

    Attributes:
        passages: The corpus.
        scoring: The parameters.

    Raises:
        SearchArgumentError: If `k1` or `b` is out of range, or the style is unknown.

    Source: Kamphuis et al. 2020, "Which BM25 Do You Mean?", table 1, Lucene (accurate); Turtle &
    Flood 1995, "Query evaluation: strategies and optimizations", for MaxScore; k1 and b are
    Anserini's defaults.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        style: Style = "bm25s",
    ) -> None:
        self.passages: Sequence[Passage] | Corpus = passages
        self.scoring = Scoring(k1, b, style)
        self._built: Built | None = None
        self._postings = invert(passages, self.scoring)

    @classmethod
    def open(cls, folder: str | Path | Built, passages: Sequence[Passage] | Corpus) -> BM25:
        """Map an index that `build_index` built.

        Args:
            folder: Its folder, or its files if they are open already.
            passages: The corpus that it was built from.

        Returns:
            The retriever.

        Raises:
            IndexFormatError: If the folder is something else, or its files are corrupt.
            CorpusMismatchError: If it has another number of passages.
        """
        built = open_built(folder, "bm25")
        if len(passages) != built.manifest.documents:
            raise CorpusMismatchError(
                f"{built.folder}: expected the {built.manifest.documents} passages that it was "
                f"built from, found {len(passages)}; give its own corpus"
            )
        bm25 = cls.__new__(cls)
        bm25.passages, bm25.scoring, bm25._built = passages, Scoring.of(built), built
        bm25._postings = Postings.load(built)
        bm25.__dict__["index_hash"] = built.manifest.hash
        return bm25

    @cached_property
    def index_hash(self) -> str:
        """Hash of the corpus and of the parameters."""
        return sha256(f"{corpus_hash(self.passages)} {self.scoring}".encode()).hexdigest()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank the corpus for each query.

        Args:
            queries: Any texts; words that the corpus does not know count for nothing.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages with a score above 0, best first; ties are in corpus order.

        Raises:
            SearchArgumentError: If `k` is below 1.
            IndexFormatError: If the files were altered since they were opened.
        """
        require_k(k)
        if self._built is not None:
            self._built.check()
        try:
            return [self._passages(*self._best(query, k)) for query in queries]
        except (IndexError, ValueError) as problem:
            if self._built is None or isinstance(problem, IndexFormatError):
                raise
            raise IndexFormatError(
                f"{self._built.folder}: expected the lists that were built, found {problem}; "
                f"{REBUILD}"
            ) from None

    def _passages(self, hits: NDArray[Any], scores: NDArray[Any]) -> list[Passage]:
        positions = hits.tolist()
        if min(positions, default=0) < 0 or not np.isfinite(scores).all():
            raise IndexError("positions or scores that no index has")
        ranked = zip(positions, scores.tolist(), strict=True)
        return [self.passages[place].scored(score) for place, score in ranked]

    def _best(self, query: str, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Positions and scores of the best passages.

        A word said n times counts n times. Sums are of float32 values in float64, so they do not
        depend on the order of words, and equal passages tie exactly.
        """
        index = self._postings
        known = (index.vocabulary.get(term) for term in self.scoring.terms(query))
        terms = Counter(term for term in known if term is not None)
        # The commonest first: the less its weight, the longer its list.
        ordered = sorted(terms.items(), key=lambda term: float(index.ceilings[term[0]]) * term[1])
        rest, bound, least = self._spared(ordered, k)
        lists = [self._list(*term) for term in ordered[rest:]]
        hits, scores = _sums(lists, least - bound)
        for term in reversed(ordered[:rest]):
            hits, scores = _contenders(hits, scores, k, bound)
            scores = scores + self._look_up(*term, hits)
            bound -= float(index.ceilings[term[0]]) * term[1]
        hits, scores = _contenders(hits, scores, k, 0.0)
        if self.scoring.style == "lucene":
            scores = scores.astype(np.float32)
        best = np.argsort(-scores, kind="stable")[:k]
        return hits[best], scores[best]

    def _spared(self, ordered: Sequence[tuple[int, int]], k: int) -> tuple[int, float, float]:
        """How many of the first terms cannot lift a passage without the others.

        Returns:
            Their number, the most that they add to a score, and what the k best have at least.
        """
        index, bound = self._postings, 0.0
        if k > TOP:
            return 0, bound, 0.0
        # The k best have at least what the k best of any one term have from it alone.
        least = max((float(index.floors[term]) * n for term, n in ordered), default=0.0)
        least *= 1 - _SLACK
        for rest, (term, count) in enumerate(ordered):
            more = bound + float(index.ceilings[term]) * count
            if more >= least:
                return rest, bound, least
            bound = more
        return len(ordered), bound, least

    def _list(self, term: int, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Positions of all passages with a term, and what it adds to their scores."""
        index = self._postings
        start, stop = index.starts[term : term + 2].tolist()
        weights = index.weights[start:stop]
        if count > 1:
            weights = np.multiply(weights, count, dtype=np.float64)
        return index.positions[start:stop], weights

    def _look_up(self, term: int, count: int, hits: NDArray[Any]) -> NDArray[np.float64]:
        """What a term adds to the scores of some passages."""
        index = self._postings
        start, stop = index.starts[term : term + 2].tolist()
        positions = index.positions[start:stop]
        places = np.searchsorted(positions, hits.astype(np.int32))
        places = np.minimum(places, len(positions) - 1)
        weights = np.multiply(index.weights[start + places], count, dtype=np.float64)
        return np.where(positions[places] == hits, weights, 0.0)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle an index on disk as its folder: another process maps the same build of it."""
        if self._built is not None:
            return type(self).open, (self._built, self.passages)
        return super().__reduce_ex__(protocol)


def _sums(
    lists: Sequence[tuple[NDArray[Any], NDArray[Any]]], least: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Add up weights by position.

    Args:
        lists: Positions in ascending order, and weights above 0.
        least: Smaller sums may be left out.

    Returns:
        Positions in ascending order, and sums in float64.
    """
    if not lists:
        return np.empty(0, np.int32), np.empty(0)
    positions = np.concatenate([positions for positions, _ in lists])
    weights = np.concatenate([weights for _, weights in lists])
    if len(lists) == 1:
        return positions, weights.astype(np.float64)
    last = max(int(positions[-1]) for positions, _ in lists)
    if len(positions) * 16 > last:
        if positions.max() > last:  # in a damaged list; it would take memory without bound
            raise ValueError("positions in disorder")
        sums = np.bincount(positions, weights=weights)
        hits = np.flatnonzero(sums >= least if least > 0 else sums)
        return hits, sums[hits]
    # Few passages of a large corpus: sorting them is faster than a number for every passage.
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    first = np.flatnonzero(np.concatenate([[True], positions[1:] != positions[:-1]]))
    return positions[first], np.add.reduceat(weights[order], first, dtype=np.float64)


def _contenders(
    hits: NDArray[Any], scores: NDArray[Any], k: int, bound: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Keep what can still be among the k best, ties included, if it gains `bound` at most."""
    if len(hits) <= k:
        return hits, scores
    least = np.partition(scores, -k)[-k] * (1 - _SLACK) - bound
    keep = scores >= least
    return hits[keep], scores[keep]
