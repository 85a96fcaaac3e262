"""Errors of the retrieval package."""

from __future__ import annotations


class RetrievalError(Exception):
    """Base of every error that this package raises on purpose."""


class CorpusNotFoundError(RetrievalError, FileNotFoundError):
    """The corpus file does not exist."""


class CorpusFormatError(RetrievalError, ValueError):
    """A corpus record is not what the wiki-18 format asks for."""


class SearchArgumentError(RetrievalError, ValueError):
    """A retriever was built or called with an argument out of range."""
