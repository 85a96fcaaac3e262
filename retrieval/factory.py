"""One function that opens any retriever by a short name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from retrieval.bm25.index import BM25
from retrieval.corpus.passages import Passages
from retrieval.corpus.sources import open_passages
from retrieval.corpus.store import StoredPassages
from retrieval.errors import CorpusMismatchError, UnknownNameError, nearest
from retrieval.hybrid import Hybrid
from retrieval.protocol import Corpus, Retriever
from retrieval.storage.opening import Built, open_built

_EXAMPLES = (
    "bm25:FOLDER, dense:FOLDER, lucene:FOLDER, hybrid:bm25:FOLDER+dense:FOLDER, http://HOST:PORT"
)


def open_retriever(name: str, *, corpus: str | Path | None = None) -> Retriever:
    """Open a retriever.

    Args:
        name: `bm25:FOLDER`, `dense:FOLDER`, `lucene:FOLDER` (built by `build_index`),
            `hybrid:A+B` (two or more of the others), `http://HOST:PORT` (a server;
            `#HASH` behind it names the index that it must serve), or
            `bm25:FILE` for a small corpus file, which is indexed in memory.
            `dense-mapped:FOLDER` leaves the index on the disk.
        corpus: Passages in a folder or file; None takes those that the index names.

    Returns:
        The retriever.

    Raises:
        UnknownNameError: If there is no such kind of retriever.
        CorpusMismatchError: If the index was built from another corpus.
        RetrievalError: If it cannot be opened; the message says why and what to do.
    """
    kind, _, rest = name.partition(":")
    if kind in ("http", "https"):
        from retrieval.http.client import RemoteRetriever

        url, _, index_hash = name.partition("#")
        return RemoteRetriever(url, index_hash=index_hash or None)
    if kind not in _OPENERS or not rest:
        raise UnknownNameError(
            f"expected a retriever such as {_EXAMPLES}, found {name!r}; "
            f"{nearest(kind, [*_OPENERS, 'http', 'https'])}"
        )
    return _OPENERS[kind](rest, corpus)


def passages_of(folder: str | Path | Built, corpus: str | Path | None = None) -> Corpus:
    """Open the corpus of an index.

    Args:
        folder: The index.
        corpus: Its passages in a folder or file; None takes those of the index.

    Returns:
        The passages.

    Raises:
        CorpusMismatchError: If the index was built from others.
    """
    built = open_built(folder)
    passages = StoredPassages(built) if corpus is None else open_passages(corpus)
    manifest = built.manifest
    if passages.hash != manifest.corpus:
        raise CorpusMismatchError(
            f"{built.folder}: expected the corpus that it was built from, {manifest.corpus[:12]} "
            f"with {manifest.documents} passages, found {passages.hash[:12]} with "
            f"{len(passages)}; build the index again, or give its own corpus"
        )
    return passages


def _bm25(place: str, corpus: str | Path | None) -> Retriever:
    if Path(place).is_file():
        return BM25(Passages.from_jsonl(place))
    built = open_built(place, "bm25")
    return BM25.open(built, passages_of(built, corpus))


def _dense(place: str, corpus: str | Path | None, mapped: bool = False) -> Retriever:
    from retrieval.dense.index import Dense

    built = open_built(place, "dense")
    return Dense(built, passages_of(built, corpus), mapped=mapped)


def _lucene(place: str, corpus: str | Path | None) -> Retriever:
    from retrieval.lucene.index import Lucene

    built = open_built(place, "lucene")
    return Lucene(built, passages_of(built, corpus))


def _hybrid(parts: str, corpus: str | Path | None) -> Retriever:
    # A "+" may be in a path; what starts a part is the name of a kind behind it.
    kinds = "|".join([*_OPENERS, "https?"])
    names = re.split(rf"\+(?=(?:{kinds}):)", parts)
    return Hybrid([open_retriever(name, corpus=corpus) for name in names])


_OPENERS: dict[str, Callable[[str, str | Path | None], Retriever]] = {
    "bm25": _bm25,
    "dense": _dense,
    "dense-mapped": partial(_dense, mapped=True),
    "lucene": _lucene,
    "hybrid": _hybrid,
}
