"""What goes over the wire: Search-R1's documents, and who a server says it is."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retrieval.errors import SearchArgumentError
from retrieval.protocol import Passage, Retriever, title_and_text
from retrieval.text import to_unicode

# Header of a reply that names the index it came from, so that a client can check every reply.
INDEX_HEADER = "X-At2po-Index"

TOKEN_VARIABLE = "AT2PO_SERVER_TOKEN"
"""Environment variable that holds a server's bearer token; none is asked for where it is unset."""

# Longest query in characters, of servers and of search tools alike, so that where a retriever runs
# does not decide which queries it answers. Models write some hundred.
MAX_QUERY_CHARS = 32_768

_TOKEN = re.compile(r"[^\s\x00-\x1f\x7f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a server serves.

    Attributes:
        retriever: Kind of the retriever.
        index_hash: Hash of the index; None where the retriever knows none.
        documents: Number of passages; None where the retriever does not say.
    """

    retriever: str
    index_hash: str | None = None
    documents: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one request; what exceeds them is refused with a 4xx that names the bound.

    Attributes:
        max_queries: Most queries in a request, >= 1.
        max_query_chars: Most characters of a query, >= 1.
        max_topk: Largest `topk`, >= 1.
        max_body_bytes: Most bytes of a request's body, >= 1.
    """

    max_queries: int = 512
    max_query_chars: int = MAX_QUERY_CHARS
    max_topk: int = 100
    max_body_bytes: int = 4 * 2**20

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            if not isinstance(number, int) or number < 1:
                raise SearchArgumentError(f"expected {name} to be a number >= 1, found {number!r}")


def is_token(text: str) -> bool:
    """Say whether a text can be sent as a bearer token, in UTF-8, and arrives as it is."""
    return bool(_TOKEN.fullmatch(text))


def describe(retriever: Retriever) -> Identity:
    """Say what a retriever is, as far as its attributes `index_hash` and `passages` tell."""
    inner = getattr(retriever, "retriever", retriever)  # what a cache is in front of
    passages = getattr(inner, "passages", None)
    return Identity(
        retriever=type(inner).__name__,
        index_hash=getattr(inner, "index_hash", None),
        documents=None if passages is None else len(passages),
    )


def to_document(passage: Passage) -> dict[str, str]:
    r"""Return a passage as Search-R1's document: `{"id": ..., "contents": "\"Title\"\ntext"}`."""
    return {"id": to_unicode(passage.id), "contents": to_unicode(passage.contents)}


def to_result(found: Sequence[Passage], return_scores: bool) -> list[dict[str, Any]]:
    """Return one query's passages as Search-R1 sends them, with or without the score around."""
    if return_scores:
        return [{"document": to_document(each), "score": float(each.score)} for each in found]
    return [to_document(each) for each in found]


def from_result(item: Any) -> Passage:
    """Read one document, with or without the score around it.

    Args:
        item: `{"document": {...}, "score": finite number}` or the document itself. A document
            needs `contents`; one without an `id`, as Search-R1's BM25 server sends them, is
            named by the hash of its contents. Contents without a title line have an empty title.

    Returns:
        The passage; its score is 0 if none was sent.

    Raises:
        ValueError: If this is no document; the message says what was found.
    """
    scored = isinstance(item, Mapping) and "document" in item
    document, score = (item["document"], item.get("score")) if scored else (item, 0.0)
    contents = document.get("contents") if isinstance(document, Mapping) else None
    if not isinstance(contents, str):
        raise ValueError(f"expected a document with a text in 'contents', found {document!r:.200}")
    if not _is_score(score):
        raise ValueError(f"expected a finite number in 'score', found {score!r:.200}")
    name = document.get("id")
    if not isinstance(name, str | int):
        name = hashlib.sha256(contents.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Passage(to_unicode(str(name)), *title_and_text(to_unicode(contents)), float(score))


def _is_score(score: Any) -> bool:
    if isinstance(score, bool) or not isinstance(score, int | float):
        return False
    try:
        return math.isfinite(score)
    except OverflowError:  # a whole number of hundreds of digits
        return False
