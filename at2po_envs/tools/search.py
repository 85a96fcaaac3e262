"""The search tool: queries in, passages out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from at2po_envs.errors import At2poEnvError, ToolResultError, check_integer
from at2po_envs.tools.base import ToolResult, ToolSpec
from retrieval import Passage, RetrievalError, Retriever
from retrieval.http.errors import (
    ReplyFormatError,
    RequestRefusedError,
    ServerFailedError,
    TemporaryRemoteError,
)
from retrieval.http.messages import MAX_QUERY_CHARS
from retrieval.text import to_unicode

_log = logging.getLogger(__name__)

_PLAIN_QUERY = "warm up"  # every retriever answers it, if it answers anything
_FAILED = ToolResult(False, "", "The search tool failed. Try again.")
_TOO_LONG = ToolResult(
    False, "", f"The query is too long: a search takes at most {MAX_QUERY_CHARS} characters."
)
# Errors that one query of a batch may cause; what else a retriever raises on purpose is not theirs.
_MAY_BE_A_QUERYS = (RequestRefusedError, ReplyFormatError, ServerFailedError)

SEARCH = ToolSpec(
    "search",
    "Searches an encyclopedia and returns the passages that fit a query best.",
    {
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to search for."}},
        "required": ["query"],
    },
)


@dataclass(frozen=True)
class SearchTool:
    """Search for passages and write them out in AT²PO's layout; a dialect may use another.

    Args:
        retriever: What is searched.
        top_k: Passages per query, >= 1.
        passage_chars: Characters shown of a passage, its title line included, >= 1.

    Raises:
        ValueError: If a number is below 1.

    Source: ATPO/verl_atpo/verl/workers/rollout/tools/search_tool.py of
    github.com/zzfoutofspace/ATPO at 98e60f6, for both defaults and the layout.
    """

    retriever: Retriever
    top_k: int = 3
    passage_chars: int = 1000

    spec: ClassVar[ToolSpec] = SEARCH
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        check_integer("top_k", self.top_k, 1)
        check_integer("passage_chars", self.passage_chars, 1)

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Search for all queries in one call of the retriever, if it takes them all.

        A query that the retriever cannot answer, be it in this process or a server, costs only its
        own call.

        Args:
            arguments: `{"query": text}` for each search. Lone surrogates are searched for as
                U+FFFD.

        Returns:
            A result for each query.

        Raises:
            RetrievalError: If the corpus itself is missing or malformed, or a server refuses any
                query: no episode could go well.
        """
        # Source: the same file removes quotation marks from the query.
        queries = [to_unicode(str(each["query"])).replace('"', "").strip() for each in arguments]
        fitting = [i for i, query in enumerate(queries) if len(query) <= MAX_QUERY_CHARS]
        results = [_TOO_LONG] * len(queries)
        for i, found in self._search(queries, fitting).items():
            results[i] = _FAILED if found is None else self._result(found)
        return results

    def _search(
        self, queries: Sequence[str], places: list[int]
    ) -> dict[int, Sequence[Passage] | None]:
        """Search for the queries at some places; None is for those that cannot be answered."""
        answers: dict[int, Sequence[Passage] | None] = {}
        parts = [places] if places else []
        while parts:
            part = parts.pop()
            try:
                found = self.retriever.search([queries[i] for i in part], self.top_k)
            except Exception as error:
                on_purpose = isinstance(error, RetrievalError | At2poEnvError)
                if on_purpose and not isinstance(error, _MAY_BE_A_QUERYS):
                    raise
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                    continue
                if not answers:
                    self.retriever.search([_PLAIN_QUERY], self.top_k)  # raises if none is answered
                size, trace = len(queries[part[0]]), None if on_purpose else error
                _log.warning("a query of %d characters failed: %s", size, error, exc_info=trace)
                answers[part[0]] = None
                continue
            if len(found) != len(part):
                raise ToolResultError(f"expected {len(part)} lists of passages, found {len(found)}")
            answers |= zip(part, found, strict=True)
        return answers

    def ready(self, timeout_s: float) -> bool | None:
        """Wait until the retriever can be asked.

        Args:
            timeout_s: Longest wait, in seconds, > 0.

        Returns:
            Whether it can; None for one in this process, which is always there.
        """
        retriever: Any = self.retriever
        if hasattr(retriever, "opened"):
            retriever = retriever.opened()
        if not hasattr(retriever, "wait_until_ready"):
            return None
        try:
            retriever.wait_until_ready(timeout_s)
        except TemporaryRemoteError:
            return False
        return True

    def _result(self, passages: Sequence[Passage]) -> ToolResult:
        # A dict keeps the first of equal passages, and the order.
        unique = {text: p.title for p in passages if (text := p.contents.strip())}
        shown = tuple(text[: self.passage_chars] for text in unique)
        pages = (f"Page {i}: {text}" for i, text in enumerate(shown, 1))
        text = "\n".join(pages) or "No search results found."
        return ToolResult(True, text, titles=tuple(unique.values()), passages=shown)
