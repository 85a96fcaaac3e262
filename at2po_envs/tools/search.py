"""The search tool: queries in, passages out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from at2po_envs.tools.base import ToolResult, ToolSpec
from retrieval import Passage, Retriever
from retrieval.remote_errors import TemporaryRemoteError

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

    Source: algorithms.md section 6 (both defaults and the layout).
    """

    retriever: Retriever
    top_k: int = 3
    passage_chars: int = 1000

    spec: ClassVar[ToolSpec] = SEARCH
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.top_k < 1 or self.passage_chars < 1:
            raise ValueError(
                "expected top_k >= 1 and passage_chars >= 1, "
                f"found {self.top_k} and {self.passage_chars}"
            )

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Search for all queries in one call of the retriever.

        Args:
            arguments: ``{"query": text}`` for each search.

        Returns:
            A result for each query.

        Raises:
            RetrievalError: If the corpus itself is missing or malformed: no episode could go well.
        """
        # Source: algorithms.md section 6: quotation marks are removed from the query.
        queries = [str(each["query"]).replace('"', "").strip() for each in arguments]
        return [self._result(found) for found in self.retriever.search(queries, self.top_k)]

    def ready(self, patience_s: float) -> bool | None:
        """Wait until the retriever can be asked.

        Args:
            patience_s: Longest wait, in seconds, > 0.

        Returns:
            Whether it can; None for one in this process, which is always there.
        """
        retriever: Any = self.retriever
        if hasattr(retriever, "opened"):
            retriever = retriever.opened()
        if not hasattr(retriever, "wait_until_ready"):
            return None
        try:
            retriever.wait_until_ready(patience_s)
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
