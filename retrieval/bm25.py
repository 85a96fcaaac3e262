"""BM25 over passages held in memory, built for many small batches of queries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from retrieval.errors import SearchArgumentError
from retrieval.passages import Passage

# Source: bm25s 0.3 `tokenize(token_pattern=...)`, its default: words of two or more characters.
_WORD = re.compile(r"(?u)\b\w\w+\b")


class BM25:
    """Lucene-style BM25 by ``bm25s``, ranked by score and then by position in the corpus.

    The index is built by ``bm25s``; queries read its score arrays directly, because its own
    ``retrieve`` spends most of a small query on set-up and leaves the order of ties open.

    Args:
        passages: The corpus; titles and texts are both indexed.
        k1: Term-frequency saturation, >= 0.
        b: Length normalisation, in [0, 1].

    Raises:
        SearchArgumentError: If ``k1`` or ``b`` is out of range.

    Source: Kamphuis et al. 2020 (Lucene, accurate); k1 and b are Anserini's defaults.
    """

    def __init__(self, passages: Sequence[Passage], *, k1: float = 0.9, b: float = 0.4) -> None:
        """Index the passages."""
        if not (k1 >= 0 and 0 <= b <= 1):
            raise SearchArgumentError(f"expected k1 >= 0 and 0 <= b <= 1, found k1={k1}, b={b}")
        self.passages = passages
        self._vocabulary: dict[str, int] = {}
        self._index(k1, b)

    def _index(self, k1: float, b: float) -> None:
        import bm25s  # here, because the import takes long and not every user searches

        texts = [passage.contents for passage in self.passages]
        tokens = bm25s.tokenize(
            texts, lower=True, token_pattern=_WORD.pattern, stopwords="en", show_progress=False
        )
        if not any(tokens.ids):
            return  # bm25s cannot index a corpus without a single word
        index = bm25s.BM25(k1=k1, b=b, method="lucene", backend="numpy")
        index.index(tokens, show_progress=False)
        self._vocabulary = tokens.vocab
        self._scores, self._positions = index.scores["data"], index.scores["indices"]
        self._starts = index.scores["indptr"]

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank the corpus for each query.

        Args:
            queries: Any texts; words that the corpus does not know count for nothing.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages with a score above 0, best first; ties are in corpus order.

        Raises:
            SearchArgumentError: If ``k`` is below 1.
        """
        if k < 1:
            raise SearchArgumentError(f"expected k >= 1, found {k}")
        return [self._best(query, k) for query in queries]

    def _best(self, query: str, k: int) -> list[Passage]:
        # A word said n times counts n times. The sums below are of float32 values in float64, so
        # they do not depend on the order of words, and equal passages tie exactly.
        words = Counter(
            token
            for word in _WORD.findall(query.lower())
            if (token := self._vocabulary.get(word)) is not None
        )
        if not words:
            return []
        spans = [
            (slice(self._starts[token], self._starts[token + 1]), count)
            for token, count in words.items()
        ]
        scores = np.bincount(
            np.concatenate([self._positions[span] for span, _ in spans]),
            weights=np.concatenate([self._scores[span] * count for span, count in spans]),
        )
        hits = np.flatnonzero(scores > 0)
        found = scores[hits]
        if len(hits) > k:
            # Everything level with the k-th best stays in, so that the stable sort settles ties.
            keep = found >= np.partition(found, -k)[-k]
            hits, found = hits[keep], found[keep]
        best = np.argsort(-found, kind="stable")[:k]
        return [
            Passage(item.id, item.title, item.text, score)
            for item, score in zip(
                (self.passages[i] for i in hits[best].tolist()), found[best].tolist(), strict=True
            )
        ]
