"""Passage stores and retrievers: text queries in, ranked passages out."""

from retrieval.bm25 import BM25
from retrieval.errors import CorpusFormatError, CorpusNotFoundError, RetrievalError
from retrieval.passages import Passage, Passages, Retriever

__all__ = [
    "BM25",
    "CorpusFormatError",
    "CorpusNotFoundError",
    "Passage",
    "Passages",
    "RetrievalError",
    "Retriever",
]
