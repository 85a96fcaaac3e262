"""Errors of the retrieval package; each message says what was expected, what was found, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RetrievalError(Exception):
    """Base of every error that this package raises on purpose."""


class CorpusNotFoundError(RetrievalError, FileNotFoundError):
    """The corpus file does not exist."""


class CorpusFormatError(RetrievalError, ValueError):
    """A corpus record is not what the wiki-18 format asks for."""


class SearchArgumentError(RetrievalError, ValueError):
    """A retriever was built or called with an argument out of range."""


class UnknownNameError(RetrievalError, ValueError):
    """A name (of a retriever, an analyzer, a passage) is not known."""


class IndexFormatError(RetrievalError, ValueError):
    """A folder is not the store or index that it should be, or its files are corrupt."""


class CorpusMismatchError(RetrievalError, ValueError):
    """An index was built from another corpus than the one at hand."""


class NotEnoughMemoryError(RetrievalError, MemoryError):
    """Something would need more memory than the machine has free."""


class BackendUnavailableError(RetrievalError, RuntimeError):
    """A library or program that a retriever is made of is missing or failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the part of an error message that names the known name closest to `name`."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f"known: {shown}"
