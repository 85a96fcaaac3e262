"""Passage stores and retrievers: text queries in, ranked passages out."""

import importlib
from typing import Any

from retrieval.bm25.index import BM25
from retrieval.building import (
    IndexBuild,
    IndexInfo,
    IndexSearch,
    build_index,
    index_info,
    search_index,
)
from retrieval.corpus.passages import Corpus, Passage, Passages, Retriever
from retrieval.corpus.store import StoredPassages, store_passages
from retrieval.errors import (
    BackendUnavailableError,
    CorpusFormatError,
    CorpusMismatchError,
    CorpusNotFoundError,
    IndexFormatError,
    NotEnoughMemoryError,
    RetrievalError,
    SearchArgumentError,
    UnknownNameError,
)
from retrieval.factory import open_retriever
from retrieval.hybrid import Hybrid

__all__ = [
    "BM25",
    "BackendUnavailableError",
    "CachedRetriever",
    "Corpus",
    "CorpusFormatError",
    "CorpusMismatchError",
    "CorpusNotFoundError",
    "Hybrid",
    "IndexBuild",
    "IndexFormatError",
    "IndexInfo",
    "IndexSearch",
    "NotEnoughMemoryError",
    "Passage",
    "Passages",
    "RemoteRetriever",
    "RetrievalError",
    "Retriever",
    "SearchArgumentError",
    "StoredPassages",
    "UnknownNameError",
    "build_index",
    "create_app",
    "index_info",
    "open_retriever",
    "search_index",
    "store_passages",
]

# Name -> its module, imported when it is first asked for: they need the extra "serve", or sqlite.
_LAZY = {
    "CachedRetriever": "retrieval.cache",
    "RemoteRetriever": "retrieval.http.client",
    "create_app": "retrieval.http.server.app",
}


def __getattr__(name: str) -> Any:
    """Import what is seldom needed when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
