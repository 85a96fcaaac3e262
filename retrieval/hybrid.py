"""Several retrievers as one, by reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

from retrieval.errors import CorpusMismatchError, SearchArgumentError
from retrieval.protocol import Passage, Retriever, require_k

RANK_CONSTANT = 60
"""Source: Cormack, Clarke & Büttcher 2009, "Reciprocal rank fusion outperforms Condorcet and
individual rank learning methods": k = 60."""


class Hybrid:
    """Fuses rankings: a passage scores the sum of 1 / (60 + rank) over the rankings it is in.

    Args:
        retrievers: Two or more, of the same corpus.
        depth: Least number of passages taken from each; more make the fusion surer, >= 1.

    Attributes:
        retrievers: The retrievers.
        passages: The corpus, where a retriever knows it.

    Raises:
        SearchArgumentError: If there are fewer than two, or `depth` is below 1.
        CorpusMismatchError: If they are of different corpora.
    """

    def __init__(self, retrievers: Sequence[Retriever], *, depth: int = 100) -> None:
        if len(retrievers) < 2 or depth < 1:
            raise SearchArgumentError(
                f"expected two or more retrievers and depth >= 1, found {len(retrievers)} and "
                f"{depth}"
            )
        self.retrievers, self._depth = tuple(retrievers), depth
        corpora = [getattr(retriever, "passages", None) for retriever in retrievers]
        hashes = {known for corpus in corpora if (known := getattr(corpus, "hash", None))}
        if len(hashes) > 1:
            raise CorpusMismatchError(
                f"expected retrievers of one corpus, found the hashes {sorted(hashes)}; build "
                "their indexes from the same passages"
            )
        self.passages: Any = next((corpus for corpus in corpora if corpus is not None), None)

    @cached_property
    def index_hash(self) -> str | None:
        """Hash of the retrievers' hashes; None where one of them has none."""
        hashes = [getattr(retriever, "index_hash", None) for retriever in self.retrievers]
        if None in hashes:
            return None
        return sha256(f"{RANK_CONSTANT} {self._depth} {hashes}".encode()).hexdigest()

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Rank the corpus for each query.

        Args:
            queries: Any texts.
            k: Most passages to return for a query, >= 1.

        Returns:
            For each query its passages, best first; ties go to what an earlier retriever ranked
            better.

        Raises:
            SearchArgumentError: If `k` is below 1.
        """
        require_k(k)
        depth = max(k, self._depth)
        rankings = [retriever.search(queries, depth) for retriever in self.retrievers]
        return [_fuse(found)[:k] for found in zip(*rankings, strict=True)]


def _fuse(rankings: Sequence[Sequence[Passage]]) -> list[Passage]:
    scores: dict[str, float] = {}
    passages: dict[str, Passage] = {}
    for ranking in rankings:
        first: dict[str, int] = {}  # a server may name a passage twice
        for rank, passage in enumerate(ranking, start=1):
            if first.setdefault(passage.id, rank) == rank:
                scores[passage.id] = scores.get(passage.id, 0.0) + 1 / (RANK_CONSTANT + rank)
                passages.setdefault(passage.id, passage)
    # The sort is stable, and a dictionary keeps the order in which its keys came.
    best = sorted(passages.values(), key=lambda passage: -scores[passage.id])
    return [each.scored(scores[each.id]) for each in best]
